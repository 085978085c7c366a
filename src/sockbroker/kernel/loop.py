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
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

EVENTS_A_TURN = 42
"""Taken from the kernel at once; with more, the next look would be late.  They are 12 bytes each,
and for more than 512 Python asks the C library, at every look."""

EVENTS_OF_A_CROWD = 8
"""The same for a crowd: a few, so that everybody else waits for a few only."""

CROWDS_A_TURN = 5
"""With more of them, the next look would be late."""

SECONDS_UNABLE_TO_WAIT = 0.005
"""Between two looks, where the kernel cannot say when there is something to see."""

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


class Descriptors:
    """Descriptors that are watched, in an epoll(7) of their own."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Callable[[Any, int], None], object]] = {}

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
        """Watch for other events; ENDED is always reported.  OSError: no Linux has one yet."""
        self._epoll.modify(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        """Watch it no longer; always to be done before it is closed.

        That may end the watch as well, but not where a child has a duplicate; and up to Linux 6.3
        it waits for the lock that the loop's crowds are kept from.
        """
        if self._watched.pop(descriptor, None) is not None:
            try:
                self._epoll.unregister(descriptor)
            except OSError:
                pass  # no Linux refuses it yet; one that does ends it when the file is closed

    def tell(self, found: list[tuple[int, int]]) -> None:
        """Call back for each of what the kernel found."""
        if len(found) == 1:  # as nearly always
            descriptor, events = found[0]
            alone = self._watched.get(descriptor)
            if alone is not None:
                alone[0](alone[1], events)
            return
        # Looked up before any of them runs: a callback may close a descriptor, and the next one get
        # its number.
        ready = []
        for descriptor, events in found:
            ready.append((self._watched.get(descriptor), events))
        for each, events in ready:
            if each is not None:
                each[0](each[1], events)


class Crowd(Descriptors):
    """Descriptors of which a look tells a few, however many of them are ready.

    The kernel tells of those first who became ready first, and they may be as many as one user has
    connections.
    """

    @property
    def empty(self) -> bool:
        """Whether there is no descriptor in it."""
        return not self._watched

    def fileno(self) -> int:
        """Return the descriptor of its epoll, which polls readable when one of them is ready."""
        return self._epoll.fileno()

    def look(self) -> list[tuple[int, int]]:
        """Return a few that are ready now, with their events."""
        return self._epoll.poll(0, EVENTS_OF_A_CROWD)


class Loop(Descriptors):
    """One thread's loop.  Everything but `call_from_thread` belongs to that thread."""

    def __init__(self) -> None:
        super().__init__()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        # A socket pair and no pipe: a service's system call filter may leave pipes out.
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._signals: dict[int, Callable[[], None]] = {}
        self._running = True
        self._crowds: dict[int, Crowd] = {}  # that are in use, who was told of last at the end
        # What to wait for while there are crowds.  By poll(2), and never by one epoll in another:
        # to change what such a one watches takes a lock that any user can keep (epnested_mutex in
        # fs/eventpoll.c, up to Linux 6.3 epmutex, held while a FUSE server is asked), and nothing
        # ends a process that waits for it.
        self._all = select.poll()
        self._all.register(self._epoll.fileno(), select.POLLIN)
        # Kept for others: up to Linux 6.3 the end of an epoll waits for that lock, too.  One is
        # there from the beginning, for when there is no descriptor left.
        self._spare_crowds = [Crowd()]
        self.found = 0
        """How many descriptors this look has found so far; from EVENTS_A_TURN on there may be
        more."""
        self.watch(self._wake_read.fileno(), self._woken, None)

    # Crowds.

    def crowd(self) -> Crowd:
        """Return one for descriptors to come, to be given back; OSError: no descriptor for it."""
        crowd = self._spare_crowds.pop() if self._spare_crowds else Crowd()
        self._crowds[crowd.fileno()] = crowd
        self._all.register(crowd, select.POLLIN)
        return crowd

    def give_back(self, crowd: Crowd) -> None:
        """Take one back, which is empty."""
        del self._crowds[crowd.fileno()]
        self._all.unregister(crowd)
        self._spare_crowds.append(crowd)

    def _wait(self, seconds: float | None) -> Sequence[int]:
        """Wait until anything is ready; return the crowds in which there is something."""
        milliseconds = None if seconds is None else 1000 * seconds
        try:
            ready = {number for number, _ in self._all.poll(milliseconds)}
        except OSError:
            # poll(2): more of them than the limit of descriptors, which root has lowered meanwhile.
            time.sleep(SECONDS_UNABLE_TO_WAIT)
            ready = set(self._crowds)
        return list(itertools.islice(filter(ready.__contains__, self._crowds), CROWDS_A_TURN))

    def _look_at(self, crowds: Sequence[int]) -> None:
        """Tell of some in each of these crowds, which are the last to be told of next time."""
        for number in crowds:
            crowd = self._crowds.pop(number, None)
            if crowd is not None:  # else it was given back meanwhile
                self._crowds[number] = crowd
                found = crowd.look()
                self.found += len(found)
                crowd.tell(found)

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
        poll, tell = self._epoll.poll, self.tell
        timers, crowds = self._timers, self._crowds
        wanted: float | None = None
        while self._running:
            ready: Sequence[int] = ()
            patience = self._patience(wanted) if wanted is not None or timers else None
            if crowds:
                ready, patience = self._wait(patience), 0.0
            found = poll(patience, EVENTS_A_TURN)
            self.found = len(found)
            tell(found)
            if ready:
                self._look_at(ready)
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
        """Let go of everything; its signals are ignored from here on, until the process ends."""
        # Else the interpreter, on its way out, has the next one end it, and not well.
        for number in self._signals:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        for each in (self, *self._crowds.values(), *self._spare_crowds):
            each._epoll.close()
        self._wake_read.close()
        self._wake_write.close()


def block_signals(numbers: Iterable[signal.Signals]) -> None:
    """Hold signals back until `on_signal` lets them through: none is lost, none kills the start."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(numbers))
