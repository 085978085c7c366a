"""Answers Request: decides by the policy in force, and makes or repairs the directory.

Who asks is the uid that the kernel attests, unless an operator names another; for that one the
policy decides as well, with the groups that the user database knows.
"""

from __future__ import annotations

from sockbroker.core.decision import Allowed, Refused, decide
from sockbroker.core.peer import AskGroups, Peer
from sockbroker.core.rules import NO_GROUP
from sockbroker.core.service import Answer, Deferred, Encoded, Failure, Reply
from sockbroker.core.varlink import Call, encode_reply
from sockbroker.failures import failure, whom
from sockbroker.folders import Folders
from sockbroker.generation import Generation
from sockbroker.interfaces import Handlers
from sockbroker.kernel import accounts
from sockbroker.kernel.app_folder import Wanted
from sockbroker.kernel.obstacles import LimitReached, Obstructed
from sockbroker.kernel.snapshot import Snapshot
from sockbroker.kernel.worker import Outcome, Worker
from sockbroker.record import Record
from sockbroker.session import Session

REMEMBERED = 1024
"""Grants that are remembered, each a kilobyte, or five with many groups: who comes again has only
his directory looked at.  A uid has one for each app, whatever groups he takes; and a refusal is not
remembered, or those who are refused would push out those who are not."""

MOST_GROUPS_REMEMBERED = 64
"""Of a grant; a user can give himself a thousand, in ever new sets."""

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
        self._policy = generation.policy
        self._grants: dict[tuple[object, int], Grant] = {}

    def handlers(self) -> Handlers:
        """Return the methods that this answers."""
        return {"Request": self._request}

    def _request(self, session: Session, call: Call) -> Answer:
        counters, peer, parameters = self._record.counters, session.peer, call.parameters
        counters["requests"] += 1
        if self._policy is not self._generation.policy:
            self._policy = self._generation.policy
            self._grants.clear()
        app, asked = parameters["app"], parameters.get("uid")
        pid, uid, gid = peer
        if asked is None and pid > 0:  # as usual; whom the kernel shows no pid of is refused
            grant = self._grants.get((app, uid))
            if (
                grant is not None
                and grant.gid == gid
                and (grant.groups is None or grant.groups == session.groups())
            ):
                if grant.seen is not None:
                    snapshot, existing = grant.seen
                    if snapshot.holds():
                        counters["existing"] += 1
                        return existing
                return self._use(grant, peer, peer)
        asked = whom(session, app, asked)
        if isinstance(asked, Failure):
            return asked
        if asked == uid:
            return self._grant(str(app), peer, session.groups, peer)
        return self._grant_other(str(app), asked, peer)

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
                peer = Peer(pid=operator.pid, uid=uid, gid=gid)
                deferred.resolve(self._grant(app, peer, lambda: groups, operator))
            except Exception as error:  # told to the one who waits, and never to the loop
                reason = f"the groups of uid {uid} are not known: {error}; try again later"
                deferred.resolve(failure("Denied", app=app, reason=reason))

        self._look_ups.submit(lambda: accounts.groups_of(uid), got)
        return deferred

    def _grant(self, app: str, peer: Peer, groups: AskGroups, caller: Peer) -> Answer:
        """Decide for `peer`, and act; the record names the caller, who may be an operator."""
        decision = decide(self._generation.policy, app, peer, groups)
        if isinstance(decision, Refused):
            return self._record.deny(app, caller, decision, uid=peer.uid)
        grant = Grant(decision, peer, f"{self._folders.base.path}/{app}/{peer.uid}")
        return self._use(grant, peer, caller)

    def _use(self, grant: Grant, peer: Peer, caller: Peer) -> Answer:
        """Make or repair the directory."""
        app, snapshot = grant.app.name, None
        try:
            folder = self._folders.of(grant.app)
            if self._grants.get((app, peer.uid)) is grant:
                snapshot = self._folders.snapshot(grant.app, folder, peer.uid)
            outcome = folder.ensure(
                peer.uid, grant.wanted, new_gid=peer.gid, limit=grant.app.max_directories
            )
        except (Obstructed, LimitReached, OSError) as error:
            return self._record.fail("request", app, caller, error, grant.path)
        parameters = {"path": grant.path, "outcome": outcome}
        if outcome != "existing":
            self._record.change(outcome, app, caller, path=grant.path, rule=str(grant.rule))
            return Reply(parameters)
        self._record.counters["existing"] += 1
        if snapshot is None:
            self._remember(grant, peer.uid)
        elif snapshot.settled and snapshot.holds():
            # As it was before it was found to be right.
            grant.seen = snapshot, Encoded(encode_reply(parameters))
        return Reply(parameters)

    def _remember(self, grant: Grant, uid: int) -> None:
        """Remember a grant that was used before, since its directory was there: he comes again."""
        few = grant.groups is not None and len(grant.groups) <= MOST_GROUPS_REMEMBERED
        if few or not grant.app.names_groups:
            if len(self._grants) >= REMEMBERED:
                del self._grants[next(iter(self._grants))]  # the oldest
            self._grants[grant.app.name, uid] = grant


class Grant:
    """What a policy lets a uid with a certain gid have of an app."""

    __slots__ = ("app", "gid", "groups", "path", "rule", "seen", "wanted")

    def __init__(self, decision: Allowed, peer: Peer, path: str) -> None:
        self.app = decision.app
        self.rule = decision.rule
        self.groups = decision.groups  # None: they do not matter
        self.gid = peer.gid
        self.wanted = Wanted(mode=self.app.mode, gid=self.app.gid)
        self.path = path
        self.seen: tuple[Snapshot, Encoded] | None = None  # as it was when it was right, and so
