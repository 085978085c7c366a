"""Answers Request: decides by the policy in force, and makes or repairs the directory.

Who asks is the uid that the kernel attests, unless an operator names another; for that one the
policy decides as well, with the groups that the user database knows.
"""

from __future__ import annotations

from sockbroker.core.decision import Refused, decide
from sockbroker.core.peer import Peer
from sockbroker.core.rules import NO_GROUP
from sockbroker.core.service import Answer, Deferred, Failure, Reply
from sockbroker.core.varlink import Call
from sockbroker.failures import failure, whom
from sockbroker.folders import Folders
from sockbroker.generation import Generation
from sockbroker.interfaces import Handlers
from sockbroker.kernel import accounts
from sockbroker.kernel.app_folder import Wanted
from sockbroker.kernel.obstacles import LimitReached, Obstructed
from sockbroker.kernel.worker import Outcome, Worker
from sockbroker.record import Record
from sockbroker.session import Session

MOST_ASKING = 4
"""Requests of operators for others that wait for the user database at a time, each up to 5 s."""


class Broker:
    """Hands out directories."""

    def __init__(
        self, generation: Generation, folders: Folders, look_ups: Worker, record: Record
    ) -> None:
        self._generation = generation
        self._folders = folders
        self._look_ups = look_ups
        self._record = record
        self._asking = 0

    def handlers(self) -> Handlers:
        """Return the methods that this answers."""
        return {"Request": self._request}

    def _request(self, session: Session, call: Call) -> Answer:
        self._record.counters["requests"] += 1
        app = call.parameters["app"]
        uid = whom(session, app, call.parameters.get("uid"))
        if isinstance(uid, Failure):
            return uid
        if uid == session.peer.uid:
            return self._grant(str(app), session.peer, session.peer)
        return self._grant_other(str(app), uid, session.peer)

    def _grant_other(self, app: str, uid: int, operator: Peer) -> Answer:
        """Grant what an operator asks for another uid, by the policy and the database's groups."""
        if self._asking >= MOST_ASKING:
            return failure("LimitReached", resource="look-ups under way", limit=MOST_ASKING)
        self._asking += 1
        deferred = Deferred()

        def got(outcome: Outcome[tuple[int, frozenset[int]] | None]) -> None:
            self._asking -= 1
            if deferred.cancelled:
                return  # nobody waits any more
            try:
                # A uid that the database does not know has no groups there.
                gid, groups = outcome.value() or (NO_GROUP, frozenset())
                peer = Peer(uid=uid, gid=gid, pid=operator.pid, groups=groups)
                deferred.resolve(self._grant(app, peer, operator))
            except Exception as error:  # told to the one who waits, and never to the loop
                reason = f"the groups of uid {uid} are not known: {error}; try again later"
                deferred.resolve(failure("Denied", app=app, reason=reason))

        self._look_ups.submit(lambda: accounts.groups_of(uid), got)
        return deferred

    def _grant(self, app: str, peer: Peer, caller: Peer) -> Answer:
        """Decide for `peer`, and act; the record names the caller, who may be an operator."""
        decision = decide(self._generation.policy, app, peer)
        if isinstance(decision, Refused):
            return self._record.deny(app, caller, decision, uid=peer.uid)
        wanted = Wanted(mode=decision.app.mode, gid=decision.app.gid)
        new_gid = peer.gid if wanted.gid is None else wanted.gid
        path = f"{self._folders.base.path}/{app}/{peer.uid}"
        try:
            outcome = self._folders.of(decision.app).ensure(
                peer.uid, wanted, new_gid=new_gid, limit=decision.app.max_directories
            )
        except (Obstructed, LimitReached, OSError) as error:
            return self._record.fail("request", app, caller, error, path)
        if outcome == "existing":
            self._record.counters["existing"] += 1
        else:
            self._record.change(outcome, app, caller, path=path, rule=str(decision.rule))
        return Reply({"path": path, "outcome": outcome})
