"""How a start in the background tells the foreground what came of it.

python-daemon's parent ends with 0 at the fork, whatever happens after it.  So the foreground
process forks once itself, waits for word from the child, relays its progress, and returns 0 only
when the broker answers.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

SECONDS_OF_SILENCE = 60.0
"""Without a word for so long, the start has failed; progress is told every second."""


class Launch:
    """The child's end: says once that it is ready or has failed, and before that how far it is."""

    def __init__(self, channel: socket.socket | None) -> None:
        """Without a channel (in the foreground) nothing is said; the channel is owned from here."""
        self._channel = channel

    def descriptors(self) -> list[int]:
        """Return what must stay open when the process detaches."""
        return [] if self._channel is None else [self._channel.fileno()]

    def progress(self, text: str) -> None:
        self._say(f"progress {text}\n")

    def ready(self) -> None:
        self._say("ready\n")
        self._end()

    def failed(self, problems: Sequence[str], status: int) -> None:
        self._say("".join(f"problem {problem}\n" for problem in problems) + f"failed {status}\n")
        self._end()

    def _say(self, text: str) -> None:
        if self._channel is not None:
            try:
                self._channel.sendall(text.encode("utf-8", "backslashreplace"))
            except OSError:
                self._end()  # nobody waits any more

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def in_background(run: Callable[[Launch], int]) -> int:
    """Run in a child that detaches itself; return 0 once it is ready, else its exit status."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        status = 1
        try:
            status = run(Launch(theirs))
        finally:
            os._exit(status)  # whatever happened, never return into the caller's code
    theirs.close()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    with ours:
        status = _wait(ours)
    os.waitpid(child, 0)  # the first of python-daemon's two forks; gone by now
    return status


def _wait(channel: socket.socket) -> int:
    channel.settimeout(SECONDS_OF_SILENCE)
    with channel.makefile("r", encoding="utf-8") as words:
        try:
            for line in words:
                word, _, text = line.rstrip("\n").partition(" ")
                if word == "ready":
                    return 0
                if word == "failed":
                    return int(text)
                _tell(text)
        except TimeoutError:
            _tell(f"no word from the daemon for {SECONDS_OF_SILENCE:.0f} s; it may still start")
            return 1
    _tell("the daemon ended before it was ready; see the system's log")
    return 1


def _tell(text: str) -> None:
    print(f"sockbrokerd: {text}", file=sys.stderr, flush=True)
