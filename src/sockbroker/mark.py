"""The mark of a directory that is in use, which the kernel drops with the process that holds it.

It is a shared lock on a file that only the owner can open. The broker sees it in the kernel's list
of locks, and does not release the directory.
"""

import posix
from fcntl import LOCK_NB, LOCK_SH, flock

from sockbroker.errors import Unmarked
from sockbroker.kernel.lock_file import MARK, Unlockable, hold


def take(folder: int, path: str) -> int:
    """Mark the directory and return the close-on-exec descriptor that holds the mark.

    It is the caller's to close; the directory is marked until every copy of it is closed. Raises
    Unmarked, never waits.
    """
    try:
        return hold(folder, MARK)
    except Unlockable as error:
        raise Unmarked(path, str(error)) from None


def keep_from_cleaners(folder: int) -> int | None:
    """Lock the directory itself, which systemd-tmpfiles passes over then; None if it cannot be.

    Whoever may read the directory can take that lock or keep it from its owner: it says nothing,
    and no program that is executed must inherit the descriptor, because `..` leads out of it.
    """
    try:
        directory = posix.open(
            ".", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC, dir_fd=folder
        )
    except OSError:
        return None
    try:
        flock(directory, LOCK_SH | LOCK_NB)
    except OSError:
        posix.close(directory)
        return None
    return directory
