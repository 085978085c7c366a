"""The event loop: descriptors, timers, signals and calls from other threads.

Written by hand on epoll(7), because a connection costs three to five times as much in asyncio and
the ordinary client of the broker connects once for each request.  It knows nothing of what it
serves.  With nothing to do it sleeps without a time limit.
"""

from __future__ import annotations

import heapq
import itertools
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

EVENTS_A_TURN = 42
"""Taken from the kernel at once; with more, one crowd would delay the next look.  They are 12 bytes
each, and for more than 512 Python asks the C library, at every look."""

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
ENDED = select.EPOLLHUP | select.EPOLLERR


S = TypeVar("S")


class Timer:
    """A call at a time; `cancel()` takes it back."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """One thread's loop.  Everything but `call_from_thread` belongs to that thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Callable[[Any, int], None], object]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        # A socket pair and no pipe: a service's system call filter may leave pipes out.
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._signals: dict[int, Callable[[], None]] = {}
        self._running = True
        self.found = 0
        """How many descriptors the last look of all found; EVENTS_A_TURN: there may be more."""
        self.watch(self._wake_read.fileno(), self._woken, None)

    # Descriptors.  Closing one takes it out of the epoll set by itself, as long as it has no
    # duplicate; `forget` only drops the callback, which saves a system call for each connection.

    def watch(
        self,
        descriptor: int,
        callback: Callable[[S, int], None],
        subject: S,
        events: int = READABLE,
    ) -> None:
        """Call `callback(subject, events)` whenever there are such events (level-triggered)."""
        self._epoll.register(descriptor, events)
        self._watched[descriptor] = callback, subject

    def change(self, descriptor: int, events: int) -> None:
        """Watch for other events; ENDED is always reported."""
        self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Drop a descriptor that the caller closes now."""
        self._watched.pop(descriptor, None)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching a descriptor that stays open."""
        if self._watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    # Timers, on the monotonic clock.

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    # Other threads and signals.

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Have the loop's thread make a call; for any thread."""
        self._calls.append(callback)
        self._wake()

    def on_signal(self, number: signal.Signals, callback: Callable[[], None]) -> None:
        """Call back from the loop when the signal has arrived, never in the middle of anything."""
        self._signals[number] = callback
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"\0")  # 0 is no signal's number
        except OSError:
            return  # full of wake-ups, so the loop will wake anyway; or it has ended

    def _woken(self, _subject: None, _events: int) -> None:
        # Taken before the calls are looked at: one that is added meanwhile wakes the loop again.
        try:
            numbers = self._wake_read.recv(4096)
        except OSError:
            return  # it stays readable
        for number, callback in self._signals.items():
            if number in numbers:
                callback()
        for _ in range(len(self._calls)):
            self._calls.popleft()()

    # Running.

    def stop(self) -> None:
        self._running = False

    def run(self, between: Callable[[], float | None]) -> None:
        """Serve until `stop()`.

        `between` is called after each look at the kernel.  It returns the next moment at which it
        wants to be called whatever happens, on the monotonic clock: 0 for at once, None for never.
        """
        poll = self._epoll.poll
        watched, timers = self._watched, self._timers
        wanted: float | None = None
        while self._running:
            patience = self._patience(wanted) if wanted is not None or timers else None
            found = poll(patience, EVENTS_A_TURN)
            # Whom `watched` lacks is forgotten, but a child that is about to close it has it.
            self.found = len(found)
            if self.found == 1:
                descriptor, events = found[0]
                each = watched.get(descriptor)
                if each is not None:
                    each[0](each[1], events)
            else:
                # Looked up before any of them runs: a callback may close a descriptor, and the
                # next one get its number.
                ready = []
                for descriptor, events in found:
                    ready.append((watched.get(descriptor), events))
                for each, events in ready:
                    if each is not None:
                        each[0](each[1], events)
            if timers:
                self._run_timers()
            wanted = between()

    def _patience(self, deadline: float | None) -> float | None:
        """Return how long to sleep at most, in seconds; None: until something happens."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if self._timers and (deadline is None or self._timers[0][0] < deadline):
            deadline = self._timers[0][0]
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._epoll.close()
        self._wake_read.close()
        self._wake_write.close()


def block_signals(numbers: Iterable[signal.Signals]) -> None:
    """Hold signals back until `on_signal` lets them through: none is lost, none kills the start."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(numbers))
