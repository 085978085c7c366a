"""The file that a Unix socket is bound to: opened, looked at, and removed as that very file.

Between two looks at a name anybody who may write in the folder can put something else there.  So
all is done by O_PATH descriptors, which open nothing and stay with the file that they were opened
for, and a name is taken away from a file only by moving it aside and looking again.
"""

from __future__ import annotations

import errno
import posix
import time
from _socket import AF_UNIX, SOCK_DGRAM
from _socket import socket as Socket

SUN_PATH = 107
"""The longest path that bind(2) and connect(2) take; one byte more is for the NUL that ends it."""

# bind(2) makes the file before it ties the socket to it. Whoever looks in between sees a dead
# socket; a file that is older than this is past it, even if the one who binds had to wait.
JUST_MADE = 0.1

_ASIDE = ".sockbroker.old-"


class FileIdentity(tuple[int, int]):
    """Device and inode, as stat(2) tells them: no other file has both while this one exists."""

    __slots__ = ()

    @classmethod
    def of(cls, descriptor: int) -> FileIdentity:
        """Give the identity of what a descriptor refers to."""
        status = posix.fstat(descriptor)
        return cls((status.st_dev, status.st_ino))


def open_file(folder: int, name: str) -> int:
    """Return an O_PATH descriptor of what has that name, a link itself included."""
    return posix.open(name, posix.O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=folder)


def path_of(descriptor: int) -> str:
    """Give a path that leads to what a descriptor refers to, wherever that is; it takes /proc."""
    return f"/proc/self/fd/{descriptor}"


def set_mode(descriptor: int, mode: int) -> None:
    """Set the mode of what an O_PATH descriptor refers to; FileNotFoundError without /proc."""
    posix.chmod(path_of(descriptor), mode)


def is_bound(descriptor: int) -> bool | None:
    """Tell whether a socket is bound to the file, in whatever network namespace; None: unknown.

    connect(2) looks for that socket first and compares types then: so from a datagram socket it is
    ECONNREFUSED if there is none, and EPROTOTYPE if there is one of another type, listening or
    not, however long its queue is; and what is bound never notices.  (EPERM: a datagram socket
    that talks to another one only.)  Older kernels do the same: unix_find_other() in net/unix.
    """
    status = posix.fstat(descriptor)
    answer = _try_to_connect(descriptor)
    if answer == errno.EACCES and status.st_uid == posix.geteuid():
        # A socket that its own owner may not write to. He may open it to himself.
        set_mode(descriptor, status.st_mode & 0o777 | 0o200)
        try:
            answer = _try_to_connect(descriptor)
        finally:
            set_mode(descriptor, status.st_mode & 0o777)
    if answer == errno.ECONNREFUSED:
        return False
    return True if answer in (0, errno.EPROTOTYPE, errno.EPERM) else None


def _try_to_connect(descriptor: int) -> int:
    probe = Socket(AF_UNIX, SOCK_DGRAM)
    try:
        probe.setblocking(False)
        return probe.connect_ex(path_of(descriptor))
    finally:
        probe.close()


def wait_until_settled(descriptor: int) -> bool:
    """Wait, if the file was made or changed just now, until it no longer was; tell if that was."""
    age = time.time() - posix.fstat(descriptor).st_ctime
    if age >= JUST_MADE:
        return False
    time.sleep(min(JUST_MADE - age, JUST_MADE))  # a clock that was set back is not waited for
    return True


def remove(folder: int, name: str, file: FileIdentity) -> bool:
    """Remove the name if it is this file's; tell whether it was."""
    if _has(folder, name) != file:
        return False
    # Somebody else may take the name between any two calls, and must not lose his file.
    aside = _ASIDE + posix.urandom(8).hex()
    try:
        posix.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    except FileNotFoundError:
        return False
    if _has(folder, aside) == file:
        posix.unlink(aside, dir_fd=folder)
        return True
    _put_back(folder, aside, name)
    return False


def _has(folder: int, name: str) -> FileIdentity | None:
    try:
        descriptor = open_file(folder, name)
    except FileNotFoundError:
        return None
    try:
        return FileIdentity.of(descriptor)
    finally:
        posix.close(descriptor)


def _put_back(folder: int, aside: str, name: str) -> None:
    from sockbroker.kernel.syscalls import RENAME_NOREPLACE, renameat2

    try:
        renameat2(aside, name, old_dir_fd=folder, new_dir_fd=folder, flags=RENAME_NOREPLACE)
    except FileExistsError:
        pass  # a third one was quicker still; nothing of anybody's is deleted for it
