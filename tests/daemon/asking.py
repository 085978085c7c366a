"""Somebody who wants no more than to be served, while others do what they do."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from peers import Peer, ask, granted

SECONDS_BETWEEN = 0.002
"""Between two questions: nobody is to wait for the one who asks either."""

SECONDS_STANDING_STILL = 2.5


class Asking:
    """One uid that asks again and again; `stop()` tells how long it waited each time."""

    def __init__(self, uid: int, act: Callable[[], object] | None = None) -> None:
        self._ours, theirs = socket.socketpair()
        act = act or (lambda: granted(ask("Request", app="demo")))

        def repeat() -> list[float]:
            self._ours.close()
            theirs.setblocking(False)
            waits = []
            while True:
                before = time.monotonic()
                act()
                waits.append(time.monotonic() - before)
                try:
                    theirs.recv(1)
                except BlockingIOError:
                    time.sleep(SECONDS_BETWEEN)
                else:
                    return waits

        with theirs:
            self._peer = Peer(uid, repeat)

    def stop(self) -> list[float]:
        """End it; the seconds that each answer took."""
        with self._ours:
            try:
                self._ours.send(b".")
            except BrokenPipeError:
                pass  # it has failed, and its result says how
            return self._peer.result()


def usual(waits: list[float]) -> float:
    """What 99 of 100 answers did not take longer than.

    Of fewer all but one: a machine may stand still for a moment, and then no longer than that.
    """
    ordered = sorted(waits)
    if len(waits) < 100:
        assert ordered[-1] < SECONDS_STANDING_STILL, waits
        return ordered[max(0, len(waits) - 2)]
    return ordered[len(waits) * 99 // 100 - (len(waits) % 100 == 0)]
