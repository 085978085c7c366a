"""Landlock: which folders this process may do what in, whatever uid and capabilities it has.

Source: landlock(7), the kernel's Documentation/userspace-api/landlock.rst.  It does not cover
chmod(2), chown(2), statx(2), connect(2) to a path, nor network sockets other than TCP.  It is for
the calling thread, and for the threads that it starts from then on; and it is for good.
"""

import ctypes
import os
from collections.abc import Mapping
from typing import Final

# include/uapi/linux/landlock.h
EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
REMOVE_DIR: Final = 1 << 4
REMOVE_FILE: Final = 1 << 5
MAKE_DIR: Final = 1 << 7
REFER: Final = 1 << 13
_ALL_OF_ABI: Final = {2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_BIND_TCP_AND_CONNECT_TCP: Final = 3  # since ABI 4
_SCOPE_SIGNAL: Final = 2  # since ABI 6
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

# Calls since Linux 5.0 have one number on every architecture but alpha.
_NR_CREATE_RULESET: Final = 444
_NR_ADD_RULE: Final = 445
_NR_RESTRICT_SELF: Final = 446

_OLDEST: Final = 2
"""Before ABI 2 (Linux 5.19) nothing may be renamed into another folder, as the remover has to."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr; a kernel that knows less of it wants 0 in the rest."""

    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    """struct landlock_path_beneath_attr."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def restrict(allowed: Mapping[str, int]) -> None:
    """Allow what `allowed` says for each path and all below it, and nothing else anywhere.

    Neither TCP nor signals to processes outside are allowed, where the kernel knows how.  Needs
    no_new_privs.  OSError: ENOSYS or EOPNOTSUPP without Landlock, or with one that is too old.
    """
    abi = _call(_NR_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    if abi < _OLDEST:
        raise OSError(95, f"version {abi} of Landlock is too old; {_OLDEST} is needed")
    handled = max(rights for since, rights in _ALL_OF_ABI.items() if abi >= since)
    ruleset = _Ruleset(
        handled,
        _BIND_TCP_AND_CONNECT_TCP if abi >= 4 else 0,
        _SCOPE_SIGNAL if abi >= 6 else 0,
    )
    descriptor = _call(_NR_CREATE_RULESET, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0)
    try:
        for path, rights in allowed.items():
            _add(descriptor, path, rights & handled)
        _call(_NR_RESTRICT_SELF, descriptor, 0, 0)
    finally:
        os.close(descriptor)


def _add(ruleset: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(rights, parent)
        _call(_NR_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent)


def _call(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    answer: int = _libc.syscall(ctypes.c_long(number), *words)
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
