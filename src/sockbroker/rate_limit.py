"""How many lines of the log each uid may have, so that no user can fill a disk by asking."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

LINES_A_MINUTE = 60
"""For each uid: enough to see what goes wrong, too few to fill a disk."""

MOST_UIDS = 1024
"""Uids whose lines are counted at a time; one user may have 65,536 of them."""

SECONDS = 60
"""From the first line of a uid until it may have as many again."""


@dataclass(slots=True)
class _Counted:
    """The lines of a uid since its minute began."""

    since: float
    admitted: int = 1
    left_out: int = 0


class RateLimit:
    """Lets so many lines a minute through for each uid, and counts the rest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted: dict[int, _Counted] = {}  # whose minute began first comes first

    def admit(self, uid: int) -> int | None:
        """Return None if no line about `uid` may be written, else how many were left out."""
        now = self._clock()
        counted = self._counted.get(uid)
        if counted is None or now - counted.since >= SECONDS:
            self._counted.pop(uid, None)  # to be put behind the others
            self._counted[uid] = _Counted(since=now)
            if len(self._counted) > MOST_UIDS:
                del self._counted[next(iter(self._counted))]
            return 0 if counted is None else counted.left_out
        if counted.admitted == LINES_A_MINUTE:
            counted.left_out += 1
            return None
        counted.admitted += 1
        return 0
