"""A mount namespace of this process's own, in which nothing can be written but what it names.

What is mounted outside later is seen in here as well, since the namespace is a slave of the one
before; what is mounted in here is seen nowhere else.  Source: mount_namespaces(7),
mount_setattr(2), unshare(2).  It is for the calling thread, and for the threads that it starts from
then on; descriptors that are open already lead round it.
"""

import ctypes
import os
from collections.abc import Sequence
from typing import Final

from sockbroker.kernel.syscalls import AT_FDCWD

# include/uapi/linux/sched.h, mount.h, fcntl.h
_CLONE_NEWNS: Final = 0x00020000
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_SLAVE: Final = 1 << 19
_MOUNT_ATTR_RDONLY: Final = 0x1
_AT_RECURSIVE: Final = 0x8000
_NR_MOUNT_SETATTR: Final = 442  # since Linux 5.12

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _MountAttributes(ctypes.Structure):
    """struct mount_attr, include/uapi/linux/mount.h."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def leave_writable_only(
    folders: Sequence[str], *, but_not: Sequence[str], hidden: Sequence[str]
) -> None:
    """Make all read-only but these folders, and what lies in `but_not` below them.

    What is `hidden` becomes unreachable, a socket for one.  Of these two whatever does not exist is
    passed over; so is what is mounted below the folders, which stays read-only.  Needs
    CAP_SYS_ADMIN.  OSError: EPERM without it, ENOSYS before Linux 5.12; then everything is as it
    was, or in a namespace that differs from the one before in nothing that hinders; unless the very
    last call failed, which takes the folders back out of what is read-only: see `is_read_only`.
    """
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _mount(None, "/", _MS_REC | _MS_SLAVE)
    for path in folders:
        _mount(path, path, _MS_BIND | _MS_REC)
    for path in hidden:
        if os.path.lexists(path):
            _hide(path)
    for path in but_not:
        if os.path.isdir(path):
            _mount(path, path, _MS_BIND | _MS_REC)
    _set_attributes("/", _MountAttributes(attr_set=_MOUNT_ATTR_RDONLY), _AT_RECURSIVE)
    for path in folders:
        _set_attributes(path, _MountAttributes(attr_clr=_MOUNT_ATTR_RDONLY), 0)


def is_read_only(path: str) -> bool:
    """Tell whether nothing can be written where this is, as far as its mount is concerned."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _hide(path: str) -> None:
    """Mount over it: the null device over a file, an empty file system over a folder."""
    if os.path.isdir(path):
        _check(
            _libc.mount(b"none", os.fsencode(path), b"tmpfs", 0, b"mode=0000,size=4k"),
            f"mount on {path}",
        )
    else:
        _mount("/dev/null", path, _MS_BIND)


def _mount(source: str | None, target: str, flags: int) -> None:
    name = None if source is None else os.fsencode(source)
    _check(_libc.mount(name, os.fsencode(target), None, flags, None), f"mount on {target}")


def _set_attributes(path: str, attributes: _MountAttributes, flags: int) -> None:
    answer = _libc.syscall(
        ctypes.c_long(_NR_MOUNT_SETATTR),
        ctypes.c_int(AT_FDCWD),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_uint(flags),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _check(answer, f"mount_setattr {path}")


def _check(answer: int, what: str) -> None:
    if answer:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
