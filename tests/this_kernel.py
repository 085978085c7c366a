"""What the kernel that the tests run on has, of what the broker uses where it is there."""

import ctypes
import socket

_PR_GET_MDWE = 66
_NR_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_CREATE_RULESET_VERSION = 1
SO_PASSRIGHTS = 83  # include/uapi/asm-generic/socket.h

_libc = ctypes.CDLL(None, use_errno=True)


def _refuses_descriptors() -> bool:
    with socket.socket(socket.AF_UNIX) as any_socket:
        try:
            any_socket.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        except OSError:
            return False
        return True


REFUSES_DESCRIPTORS = _refuses_descriptors()
"""At the sender, since Linux 6.16."""

LANDLOCK = _libc.syscall(_NR_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
"""Its version; -1 without."""

SCOPES_SIGNALS = LANDLOCK >= 6
"""Since Linux 6.12."""

_THERE = {
    "mounts": True,
    "no_new_privs": True,
    "capabilities": True,
    "no_new_code": _libc.prctl(_PR_GET_MDWE, 0, 0, 0, 0) >= 0,  # since Linux 6.3
    "landlock": LANDLOCK >= 2,  # since Linux 5.19, where it is switched on
    "system_calls": True,
}
LAYERS = [layer for layer, there in _THERE.items() if there]
"""Of confinement, as the broker names them."""

MISSING_LAYERS = _THERE.keys() - set(LAYERS)
