"""What an operator can ask about the daemon itself: Status and Reload."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from sockbroker.core.service import Answer, Deferred, Reply
from sockbroker.core.varlink import Call
from sockbroker.disposal import Disposal
from sockbroker.failures import failure, permission_denied
from sockbroker.generation import Generation
from sockbroker.interfaces import Handlers
from sockbroker.record import Record
from sockbroker.server import Server
from sockbroker.session import Session
from sockbroker.sockets import Sockets

MOST_BYTES_OF_PROBLEMS = 12 * 1024
"""A reply stays below the size of the largest message."""


class Status:
    """Puts together what the parts of the daemon know."""

    def __init__(
        self,
        version: str,
        *,
        generation: Generation,
        sockets: Sockets,
        disposal: Disposal,
        record: Record,
        confinement: Sequence[str],
        server: Callable[[], Server],
    ) -> None:
        self._version = version
        self._generation = generation
        self._sockets = sockets
        self._disposal = disposal
        self._record = record
        self._confinement = confinement
        self._server = server
        self.draining = False

    def handlers(self) -> Handlers:
        return {"Status": self._status, "Reload": self._reload}

    @property
    def state(self) -> str:
        if self.draining:
            return "draining"
        whole = (
            self._generation.complete
            and self._sockets.problem is None
            and not self._disposal.parked
        )
        return "running" if whole else "degraded"

    def problems(self) -> list[str]:
        """Return all that an operator should look at, one sentence each."""
        problems = list(self._generation.problems())
        if self._sockets.problem is not None:
            problems.append(self._sockets.problem)
        problems.extend(
            f"{app}/{name}: cannot be deleted yet: {reason}"
            for (app, name), reason in self._disposal.parked.items()
        )
        return problems

    def line(self) -> str:
        """Return the state in one line, for a service manager to show."""
        problems = self.problems()
        apps = len(self._generation.policy.apps)
        text = (
            f"{self.state}: {apps} app{'s' if apps != 1 else ''}, policy {self._generation.number}"
        )
        if self._generation.error:
            text += "; the newest policy on disk is bad, the one before is in force"
        return text + (f"; {len(problems)} problem(s)" if problems else "")

    def _status(self, session: Session, _call: Call) -> Answer:
        shown: dict[str, object] = {
            "version": self._version,
            "state": self.state,
            "policyGeneration": self._generation.number,
        }
        if session.operator:
            if self._generation.error:
                shown["policyError"] = "\n".join(bounded(self._generation.error))
            shown["problems"] = bounded(self.problems())
            shown["confinement"] = list(self._confinement)
            server = self._server()
            shown["counters"] = {
                **self._record.counters,
                "connections": server.connections,
                "connectionsAccepted": server.accepted,
                "connectionsDropped": server.dropped,
                "waitingToBeDeleted": self._disposal.waiting,
            }
        return Reply(shown)

    def _reload(self, session: Session, _call: Call) -> Answer:
        if not session.operator:
            return permission_denied()
        deferred = Deferred()

        def done(problems: tuple[str, ...] | None) -> None:
            if problems is not None:
                deferred.resolve(failure("PolicyInvalid", problems=bounded(problems)))
            else:
                deferred.resolve(
                    Reply(
                        {
                            "policyGeneration": self._generation.number,
                            "problems": bounded(self._generation.problems()),
                        }
                    )
                )

        self._generation.reload(done)
        return deferred


def bounded(problems: tuple[str, ...] | list[str]) -> list[str]:
    """Return as many problems as a reply has room for, and how many more there are."""
    room = MOST_BYTES_OF_PROBLEMS // 2  # policyError and problems may both be long
    shown: list[str] = []
    for problem in problems:
        text = problem[:1024]
        room -= len(json.dumps(text)) + 2
        if room < 0:
            more = len(problems) - len(shown)
            return [*shown, f"and {more} more; sockbrokerctl check shows a policy's problems"]
        shown.append(text)
    return shown
