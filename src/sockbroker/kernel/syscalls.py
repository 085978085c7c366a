"""The Linux system calls that Python has no function for, and nothing else.

Each wrapper is one call: values in, a value or OSError out, nothing decided, nothing remembered.
They exist because `os` can neither refuse to cross a mount (openat2), nor look at a file without
asking a file server that may never answer (statx with AT_STATX_DONT_SYNC), nor rename without
replacing (renameat2).  Every constant has its kernel name and the header that it comes from.

This module imports nothing of the package, so that everything may use it.
"""

import ctypes
import os
from dataclasses import dataclass
from typing import Final

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


class _StatxTimestamp(ctypes.Structure):
    """struct statx_timestamp, include/uapi/linux/stat.h."""

    _fields_ = (
        ("tv_sec", ctypes.c_int64),
        ("tv_nsec", ctypes.c_uint32),
        ("reserved", ctypes.c_int32),
    )


class _Statx(ctypes.Structure):
    """struct statx, include/uapi/linux/stat.h; 256 bytes, the last ones for what may come."""

    _fields_ = (
        ("stx_mask", ctypes.c_uint32),
        ("stx_blksize", ctypes.c_uint32),
        ("stx_attributes", ctypes.c_uint64),
        ("stx_nlink", ctypes.c_uint32),
        ("stx_uid", ctypes.c_uint32),
        ("stx_gid", ctypes.c_uint32),
        ("stx_mode", ctypes.c_uint16),
        ("spare0", ctypes.c_uint16),
        ("stx_ino", ctypes.c_uint64),
        ("stx_size", ctypes.c_uint64),
        ("stx_blocks", ctypes.c_uint64),
        ("stx_attributes_mask", ctypes.c_uint64),
        ("stx_times", _StatxTimestamp * 4),
        ("stx_rdev_major", ctypes.c_uint32),
        ("stx_rdev_minor", ctypes.c_uint32),
        ("stx_dev_major", ctypes.c_uint32),
        ("stx_dev_minor", ctypes.c_uint32),
        ("spare2", ctypes.c_uint64 * 14),
    )


_libc.syscall.restype = ctypes.c_long
_libc.statx.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.POINTER(_Statx),
)
_libc.renameat2.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What statx(2) told; everything but `mount_root` is 0 where it was not asked for.

    `mount_root` is None on kernels before 5.8, which do not tell.
    """

    mode: int
    uid: int
    gid: int
    links: int
    device: int
    inode: int
    mount_root: bool | None


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
    buffer = _Statx()
    encoded = _encoded(name)
    if _libc.statx(dir_fd, encoded, flags, mask, ctypes.byref(buffer)):
        raise _failure(encoded)
    mount_root = None
    if buffer.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT:
        mount_root = bool(buffer.stx_attributes & STATX_ATTR_MOUNT_ROOT)
    return Status(
        mode=buffer.stx_mode,
        uid=buffer.stx_uid,
        gid=buffer.stx_gid,
        links=buffer.stx_nlink,
        device=os.makedev(buffer.stx_dev_major, buffer.stx_dev_minor),
        inode=buffer.stx_ino,
        mount_root=mount_root,
    )


def renameat2(
    old: str | bytes, new: str | bytes, *, old_dir_fd: int, new_dir_fd: int, flags: int
) -> None:
    """Rename; with RENAME_NOREPLACE FileExistsError instead of replacing what is at `new`."""
    encoded_old, encoded_new = _encoded(old), _encoded(new)
    if _libc.renameat2(old_dir_fd, encoded_old, new_dir_fd, encoded_new, flags):
        raise _failure(encoded_old, encoded_new)


def _encoded(name: str | bytes) -> bytes:
    # ctypes hands over a C string: the kernel would see `app` where Python has `app\0x`.
    encoded = os.fsencode(name)
    if b"\0" in encoded:
        raise ValueError("embedded null byte")
    return encoded


def _failure(name: bytes, other: bytes | None = None) -> OSError:
    number = ctypes.get_errno()
    if other is None:
        return OSError(number, os.strerror(number), os.fsdecode(name))
    return OSError(number, os.strerror(number), os.fsdecode(name), None, os.fsdecode(other))
