"""What a process has the kernel refuse to it from then on, by a flag of its own.

Source: prctl(2).  Each is kept by what it starts, and cannot be taken back.
"""

import ctypes
import errno
import os
from typing import Final

# include/uapi/linux/prctl.h
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_GET_NO_NEW_PRIVS: Final = 39
_PR_SET_MDWE: Final = 65
_PR_GET_MDWE: Final = 66
_PR_MDWE_REFUSE_EXEC_GAIN: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


def set_no_new_privileges() -> None:
    """Have no program that is run from here gain anything by its file."""
    _set(_PR_SET_NO_NEW_PRIVS)


def no_new_privileges() -> bool:
    return bool(_libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)


def set_no_new_code() -> None:
    """Have no memory become executable that was writable; OSError (EINVAL) before Linux 6.3."""
    try:
        _set(_PR_SET_MDWE)
    except OSError as error:
        if error.errno == errno.EINVAL:
            error.strerror = "needs Linux 6.3, or MemoryDenyWriteExecute= of a unit"
        raise


def no_new_code() -> bool:
    """Whether that is so: by the flag or, before Linux 6.3, by a filter of who started us."""
    answer = _libc.prctl(_PR_GET_MDWE, 0, 0, 0, 0)
    if answer < 0:
        return not _can_make_code()
    return bool(answer & _PR_MDWE_REFUSE_EXEC_GAIN)


def _can_make_code() -> bool:
    from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, PROT_EXEC, PROT_READ, PROT_WRITE, mmap

    own, writable = MAP_PRIVATE | MAP_ANONYMOUS, PROT_READ | PROT_WRITE
    try:
        mmap(-1, PAGESIZE, own, writable | PROT_EXEC).close()
    except OSError:
        with mmap(-1, PAGESIZE, own, writable) as area:
            start = ctypes.c_char.from_buffer(area)
            refused = _libc.mprotect(ctypes.byref(start), PAGESIZE, PROT_READ | PROT_EXEC)
            del start  # which would keep the area from being closed
        return not refused
    return True


def _set(flag: int) -> None:
    if _libc.prctl(flag, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
