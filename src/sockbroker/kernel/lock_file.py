"""Files in a runtime directory that nobody but its owner can open, there to be locked by flock(2).

Whoever can open a file can take its lock, and keep it: so these are made by the owner with the mode
0600, whatever the umask, and are not waited for without end.  They are never removed: two could
then hold "the" lock, each on a file of his own.
"""

from __future__ import annotations

import errno
import posix
import stat
import time
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

from sockbroker.kernel.socket_file import open_file, set_mode

MARK = ".sockbroker.lock"
"""Locked, shared, by everybody who uses the directory."""

NAMES = ".sockbroker.names"
"""Locked by who gives a name in the directory to a socket, for as long as that takes."""

_MODE = 0o600

# What lies there may be anything: nothing is followed, and no fifo is waited for.
_OPEN = (
    posix.O_RDONLY
    | posix.O_CREAT
    | posix.O_NOFOLLOW
    | posix.O_NONBLOCK
    | posix.O_NOCTTY
    | posix.O_CLOEXEC
)

_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.01


class Unlockable(Exception):
    """The lock cannot be had; the text says why, and what to do."""


def hold(folder: int, name: str) -> int:
    """Take a shared lock and return the close-on-exec descriptor that holds it; raises Unlockable.

    It is the caller's to close. The lock lasts until every copy of the descriptor is closed.
    """
    while True:
        descriptor = _open(folder, name)
        try:
            flock(descriptor, LOCK_SH | LOCK_NB)
            if posix.fstat(descriptor).st_nlink > 0:
                return descriptor
        except BlockingIOError:
            posix.close(descriptor)
            raise Unlockable(f"{name} is locked by another process; `lslocks` names it") from None
        except OSError as error:
            posix.close(descriptor)
            raise Unlockable(_why(error, name)) from None
        posix.close(descriptor)  # somebody removed it in between


class Alone:
    """An exclusive lock as a context manager; entering raises Unlockable if it takes too long."""

    def __init__(self, folder: int, name: str, *, seconds: float) -> None:
        self._folder = folder
        self._name = name
        self._seconds = seconds
        self._descriptor = -1

    def __enter__(self) -> None:
        deadline = time.monotonic() + self._seconds
        pause = _FIRST_PAUSE
        while True:
            self._descriptor = _open(self._folder, self._name)
            try:
                if self._try():
                    return
            except BaseException:
                self.__exit__()
                raise
            self.__exit__()
            if time.monotonic() >= deadline:
                raise Unlockable(
                    f"{self._name} was locked for {self._seconds:g} s; `lslocks` names who holds it"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _try(self) -> bool:
        try:
            flock(self._descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Unlockable(_why(error, self._name)) from None
        return posix.fstat(self._descriptor).st_nlink > 0

    def __exit__(self, *_: object) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        # A process that was forked meanwhile by another thread has the descriptor too.
        flock(descriptor, LOCK_UN)
        posix.close(descriptor)


def _open(folder: int, name: str) -> int:
    try:
        try:
            descriptor = posix.open(name, _OPEN, _MODE, dir_fd=folder)
        except PermissionError as refused:
            _open_to_owner(folder, name, refused)
            descriptor = posix.open(name, _OPEN, _MODE, dir_fd=folder)
    except OSError as error:
        raise Unlockable(_why(error, name)) from None
    try:
        status = posix.fstat(descriptor)
        _judge(status, name)
        if stat.S_IMODE(status.st_mode) != _MODE:  # the umask may have taken of it
            posix.fchmod(descriptor, _MODE)
    except OSError as error:
        posix.close(descriptor)
        raise Unlockable(_why(error, name)) from None
    except BaseException:
        posix.close(descriptor)
        raise
    return descriptor


def _open_to_owner(folder: int, name: str, refused: PermissionError) -> None:
    """Mend the file of somebody who was killed after he had made it under a umask of 0777."""
    try:
        descriptor = open_file(folder, name)
    except FileNotFoundError:
        raise refused from None  # it is the directory that one may not write in
    try:
        _judge(posix.fstat(descriptor), name)
        set_mode(descriptor, _MODE)
    finally:
        posix.close(descriptor)


def _judge(status: posix.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Unlockable(f"{name} is no regular file: remove it")
    if status.st_uid != posix.geteuid():
        raise Unlockable(f"{name} is owned by uid {status.st_uid}: remove it")
    # A second name may have been given to any file of the owner's that is not to be touched.
    if status.st_nlink > 1:
        raise Unlockable(f"{name} has other names (hard links) too: remove it")


def _why(error: OSError, name: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "the directory was removed: request it again"
    if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # a link, a socket, a directory
        return f"{name} is no regular file: remove it"
    return f"{name}: {posix.strerror(error.errno or 0)}"
