"""The record of what the broker did: a line in the log for each change or refusal, and counters.

No uid can fill the log: each has its share of lines a minute, and the first line after a pause says
how many were left out.  A repeated request that changed nothing is counted and leaves no line.
"""

from __future__ import annotations

from sockbroker.core.decision import Refused
from sockbroker.core.escaping import escape
from sockbroker.core.peer import Peer
from sockbroker.core.service import Failure
from sockbroker.failures import denied, from_fault
from sockbroker.kernel.obstacles import NoSuchDirectory
from sockbroker.logs import Logger
from sockbroker.rate_limit import RateLimit

MOST_OF_A_REASON = 200
"""Characters of what a peer got wrong, as far as it is logged."""

COUNTED = ("requests", "created", "existing", "repaired", "removed", "denied", "failed")


class Record:
    """Writes and counts."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._rate = RateLimit()
        self.counters: dict[str, int] = dict.fromkeys(COUNTED, 0)

    def change(self, event: str, app: str, peer: Peer, **fields: object) -> None:
        """Note that a directory was created, repaired or removed."""
        self.counters[event] += 1
        self._write("info", event, app, peer, fields)

    def deny(self, app: str, peer: Peer, decision: Refused, *, uid: int | None = None) -> Failure:
        """Note that `peer` was refused what he asked for himself, or as an operator for `uid`.

        Returns what he is told, which is less.
        """
        self.counters["denied"] += 1
        fields: dict[str, object] = {"rule": str(decision.rule)}
        if uid is not None and uid != peer.uid:
            fields["for_uid"] = uid
        self._write("warning", "denied", app, peer, fields)
        return denied(app, peer.uid if uid is None else uid)

    def fail(self, verb: str, app: str, peer: Peer, error: Exception, path: str) -> Failure:
        """Note that the disk did not let a call be done; return what the peer is told."""
        told = from_fault(error, path)
        if not isinstance(error, NoSuchDirectory):
            self.counters["failed"] += 1
            self._write("error", f"{verb} failed", app, peer, {"path": path, "why": str(error)})
        return told

    def in_use(self, app: str, peer: Peer, path: str, reason: str) -> None:
        """Note that a directory was not released because of who uses it."""
        self.counters["failed"] += 1
        self._write("warning", "release refused", app, peer, {"path": path, "why": reason})

    def violation(self, peer: Peer, reason: str) -> None:
        """Note that a peer broke the protocol and was cut off."""
        why = escape(reason)[:MOST_OF_A_REASON]
        self._write("warning", "protocol violation", None, peer, {"why": why})

    def _write(
        self, level: str, event: str, app: str | None, peer: Peer, fields: dict[str, object]
    ) -> None:
        suppressed = self._rate.admit(peer.uid)
        if suppressed is None:
            return
        if app is not None:
            fields = {"app": app, **fields}
        if suppressed:
            fields["suppressed"] = suppressed
        getattr(self._log, level)(event, uid=peer.uid, pid=peer.pid, **fields)
