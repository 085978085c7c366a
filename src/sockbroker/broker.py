"""Answers the calls of io.sockbroker: decides, acts on the disk, replies, and keeps the record.

Every handler goes the same way: is the app's name one, whom does it concern, what does the policy
in force say, and only then the disk.  Who is concerned is the uid that the kernel attests, unless
an operator names another.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

from sockbroker.core.decision import Refused, decide
from sockbroker.core.escaping import escape
from sockbroker.core.names import is_app_name, is_user_id
from sockbroker.core.peer import Peer
from sockbroker.core.policy import Policy
from sockbroker.core.rules import NO_GROUP
from sockbroker.core.service import Answer, Deferred, Failed, Failure, Reply, Series
from sockbroker.core.varlink import Call
from sockbroker.disposal import MOST_FOR_A_UID, Disposal
from sockbroker.folders import Folders
from sockbroker.generation import Generation
from sockbroker.interfaces import INTERFACE, Handlers
from sockbroker.kernel import accounts
from sockbroker.kernel.app_folder import Entry, Folder, Wanted
from sockbroker.kernel.directories import Base
from sockbroker.kernel.obstacles import LimitReached, NoSuchDirectory, Obstructed
from sockbroker.kernel.worker import Outcome, Worker
from sockbroker.logs import Logger, RateLimit
from sockbroker.server import Session

SCARCE = {
    errno.ENOSPC: "space",
    errno.EDQUOT: "space",
    errno.ENOMEM: "memory",
    errno.EMFILE: "descriptors",
    errno.ENFILE: "descriptors",
    errno.EMLINK: "directories",
}
"""What runs out, by the error number that tells it."""


class Broker:
    """The handlers, and what they need to know between calls."""

    def __init__(
        self,
        *,
        folders: Folders,
        disposal: Disposal,
        look_ups: Worker,
        log: Logger,
        generation: Generation,
    ) -> None:
        self._folders = folders
        self._generation = generation
        self._disposal = disposal
        self._look_ups = look_ups
        self._log = log
        self._rate = RateLimit()
        self.counters: dict[str, int] = dict.fromkeys(
            ("requests", "created", "existing", "repaired", "removed", "denied", "failed"), 0
        )

    def handlers(self) -> Handlers:
        """Return the handlers by method; what is missing answers MethodNotImplemented."""
        return {"Request": self._request, "Release": self._release, "List": self._list}

    # Request.

    def _request(self, session: Session, call: Call) -> Answer:
        self.counters["requests"] += 1
        app = call.parameters["app"]
        whom = _whom(session, app, call.parameters.get("uid"))
        if isinstance(whom, Failure):
            return whom
        if whom == session.peer.uid:
            return self._grant(str(app), session.peer)
        return self._grant_other(str(app), whom, session.peer)

    def _grant_other(self, app: str, uid: int, operator: Peer) -> Answer:
        """Grant what an operator asks for another uid, by the policy and the database's groups."""
        deferred = Deferred()

        def got(outcome: Outcome[tuple[int, frozenset[int]] | None]) -> None:
            if deferred.cancelled:
                return  # nobody waits any more
            try:
                # A uid that the database does not know has no groups there.
                gid, groups = outcome.value() or (NO_GROUP, frozenset())
            except OSError as error:
                reason = f"the groups of uid {uid} are not known: {error.strerror}; try again later"
                deferred.resolve(_failure("Denied", app=app, reason=reason))
                return
            peer = Peer(uid=uid, gid=gid, pid=operator.pid, groups=groups)
            deferred.resolve(self._grant(app, peer))

        self._look_ups.submit(lambda: accounts.groups_of(uid), got)
        return deferred

    def _grant(self, app: str, peer: Peer) -> Answer:
        decision = decide(self._generation.policy, app, peer)
        if isinstance(decision, Refused):
            return self._deny(app, peer, decision)
        wanted = Wanted(mode=decision.app.mode, gid=decision.app.gid)
        new_gid = peer.gid if wanted.gid is None else wanted.gid
        path = f"{self._folders.base.path}/{app}/{peer.uid}"
        try:
            outcome = self._folders.of(decision.app).ensure(
                peer.uid, wanted, new_gid=new_gid, limit=decision.app.max_directories
            )
        except (Obstructed, LimitReached, OSError) as error:
            return self._failed("request", app, peer, error, path)
        self.counters[outcome] += 1
        if outcome != "existing":
            self._record(outcome, app, peer, path=path, rule=str(decision.rule))
        return Reply({"path": path, "outcome": outcome})

    # Release.

    def _release(self, session: Session, call: Call) -> Answer:
        whom = _whom(session, call.parameters["app"], call.parameters.get("uid"))
        if isinstance(whom, Failure):
            return whom
        app = str(call.parameters["app"])
        path = f"{self._folders.base.path}/{app}/{whom}"
        try:
            moved = self._move_aside(
                app, whom, path, session, force=call.parameters.get("force") is True
            )
        except Failed as failed:
            return failed.failure
        except (NoSuchDirectory, Obstructed, LimitReached, OSError) as error:
            # One's own may always be released; but who has no rule learns nothing from a failure.
            decision = decide(self._generation.policy, app, session.peer)
            if isinstance(decision, Refused) and not session.operator:
                return self._deny(app, session.peer, decision)
            if isinstance(error, NoSuchDirectory):
                return _failure("NoSuchDirectory", app=app, uid=whom)
            return self._failed("release", app, session.peer, error, path)
        self._disposal.add(app, moved)
        self.counters["removed"] += 1
        self._record("removed", app, session.peer, path=path)
        return Reply()

    def _move_aside(self, app: str, uid: int, path: str, session: Session, *, force: bool) -> str:
        """Take a directory away from its name; raises what is in the way, Failed for InUse."""
        folder = self._folders.base.find(app)
        if folder is None:
            raise NoSuchDirectory(path, uid)
        with folder:
            entry = folder.look(uid)
            if entry is None:
                raise NoSuchDirectory(path, uid)
            if not force and uid != session.peer.uid:
                reason = "whether it is in use cannot be told"
                raise Failed(_failure("InUse", path=path, reason=reason))
            if not self._disposal.has_room(app, uid):
                raise LimitReached("directories waiting to be deleted", MOST_FOR_A_UID)
            return folder.move_aside(uid)

    # List.

    def _list(self, session: Session, call: Call) -> Answer:
        app, uid = call.parameters.get("app"), call.parameters.get("uid")
        if not session.operator and uid is None:
            uid = session.peer.uid
        if app is not None:
            whom = _whom(session, app, uid)
            if isinstance(whom, Failure):
                return whom
            if not session.operator:
                decision = decide(self._generation.policy, str(app), session.peer)
                if isinstance(decision, Refused):
                    return self._deny(str(app), session.peer, decision)
        elif uid is not None:
            refusal = _wrong_uid(session, uid)
            if refusal is not None:
                return refusal
        nothing = _failure("NoSuchDirectory", app=app, uid=uid)
        return Series(
            self._directories(
                None if app is None else str(app), None if uid is None else int(str(uid)), nothing
            )
        )

    def _directories(
        self, app: str | None, uid: int | None, nothing: Failure
    ) -> Iterator[Mapping[str, object] | None]:
        """Yield the directories of an app, or of all; of a uid, or of all; Failed if there is none.

        Between two, the disk may change and the policy may be another; each is told as it is.
        """
        base = self._folders.base
        found = False
        try:
            for name in sorted(base.scan()) if app is None else (app,):
                yield None  # a turn for others: there may be thousands of folders
                folder = _found(base, name)
                if folder is None:
                    continue
                with folder:
                    for each in sorted(folder.uids()) if uid is None else (uid,):
                        entry = folder.look(each)
                        if entry is not None:
                            found = True
                            policy = self._generation.policy
                            yield {"directory": _described(folder, each, entry, policy)}
        except OSError as error:
            obstructed = _failure("Obstructed", path=base.path, reason=error.strerror or str(error))
            raise Failed(_scarce(error) or obstructed) from error
        if not found:
            raise Failed(nothing)

    # Refusals, and the record.

    def _deny(self, app: str, peer: Peer, decision: Refused) -> Failure:
        self.counters["denied"] += 1
        self._record("denied", app, peer, level="warning", rule=str(decision.rule))
        return denied(app, peer.uid)

    def _failed(self, verb: str, app: str, peer: Peer, error: Exception, path: str) -> Failure:
        self.counters["failed"] += 1
        if isinstance(error, Obstructed):
            failure = _failure("Obstructed", path=error.path, reason=error.reason)
        elif isinstance(error, LimitReached):
            failure = _failure("LimitReached", resource=error.resource, limit=error.limit)
        elif isinstance(error, OSError):
            failure = _scarce(error) or _failure(
                "Obstructed", path=path, reason=error.strerror or str(error)
            )
        else:
            raise error
        self._record(f"{verb} failed", app, peer, level="error", path=path, why=str(error))
        return failure

    def _record(
        self, event: str, app: str, peer: Peer, *, level: str = "info", **fields: object
    ) -> None:
        """Write one line, unless this uid has had its share of this minute."""
        suppressed = self._rate.admit(peer.uid)
        if suppressed is None:
            return
        if suppressed:
            fields["suppressed"] = suppressed
        getattr(self._log, level)(event, app=app, uid=peer.uid, pid=peer.pid, **fields)

    def violation(self, peer: Peer, reason: str) -> None:
        """Record that a peer broke the protocol and was cut off."""
        suppressed = self._rate.admit(peer.uid)
        if suppressed is not None:
            self._log.warning(
                "protocol violation", uid=peer.uid, pid=peer.pid, why=escape(reason)[:200]
            )


def denied(app: str, uid: int) -> Failure:
    """The one answer for whoever has no rule, be the app known or not."""
    return _failure(
        "Denied",
        app=app,
        reason=f"uid {uid} may not have this; an operator finds the rule that decides in the log of"
        " sockbrokerd (journalctl -u sockbroker)",
    )


def _failure(error: str, **parameters: object) -> Failure:
    return Failure(f"{INTERFACE}.{error}", parameters)


def _scarce(error: OSError) -> Failure | None:
    resource = SCARCE.get(error.errno or 0)
    return None if resource is None else _failure("LimitReached", resource=resource, limit=0)


def _whom(session: Session, app: object, uid: object) -> int | Failure:
    """Return the uid that a call about an app concerns, or why there is no such call."""
    if not is_app_name(str(app)):
        return _failure(
            "InvalidApp",
            app=str(app),
            reason="a name has 1 to 31 of a-z, 0-9, - and _, and begins with a letter",
        )
    if uid is None:
        return session.peer.uid
    return _wrong_uid(session, uid) or int(str(uid))


def _wrong_uid(session: Session, uid: object) -> Failure | None:
    if uid == session.peer.uid:
        return None
    if not session.operator:
        return Failure("org.varlink.service.PermissionDenied", {})
    if not isinstance(uid, int) or not is_user_id(uid):
        return Failure("org.varlink.service.InvalidParameter", {"parameter": "uid"})
    return None


def _found(base: Base, app: str) -> Folder | None:
    """Open an app's folder to list it; one that is not safe has nothing that could be told."""
    try:
        return base.find(app)
    except Obstructed:
        return None


def _described(folder: Folder, uid: int, entry: Entry, policy: Policy) -> dict[str, object]:
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
    }
