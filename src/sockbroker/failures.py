"""The errors of io.sockbroker: which one a call ends with, and whom a call concerns.

One place says what a peer is told, so that it is the same whatever he called: who has no rule gets
one answer, and what the disk or the kernel says becomes an error of the interface here alone.
"""

from __future__ import annotations

import errno

from sockbroker.core.names import is_app_name, is_user_id
from sockbroker.core.service import STANDARD, Failure
from sockbroker.interfaces import INTERFACE
from sockbroker.kernel.obstacles import LimitReached, NoSuchDirectory, Obstructed
from sockbroker.session import Session

SCARCE = {
    errno.ENOSPC: "space",
    errno.EDQUOT: "space",
    errno.ENOMEM: "memory",
    errno.EMFILE: "descriptors",
    errno.ENFILE: "descriptors",
    errno.EMLINK: "directories",
}
"""What runs out, by the error number that tells it; how much there is, nobody here knows."""

ECHOED = 64
"""Characters of a name that is none, as far as an error sends it back."""


def failure(error: str, **parameters: object) -> Failure:
    """Return an error of io.sockbroker."""
    return Failure(f"{INTERFACE}.{error}", parameters)


def denied(app: str, uid: int) -> Failure:
    """Return the one answer for whoever has no rule, be the app known or not."""
    return failure(
        "Denied",
        app=app,
        reason=f"uid {uid} may not have this; an operator finds the rule that decides in the log of"
        " sockbrokerd (journalctl -u sockbroker)",
    )


def permission_denied() -> Failure:
    """Return what others than operators get for what only operators may call."""
    return Failure(f"{STANDARD}.PermissionDenied", {})


def from_fault(error: Exception, path: str) -> Failure:
    """Return what a peer is told when the disk did not let a call about `path` be done.

    Raises the fault again if it is none of the expected ones.
    """
    match error:
        case Obstructed():
            return failure("Obstructed", path=error.path, reason=error.reason)
        case LimitReached():
            return failure("LimitReached", resource=error.resource, limit=error.limit)
        case NoSuchDirectory():
            return failure("NoSuchDirectory", app=path.split("/")[-2], uid=error.uid)
        case OSError(errno=number) if number in SCARCE:
            return failure("LimitReached", resource=SCARCE[number], limit=0)
        case OSError():
            return failure("Obstructed", path=path, reason=error.strerror or str(error))
        case _:
            raise error


def whom(session: Session, app: object, uid: object) -> int | Failure:
    """Return the uid that a call about an app concerns, or why there is no such call."""
    if not isinstance(app, str) or not is_app_name(app):
        return failure(
            "InvalidApp",
            app=str(app)[:ECHOED],
            reason="a name has 1 to 31 of a-z, 0-9, - and _, and begins with a letter",
        )
    return session.peer.uid if uid is None else user(session, uid)


def user(session: Session, uid: object) -> int | Failure:
    """Return the uid that a call names, if this peer may name it."""
    if uid == session.peer.uid:
        return session.peer.uid
    if not session.operator:
        return permission_denied()
    if not isinstance(uid, int) or not is_user_id(uid):
        return Failure(f"{STANDARD}.InvalidParameter", {"parameter": "uid"})
    return uid
