"""What a process has the kernel refuse to it from then on, by a flag of its own.

Source: prctl(2).  Each is kept by what it starts, and cannot be taken back.
"""

import ctypes
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
    _set(_PR_SET_MDWE)


def no_new_code() -> bool:
    answer = _libc.prctl(_PR_GET_MDWE, 0, 0, 0, 0)
    return bool(answer > 0 and answer & _PR_MDWE_REFUSE_EXEC_GAIN)  # -1 before Linux 6.3


def _set(flag: int) -> None:
    if _libc.prctl(flag, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
