"""What a service manager hands to the daemon, and what the daemon tells it.

The protocols of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3), on the standard
library.  The variables are taken out of the environment once, first of all, and count only if they
are meant for this very process: a daemon that an administrator starts by hand inherits the
variables of whatever runs his shell.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START: the first descriptor that is passed."""

_MOST_DESCRIPTORS = 64  # three are of use; more is somebody's mistake or mischief


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What was meant for this process; the descriptors are open and whoever takes it owns them."""

    descriptors: tuple[int, ...] = ()
    notify_socket: str | None = None
    watchdog_seconds: float | None = None
    journal_stream: str | None = None
    """Device and inode of the journal's stream, to be compared with standard error."""
    by_manager: bool = False
    """Started by systemd, not by hand."""


def take(environment: MutableMapping[str, str], pid: int) -> Inherited:
    """Read the service manager's variables for the process `pid`, then clear the environment.

    Nothing else in it is of use to a root daemon, and much of it could steer a library.
    """
    descriptors: tuple[int, ...] = ()
    if _number(environment.get("LISTEN_PID")) == pid:
        count = min(_number(environment.get("LISTEN_FDS")) or 0, _MOST_DESCRIPTORS)
        named = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + count)
        # One that is not open now could be a descriptor of our own when it is looked at.
        descriptors = tuple(filter(_is_open, named))
    watchdog = _number(environment.get("WATCHDOG_USEC"))
    if _number(environment.get("WATCHDOG_PID")) not in {None, pid}:
        watchdog = None
    # NOTIFY_SOCKET names no process; a service manager gives it to the process that it starts,
    # together with an INVOCATION_ID, and takes messages from the main process only.
    notify = environment.get("NOTIFY_SOCKET")
    journal_stream = environment.get("JOURNAL_STREAM")
    by_manager = "INVOCATION_ID" in environment and notify is not None
    environment.clear()
    return Inherited(
        journal_stream=journal_stream,
        by_manager=by_manager,
        descriptors=descriptors,
        notify_socket=notify if notify and notify[0] in "/@" else None,
        watchdog_seconds=watchdog / 1_000_000 if watchdog else None,
    )


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 16 else None


class Notifier:
    """Tells the service manager how the daemon is; without one, says nothing."""

    def __init__(self, address: str | None) -> None:
        self._socket: socket.socket | None = None
        if address is not None:
            try:
                speaking = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            except OSError:
                return
            try:
                speaking.connect("\0" + address[1:] if address[0] == "@" else address)
            except OSError:
                speaking.close()
            else:
                self._socket = speaking

    def tell(self, *assignments: str) -> None:
        """Send the assignments in one datagram; a manager that does not listen is no error."""
        if self._socket is not None:
            try:
                self._socket.send("\n".join(assignments).encode(), socket.MSG_DONTWAIT)
            except OSError:
                return

    def ready(self, status: str) -> None:
        self.tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        # Type=notify-reload ignores the message without the time, in the same datagram.
        self.tell(
            "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
        )

    def status(self, text: str) -> None:
        self.tell(f"STATUS={text}")

    def extend_start(self, seconds: int, text: str) -> None:
        """Say what a long start is doing, and that it needs up to `seconds` more."""
        self.tell(f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}", f"STATUS={text}")

    def alive(self) -> None:
        self.tell("WATCHDOG=1")

    def stopping(self) -> None:
        self.tell("STOPPING=1", "STATUS=finishing the calls that run")


def systemd_is_running() -> bool:
    """Whether PID 1 is systemd, told as sd_booted(3) tells it."""
    try:
        return os.path.isdir("/run/systemd/system") and not os.path.islink("/run/systemd/system")
    except OSError:
        return False
