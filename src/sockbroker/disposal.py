"""Has directories deleted that were moved aside, in turn by uid, by the worker for it.

A tree may be huge, or be filled faster than it is emptied, so each gets a slice of time and then
the next uid's has its turn.  What cannot be deleted now (a mount below it) is parked, reported, and
tried again.  Nothing is remembered beyond the names on disk: after a restart they are found and
deleted again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from sockbroker.core.escaping import escape
from sockbroker.core.names import parse_uid
from sockbroker.folders import Folders
from sockbroker.kernel.loop import Loop
from sockbroker.kernel.obstacles import Obstructed
from sockbroker.kernel.removal import Parked, Removed, Stopped, remove
from sockbroker.kernel.worker import Outcome, Worker

SECONDS_BEFORE_RETRY = 60.0

SECONDS_OF_A_SLICE = 0.2
"""For one tree before the next uid's has its turn; one unlink of a huge file may take longer."""

MOST_FOR_A_UID = 4
"""Directories of one app and uid that wait to be deleted: more, and a user who asks, fills and
releases in a loop could use up the app's max_directories for everybody."""


class Disposal:
    """The queues of what waits to be deleted; one descriptor of a folder is open at a time."""

    def __init__(
        self, folders: Folders, loop: Loop, worker: Worker, report: Callable[[str], None]
    ) -> None:
        """`report` is told why something is parked, when that is new."""
        self._folders = folders
        self._loop = loop
        self._worker = worker
        self._report = report
        self._queues: dict[int, deque[tuple[str, str]]] = {}
        self._held: dict[tuple[str, int], int] = {}
        self._busy = False
        self._stopped = False
        self.waiting = 0
        """Directories that are not deleted yet, parked ones included."""
        self.parked: dict[tuple[str, str], str] = {}
        """(app, name) of what could not be deleted, and why."""

    def has_room(self, app: str, uid: int) -> bool:
        """Whether one more directory of this app and uid may be moved aside."""
        return self._held.get((app, uid), 0) < MOST_FOR_A_UID

    def add(self, app: str, name: str) -> None:
        """Have `name`, which was moved aside in the folder of `app`, deleted."""
        self.waiting += 1
        key = (app, _uid_of(name))
        self._held[key] = self._held.get(key, 0) + 1
        self._enqueue(app, name)

    def stop(self) -> None:
        """Let the worker end what it does soon; the rest stays on disk for the next start."""
        self._stopped = True

    def _enqueue(self, app: str, name: str) -> None:
        self._queues.setdefault(_uid_of(name), deque()).append((app, name))
        self._next()

    def _next(self) -> None:
        while self._queues and not self._busy and not self._stopped:
            uid = next(iter(self._queues))
            queue = self._queues.pop(uid)
            app, name = queue.popleft()
            if queue:
                self._queues[uid] = queue  # behind all others
            self._delete(app, name)

    def _delete(self, app: str, name: str) -> None:
        try:
            folder = self._folders.base.find(app)
        except (Obstructed, OSError) as error:
            self._park(app, name, str(error))
            return
        if folder is None:  # gone, and what was in it
            self._forget(app, name)
            return
        self._busy = True

        def work() -> Removed | Parked | Stopped:
            end = time.monotonic() + SECONDS_OF_A_SLICE
            with folder:  # this job's own descriptor: the loop's may be closed at any time
                return remove(
                    folder.fileno(),
                    name,
                    stop=lambda: self._stopped or time.monotonic() > end,
                )

        def done(outcome: Outcome[Removed | Parked | Stopped]) -> None:
            self._busy = False
            try:
                result = outcome.value()
            except Exception as error:  # a fault of ours must not end the daemon either
                result = Parked(str(error))
            match result:
                case Removed():
                    self._forget(app, name)
                case Parked(reason):
                    self._park(app, name, reason)
                case Stopped():
                    self._enqueue(app, name)
            self._next()

        self._worker.submit(work, done)

    def _forget(self, app: str, name: str) -> None:
        self.waiting -= 1
        self.parked.pop((app, name), None)
        key = (app, _uid_of(name))
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]

    def _park(self, app: str, name: str, reason: str) -> None:
        known = self.parked.get((app, name))
        self.parked[app, name] = reason
        if reason != known:
            path = f"{self._folders.base.path}/{app}/{escape(name)}"
            self._report(f"{path}: not deleted yet: {reason}")
        self._loop.call_later(SECONDS_BEFORE_RETRY, lambda: self._enqueue(app, name))


def _uid_of(name: str) -> int:
    """Return whose directory it was: the name is .old-<uid>-<token>."""
    return parse_uid(name.split("-")[1]) or 0
