"""The capabilities of this process: which it has, and how it gives up those that it never needs.

Source: capabilities(7), capset(2), prctl(2).  All of it is for the calling thread, and for the
threads that it starts from then on.
"""

import ctypes
import errno
import os
from collections.abc import Set
from typing import Final

# include/uapi/linux/capability.h
CAP_CHOWN: Final = 0
CAP_DAC_READ_SEARCH: Final = 2
CAP_FOWNER: Final = 3
CAP_FSETID: Final = 4
CAP_SYS_ADMIN: Final = 21
_VERSION_3: Final = 0x20080522
_LAST_POSSIBLE: Final = 63

# include/uapi/linux/prctl.h
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    """struct __user_cap_data_struct; two of them have 64 bits of each set."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def held() -> frozenset[int]:
    """Return the capabilities that this thread may use or take up (its permitted set)."""
    sets = _get()
    permitted = sets[0].permitted | sets[1].permitted << 32
    return frozenset(number for number in range(64) if permitted >> number & 1)


def bounding() -> frozenset[int]:
    """Return what a program run from here could have at most.

    OSError where the kernel may not be asked; EINVAL ends its list, but does not begin it.
    """
    found = set()
    for number in range(_LAST_POSSIBLE + 1):
        answer = _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0)
        if answer < 0:
            if number == 0 or ctypes.get_errno() != errno.EINVAL:
                raise _error()
            break
        if answer:
            found.add(number)
    return frozenset(found)


def keep(wanted: Set[int]) -> None:
    """Give up every other capability, for good: also for programs that this process would run.

    OSError where the bounding set cannot be narrowed (EPERM for want of CAP_SETPCAP) or not even
    read; the others are given up even so.
    """
    refused: OSError | None = None
    try:
        for number in bounding() - wanted:
            if _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0):
                refused = _error()
    except OSError as error:
        refused = error
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)  # EINVAL before Linux 4.3
    mask = sum(1 << number for number in wanted & held())
    sets = _get()
    for index, each in enumerate(sets):
        part = mask >> 32 * index & 0xFFFFFFFF
        each.effective = each.permitted = part
        each.inheritable = 0
    if _libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(sets)):
        raise _error()
    if refused is not None:
        raise refused


def _get() -> "ctypes.Array[_Set]":
    sets = (_Set * 2)()
    if _libc.capget(ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(sets)):
        raise _error()
    return sets


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
