"""The Linux system calls that Python has no function for, and nothing else.

Each wrapper is one call: values in, a value or OSError out, nothing decided, nothing remembered;
the quick forms of statx have an empty value for any error.
They exist because `os` can neither refuse to cross a mount (openat2), nor look at a file without
asking a file server that may never answer (statx with AT_STATX_DONT_SYNC), nor rename without
replacing (renameat2).  Every constant has its kernel name and the header that it comes from.

This module imports nothing of the package, so that everything may use it.
"""

import ctypes
import os
import struct
from collections.abc import Callable
from typing import Final, NamedTuple, Self, TypeAlias

# include/uapi/linux/fcntl.h
AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_NO_AUTOMOUNT: Final = 0x800
AT_EMPTY_PATH: Final = 0x1000
AT_STATX_DONT_SYNC: Final = 0x4000

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08

# include/uapi/linux/fs.h
RENAME_NOREPLACE: Final = 1

# include/uapi/linux/stat.h
STATX_BASIC_STATS: Final = 0x7FF
STATX_ATTR_MOUNT_ROOT: Final = 0x2000

# include/uapi/linux/magic.h
TMPFS_MAGIC: Final = 0x01021994

# arch/*/entry/syscalls/*.tbl: calls since Linux 5.0 have one number on every architecture but
# alpha.  Debian 12's glibc (2.36) has statx() and renameat2(), but no openat2().
_NR_OPENAT2: Final = 437

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    """struct open_how, include/uapi/linux/openat2.h."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_STATX = struct.Struct("=8x Q 3I H 2x Q 16x Q 32x q I 28x 2I 112x")
"""struct statx, include/uapi/linux/stat.h: those of its 256 bytes that `Status` has."""

_OWNER_AND_MODE = struct.Struct("=2I H")

OWNER_AND_MODE: Final = slice(20, 30)
"""Where in struct statx uid, gid and mode are, side by side."""

_LINKS = struct.Struct("=I")
_LINKS_AT: Final = 16
_INODE: Final = slice(32, 40)
_DEVICE_AND_MOUNT: Final = slice(136, 152)

_GLANCE = struct.Struct("=8x Q 4x 2I H 10x Q 8x Q 32x q I")
"""Of the same 256 bytes what `Glance` has."""

_Buffer = ctypes.c_char * _STATX.size

_libc.syscall.restype = ctypes.c_long
# Without argtypes, which would convert each argument twice; a C int holds all that these two take.
_statx = _libc.statx
_quick_statx = ctypes.CDLL(None).statx  # a tenth quicker, without its errno
_short_statx = ctypes.PyDLL(None).statx  # another tenth, as it does not let other threads run
_renameat2 = _libc.renameat2


class Status(NamedTuple):
    """What statx(2) told; 0 where it was not asked for."""

    attributes: int
    links: int
    uid: int
    gid: int
    mode: int
    inode: int
    known_attributes: int
    changed: int
    """ctime, in seconds since the epoch, and the nanoseconds of it."""
    changed_nanoseconds: int
    device_major: int
    device_minor: int

    @classmethod
    def of(cls, raw: bytes) -> Self:
        """Read what `raw_statx` returned."""
        return cls._make(_STATX.unpack(raw))

    @property
    def changed_at(self) -> int:
        """ctime in nanoseconds."""
        return self.changed * 10**9 + self.changed_nanoseconds

    @property
    def device(self) -> int:
        """The device in one number, as os.stat has it."""
        return os.makedev(self.device_major, self.device_minor)

    @property
    def mount_root(self) -> bool | None:
        """Whether something is mounted here; None before Linux 5.8, which does not tell."""
        if not self.known_attributes & STATX_ATTR_MOUNT_ROOT:
            return None
        return bool(self.attributes & STATX_ATTR_MOUNT_ROOT)


def openat2(name: str | bytes, flags: int, *, dir_fd: int, resolve: int, mode: int = 0) -> int:
    """Open `name` below `dir_fd` within the RESOLVE_* limits; the caller closes the descriptor.

    OSError: EXDEV for a mount (RESOLVE_NO_XDEV) or a way out (RESOLVE_BENEATH), ELOOP for a link;
    ENOSYS before Linux 5.6 and under a system call filter that does not know the call, or EPERM.
    """
    how = _OpenHow(flags=flags, mode=mode, resolve=resolve)
    encoded = _encoded(name)
    descriptor: int = _libc.syscall(
        ctypes.c_long(_NR_OPENAT2),
        ctypes.c_int(dir_fd),
        ctypes.c_char_p(encoded),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if descriptor < 0:
        raise _failure(encoded)
    return descriptor


def statx(name: str | bytes, *, dir_fd: int, flags: int, mask: int) -> Status:
    """Look at `name` below `dir_fd`, or with AT_EMPTY_PATH and "" at what `dir_fd` refers to."""
    buffer = _Buffer()
    encoded = _encoded(name)
    if _statx(dir_fd, encoded, flags, mask, buffer):
        raise _failure(encoded)
    return Status._make(_STATX.unpack(buffer))


RawStatx: TypeAlias = Callable[[bytes, int, int], bytes]


def raw_statx(name: bytes, dir_fd: int, flags: int) -> bytes:
    """Return struct statx as the kernel fills it, for comparing; b"" instead of any error.

    `name` is without a NUL.
    """
    buffer = _Buffer()
    return b"" if _quick_statx(dir_fd, name, flags, STATX_BASIC_STATS, buffer) else buffer.raw


def kept_raw_statx() -> RawStatx:
    """Return a `raw_statx` with a buffer that it keeps, so not for two threads.

    It takes half the time, for what is looked at at every request; all threads wait for it.
    """
    buffer = _Buffer()
    where = ctypes.byref(buffer)

    def kept(name: bytes, dir_fd: int, flags: int) -> bytes:
        return b"" if _short_statx(dir_fd, name, flags, STATX_BASIC_STATS, where) else buffer.raw

    return kept


class Glance(NamedTuple):
    """What many directories are judged by."""

    attributes: int
    uid: int
    gid: int
    mode: int
    size: int
    known_attributes: int
    changed: int
    """ctime, in seconds since the epoch, and the nanoseconds of it."""
    changed_nanoseconds: int


def glance_at(raw: bytes) -> Glance:
    """Read what `raw_statx` returned."""
    return Glance._make(_GLANCE.unpack_from(raw))


def glancer(dir_fd: int, flags: int) -> Callable[[bytes], tuple[int, ...]]:
    """Return a function that looks at a name below `dir_fd`.

    It returns what a `Glance` has, in this order, or () instead of any error: the quickest form of
    `statx`, for ten thousand of them; `name` is without a NUL.
    """
    buffer = _Buffer()
    where = ctypes.byref(buffer)

    def glance(name: bytes) -> tuple[int, ...]:
        if _quick_statx(dir_fd, name, flags, STATX_BASIC_STATS, where):
            return ()
        return _GLANCE.unpack_from(buffer)

    return glance


def pack_owner_and_mode(uid: int, gid: int, mode: int) -> bytes:
    """Return what `raw_statx(...)[OWNER_AND_MODE]` is for a file with these."""
    return _OWNER_AND_MODE.pack(uid, gid, mode)


def link_count(raw: bytes) -> int:
    """Return how many links `raw_statx` told of; 0 if it told nothing."""
    return int(_LINKS.unpack_from(raw, _LINKS_AT)[0]) if raw else 0


def identity(raw: bytes) -> bytes:
    """Return what tells a file that `raw_statx` was asked for from every other one, at this moment.

    Its inode and device and, since Linux 5.8, the mount that led to it.
    """
    return raw[_INODE] + raw[_DEVICE_AND_MOUNT]


def file_system_type(descriptor: int) -> int:
    """Return the magic number of the file system that it is on; 0 instead of any error."""
    buffer = (ctypes.c_long * 64)()  # more than struct statfs has, which begins with it
    return 0 if _libc.fstatfs(descriptor, buffer) else int(buffer[0])


def renameat2(
    old: str | bytes, new: str | bytes, *, old_dir_fd: int, new_dir_fd: int, flags: int
) -> None:
    """Rename; with RENAME_NOREPLACE FileExistsError instead of replacing what is at `new`."""
    encoded_old, encoded_new = _encoded(old), _encoded(new)
    if _renameat2(old_dir_fd, encoded_old, new_dir_fd, encoded_new, flags):
        raise _failure(encoded_old, encoded_new)


def _encoded(name: str | bytes) -> bytes:
    # ctypes hands over a C string: the kernel would see `app` where Python has `app\0x`.
    encoded = name if isinstance(name, bytes) else os.fsencode(name)
    if b"\0" in encoded:
        raise ValueError("embedded null byte")
    return encoded


def _failure(name: bytes, other: bytes | None = None) -> OSError:
    number = ctypes.get_errno()
    if other is None:
        return OSError(number, os.strerror(number), os.fsdecode(name))
    return OSError(number, os.strerror(number), os.fsdecode(name), None, os.fsdecode(other))
