"""A thread beside the loop, for work that can block.

The thread that serves peers never waits (a single unlink of a 4 GiB file on tmpfs takes most of a
second, a name look-up may never return), so such work is submitted here and its result comes back
as a call in the loop.  Jobs of one worker run one after the other, in the order of submission.
"""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")


class Outcome(Generic[T]):
    """What a job came to: `value()` returns its result or raises what it raised."""

    __slots__ = ("_error", "_result")

    def __init__(self, job: Callable[[], T]) -> None:
        self._error: Exception | None = None
        try:
            self._result = job()
        except Exception as error:  # carried to the loop, which raises or reports it
            self._error = error

    def value(self) -> T:
        """Return the job's result, or raise the exception that ended it."""
        if self._error is not None:
            raise self._error
        return self._result


class Worker:
    """One background thread, started with the first job; it never keeps the process alive."""

    def __init__(self, name: str, deliver: Callable[[Callable[[], None]], None]) -> None:
        self._name = name
        self._deliver = deliver
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], T], done: Callable[[Outcome[T]], None]) -> None:
        """Run `job` in the thread, then `done` with its outcome in the loop.

        Where no thread can be had that is an OSError, which `done` gets in the loop as well.
        """

        def run() -> None:
            outcome = Outcome(job)
            self._deliver(lambda: done(outcome))

        if self._thread is None:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads: the next job tries again
                outcome: Outcome[T] = Outcome(_raising(OSError(errno.EAGAIN, str(error))))
                self._deliver(lambda: done(outcome))
                return
            self._thread = thread
        self._jobs.put(run)

    def _work(self) -> None:
        while True:
            self._jobs.get()()


def _raising(error: OSError) -> Callable[[], NoReturn]:
    def job() -> NoReturn:
        raise error

    return job
