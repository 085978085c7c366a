"""Which process has each of many sockets open, from the links in /proc/PID/fd.

One may know that of one's own processes, and root of everybody's; of the others it is not told.  A
link says socket:[number] and nothing is opened through it.  The command is what a process calls
itself (comm, proc(5)): its own claim, and 15 bytes of it.  Not its command line, which is read from
the process's memory: a file server of its own can have a reader wait there for good.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Final

from sockbroker.kernel.entries import Owned

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_START_TIME: Final = 22 - 3
"""Of the fields of /proc/PID/stat behind the command, which may have any bytes in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that has a socket open; `started` is in clock ticks since boot."""

    pid: int
    started: int
    command: bytes


def find_holders(numbers: Container[int], pace: Callable[[], None]) -> dict[int, Holder]:
    """Find who holds the sockets of these numbers; of several the one that has run the longest.

    `pace` is called for each descriptor that is looked at; what it raises ends the search.
    """
    found: dict[int, Holder] = {}
    for pid in _pids():
        pace()
        try:
            process = os.open(f"/proc/{pid}", _FOLDER)
        except OSError:
            continue  # it has ended
        with Owned(process):
            holder: Holder | None = None
            for number in _sockets(process, pace):
                if number not in numbers:
                    continue
                holder = holder or _holder(process, pid)
                if holder is None:
                    break  # it has ended meanwhile
                known = found.get(number)
                if known is None or (holder.started, pid) < (known.started, known.pid):
                    found[number] = holder
    return found


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _sockets(process: int, pace: Callable[[], None]) -> Iterator[int]:
    """Yield the numbers of the sockets that a process has open; none where one may not know."""
    try:
        folder = os.open("fd", _FOLDER, dir_fd=process)
    except OSError:
        return
    with Owned(folder):
        try:
            descriptors = os.listdir(folder)
        except OSError:
            return
        for descriptor in descriptors:
            pace()
            try:
                link = os.readlink(descriptor, dir_fd=folder)
            except OSError:
                continue  # closed, or not to be known
            if link.startswith("socket:["):
                yield int(link[len("socket:[") : -1])


def _holder(process: int, pid: int) -> Holder | None:
    try:
        status = _read(process, "stat")
        command = _read(process, "comm").removesuffix(b"\n")
        started = int(status.rpartition(b")")[2].split()[_START_TIME])
    except (OSError, IndexError):
        return None
    return Holder(pid=pid, started=started, command=command)


def _read(process: int, name: str) -> bytes:
    with Owned(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)) as file:
        return os.read(file, 4096)
