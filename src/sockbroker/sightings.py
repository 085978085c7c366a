"""Who uses what, as of now: reads the kernel's tables beside the loop, once for all who ask.

The tables list every socket and lock of the machine, so reading them takes as long as somebody
likes to make it; a worker does it.  Whoever asks while one reading runs gets the next one: what he
is told is never older than his question.
"""

from __future__ import annotations

from collections.abc import Callable

from sockbroker.kernel.usage import Tables, read_tables
from sockbroker.kernel.worker import Outcome, Worker

Seen = Callable[[Tables | None], None]
"""Told the tables, or None where the kernel does not show them."""


class Sightings:
    """Hands out readings of the kernel's tables."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: list[Seen] = []
        self._running = False

    def ask(self, seen: Seen) -> None:
        """Have `seen` called in the loop with a reading that begins after this call."""
        self._waiting.append(seen)
        if not self._running:
            self._read()

    def _read(self) -> None:
        self._running = True
        served, self._waiting = self._waiting, []

        def done(outcome: Outcome[Tables]) -> None:
            self._running = False
            try:
                tables = outcome.value()
            except Exception:  # whatever the kernel's tables look like: it is not known, then
                tables = None
            for seen in served:
                seen(tables)
            if self._waiting and not self._running:
                self._read()

        self._worker.submit(read_tables, done)
