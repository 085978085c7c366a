"""Answers List: the directories as they are on disk, one a reply.

Nothing is remembered between calls.  A directory is told with what the policy in force wants of it
and with what the kernel's tables say of its use; both may be others a moment later.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from sockbroker.core.decision import Refused, decide
from sockbroker.core.policy import Policy
from sockbroker.core.service import Answer, Deferred, Failed, Failure, Series
from sockbroker.core.varlink import Call
from sockbroker.failures import failure, from_fault, user, whom
from sockbroker.folders import Folders
from sockbroker.generation import Generation
from sockbroker.interfaces import Handlers
from sockbroker.kernel.app_folder import Entry, Folder, Wanted
from sockbroker.kernel.directories import Base
from sockbroker.kernel.obstacles import Obstructed
from sockbroker.kernel.usage import Tables, Usage, usage_of
from sockbroker.record import Record
from sockbroker.session import Session
from sockbroker.sightings import Sightings

SECONDS_OF_A_TURN = 0.002
"""Of looking at directories before others have their turn; their owners decide how much is in."""

Replies = Iterator[Mapping[str, object] | None]


class Listing:
    """Tells what there is."""

    def __init__(
        self, generation: Generation, folders: Folders, sightings: Sightings, record: Record
    ) -> None:
        self._generation = generation
        self._folders = folders
        self._sightings = sightings
        self._record = record

    def handlers(self) -> Handlers:
        """Return the methods that this answers."""
        return {"List": self._list}

    def _list(self, session: Session, call: Call) -> Answer:
        app, uid = call.parameters.get("app"), call.parameters.get("uid")
        if uid is None and not session.operator:
            uid = session.peer.uid
        if uid is not None:
            uid = user(session, uid)
            if isinstance(uid, Failure) and app is None:
                return uid
        if app is not None:
            refusal = self._refusal(session, app, uid)
            if refusal is not None:
                return refusal
        nothing = failure("NoSuchDirectory", app=app, uid=uid)
        deferred = Deferred()

        def seen(tables: Tables | None) -> None:
            name = None if app is None else str(app)
            number = uid if isinstance(uid, int) else None
            deferred.resolve(Series(self._directories(name, number, tables, nothing)))

        self._sightings.ask(seen)
        return deferred

    def _refusal(self, session: Session, app: object, uid: object) -> Failure | None:
        named = whom(session, app, None)
        if isinstance(named, Failure):
            return named
        if isinstance(uid, Failure):
            return uid
        if session.operator:
            return None
        decision = decide(self._generation.policy, str(app), session.peer)
        if isinstance(decision, Refused):
            return self._record.deny(str(app), session.peer, decision)
        return None

    def _directories(
        self, app: str | None, uid: int | None, tables: Tables | None, nothing: Failure
    ) -> Replies:
        """Yield the directories of an app, or of all; of a uid, or of all; Failed if there is none.

        None in between gives the others their turn: folders, directories and what is in them may be
        many.
        """
        base = self._folders.base
        found = False
        try:
            turn = time.monotonic()
            for name in sorted(self._generation.folders) if app is None else (app,):
                folder = _find(base, name)
                if folder is None:
                    continue
                with folder:
                    for each in sorted(folder.uids()) if uid is None else (uid,):
                        entry = folder.look(each)
                        if entry is not None:
                            found = True
                            use = usage_of(folder.fileno(), str(each), each, tables)
                            policy = self._generation.policy
                            yield {"directory": _described(folder, each, entry, use, policy)}
                        if time.monotonic() - turn > SECONDS_OF_A_TURN:
                            yield None
                            turn = time.monotonic()
        except OSError as error:
            raise Failed(from_fault(error, base.path)) from error
        if not found:
            raise Failed(nothing)


def _find(base: Base, app: str) -> Folder | None:
    """Open an app's folder to list it; one that is not safe has nothing that could be told."""
    try:
        return base.find(app)
    except Obstructed:
        return None


def _described(
    folder: Folder, uid: int, entry: Entry, use: Usage, policy: Policy
) -> dict[str, object]:
    app = policy.apps.get(folder.app)
    if folder.app in policy.unserved:
        state = "unserved"  # its group has no gid for now
    elif app is None:
        state = "orphaned"
    else:
        state = folder.state(entry, Wanted(mode=app.mode, gid=app.gid))
    return {
        "app": folder.app,
        "uid": uid,
        "userName": policy.user_names.get(uid),
        "gid": entry.gid,
        "groupName": policy.group_names.get(entry.gid),
        "path": folder.path_of(uid),
        "mode": f"{entry.mode:04o}",
        "state": state,
        "inUse": use.in_use,
        "sockets": use.sockets,
    }
