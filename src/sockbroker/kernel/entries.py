"""One entry of a directory: opened, looked at and brought to a mode and group, by descriptor.

What `directories` and `removal` have in common, kept in one place because every line of it faces
the owner of the entry, who may at any moment change its mode, give it an ACL, put links, fifos
and mounts below it or mount a file server on it that never answers.  So: an entry is opened
with O_PATH alone, which opens nothing, follows nothing and asks no file server; from then on the
descriptor is what is meant, whatever the name comes to mean.  Nothing here knows what a base, an
app or a user's directory is.

A descriptor of O_PATH cannot be given to fchmod(2) and the like: /proc/self/fd/N leads exactly to
what it refers to, past any mount that has come to lie on it.
"""

import errno
import os
import stat
from types import TracebackType
from typing import Final

from sockbroker.kernel.syscalls import (
    AT_EMPTY_PATH,
    AT_NO_AUTOMOUNT,
    AT_STATX_DONT_SYNC,
    AT_SYMLINK_NOFOLLOW,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    STATX_BASIC_STATS,
    Status,
    openat2,
    statx,
)

# include/uapi/linux/xattr.h
_POSIX_ACLS: Final = frozenset({"system.posix_acl_access", "system.posix_acl_default"})

# ENOSYS: Linux before 5.6, or systemd's RestrictSUIDSGID=; EPERM: a filter that forbids what it
# does not know. openat2 itself has no EPERM for the flags used here.
_NO_OPENAT2: Final = frozenset({errno.ENOSYS, errno.EPERM})

_WITHIN: Final = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# For statx: neither asks a file server, nor follows anything.
BY_NAME: Final = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC
BY_DESCRIPTOR: Final = AT_EMPTY_PATH | AT_STATX_DONT_SYNC

_KINDS: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Owned:
    """A descriptor that its `with` block owns and closes."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


def open_entry(folder: int, name: str) -> int:
    """Open whatever is at `name` in `folder` with O_PATH; the caller closes the descriptor.

    Links, fifos and devices are opened as what they are.  OSError with EXDEV: something is mounted
    on it; FileNotFoundError: nothing there.  ValueError: not one component of a path.
    """
    if "/" in name or name in {"", ".", ".."}:
        raise ValueError(f"not one component of a path: {name!r}")
    try:
        return openat2(name, _LOOK, dir_fd=folder, resolve=_WITHIN)
    except OSError as error:
        if error.errno not in _NO_OPENAT2:
            raise
    # One component and O_NOFOLLOW leave only the mount to be found out.  Neither call asks a file
    # server: O_PATH ends before the file system's open(), and a mask of 0 wants nothing of it
    # (without AT_STATX_DONT_SYNC this would wait for ever on a server that does not answer, and
    # with a mask it is EACCES where the mount belongs to a user).
    descriptor = os.open(name, _LOOK, dir_fd=folder)
    try:
        mount_root = statx("", dir_fd=descriptor, flags=BY_DESCRIPTOR, mask=0).mount_root
        if mount_root is None:
            raise OSError(errno.ENOSYS, "the kernel has no openat2 and cannot tell mounts", name)
        if mount_root:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_list(directory: int, name: str | bytes = ".") -> int:
    """Open the directory that an O_PATH descriptor refers to, or one in it, to read its entries.

    A descriptor of its own each time: two readers of one would share its position.  The caller
    closes it.
    """
    return os.open(name, _LIST, dir_fd=directory)


def look_at(descriptor: int) -> Status:
    """Tell what an open descriptor refers to."""
    return statx("", dir_fd=descriptor, flags=BY_DESCRIPTOR, mask=STATX_BASIC_STATS)


def not_a_directory(status: Status) -> str | None:
    """Say what is there instead of a directory; None for a directory."""
    kind = stat.S_IFMT(status.mode)
    if kind == stat.S_IFDIR:
        return None
    return f"is {_KINDS.get(kind, 'something else')}, not a directory"


def has_acl(directory: int) -> bool:
    """Tell whether the directory has an access or a default ACL.

    One call where it has neither, unless its owner has made the list of its attributes too long.
    """
    try:
        return not _POSIX_ACLS.isdisjoint(os.listxattr(_proc(directory)))
    except OSError:
        return _has_one_of_them(directory)


def _has_one_of_them(directory: int) -> bool:
    for name in sorted(_POSIX_ACLS):
        try:
            os.getxattr(_proc(directory), name)
        except OSError as error:
            if error.errno not in {errno.ENODATA, errno.EOPNOTSUPP}:
                raise
        else:
            return True
    return False


def inherited_acls(new: int) -> bool:
    """Tell whether a directory that was just made, and opened to be read, has come with an ACL."""
    try:
        return not _POSIX_ACLS.isdisjoint(os.listxattr(new))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False


def remove_acls(directory: int) -> None:
    """Remove the access and the default ACL; the group bits stay at what the ACL's mask was."""
    for name in sorted(_POSIX_ACLS):  # in the same order each time
        try:
            os.removexattr(_proc(directory), name)
        except OSError as error:
            if error.errno not in {errno.ENODATA, errno.EOPNOTSUPP}:
                raise


def set_mode(directory: int, mode: int) -> None:
    """Set the permission bits of the directory that an O_PATH descriptor refers to."""
    os.chmod(_proc(directory), mode)


def set_owner(directory: int, uid: int, gid: int) -> None:
    """Set owner and group (-1: as it is) of the directory that a descriptor refers to."""
    os.chown(_proc(directory), uid, gid)


def bring(directory: int, *, was_mode: int, was_gid: int, acl: bool, mode: int, gid: int) -> None:
    """Bring mode and group to the given ones and remove an ACL; the owner stays the owner.

    Narrowing first and widening last, so that a kill after any step leaves nothing that is wider
    than both what was and what shall be.  Not verified: the owner may chmod in between, and the
    kernel drops S_ISGID without an error where it thinks that it must.
    """
    narrow = was_mode & mode & ~stat.S_ISVTX
    # The sticky bit is the one that takes rights away by being set.
    narrow |= (was_mode | mode) & stat.S_ISVTX
    if acl or gid != was_gid:
        # While there is an ACL the group bits are its mask: without them it gives nobody anything,
        # and when it is gone they are what the group has.  And a new group begins with nothing.
        narrow &= ~stat.S_IRWXG
    if narrow != was_mode:
        set_mode(directory, narrow)
    if acl:
        remove_acls(directory)
    if gid != was_gid:
        set_owner(directory, -1, gid)
    if narrow != mode:
        set_mode(directory, mode)


def _proc(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"
