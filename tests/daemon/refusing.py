"""A kernel that lacks something: a filter of system calls that answers as such a kernel does.

The daemon is started under the filter, so that this holds for all that it is and starts, as on a
machine whose kernel is older or whose container refuses.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# By os.uname().machine.
NUMBERS = {
    "x86_64": {"setsockopt": 54, "capset": 126, "prctl": 157, "mount": 165, "unshare": 272}
    | {"mmap": 9, "mprotect": 10},
    "aarch64": {"setsockopt": 208, "capset": 91, "prctl": 167, "mount": 40, "unshare": 97}
    | {"mmap": 222, "mprotect": 226},
}[os.uname().machine] | {"openat2": 437, "mount_setattr": 442, "landlock_create_ruleset": 444}

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ERROR, ALLOW = 0x00050000, 0x7FFF0000
FIRST_ARGUMENT = 16

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call with these first arguments (-1: any) is answered with that error."""

    name: str
    error: int
    arguments: tuple[int, ...] = ()


def refuse(refusals: Iterable[Refusal]) -> None:
    """Put the filter on this process, for good; root needs no leave for that."""
    code = b"".join(
        struct.pack("=HBBI", *each) for refusal in refusals for each in instructions(refusal)
    ) + struct.pack("=HBBI", RETURN, 0, 0, ALLOW)
    program = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("@HP", len(code) // 8, ctypes.addressof(program))
    if _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described, 0, 0):
        raise OSError(ctypes.get_errno(), "no filter of system calls")


SO_PASSRIGHTS = 83  # include/uapi/asm-generic/socket.h, Linux 6.16

NO_PASSRIGHTS = Refusal("setsockopt", errno.ENOPROTOOPT, (-1, socket.SOL_SOCKET, SO_PASSRIGHTS))

OLDER_KERNEL = [sys.executable, "-I", __file__]
"""Under which a daemon is started that cannot have descriptors refused at the sender."""


def instructions(refusal: Refusal) -> Iterator[tuple[int, int, int, int]]:
    """Compare one word after the other, and jump behind the last if it is another."""
    words = [(0, NUMBERS[refusal.name])]
    words += [
        (FIRST_ARGUMENT + 8 * at, word) for at, word in enumerate(refusal.arguments) if word >= 0
    ]
    for left, (offset, word) in zip(range(len(words), 0, -1), words, strict=True):
        yield LOAD, 0, 0, offset
        yield JUMP_IF_EQUAL, 0, 2 * left - 1, word
    yield RETURN, 0, 0, ERROR | refusal.error


if __name__ == "__main__":
    refuse([NO_PASSRIGHTS])
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - there is nothing for a shell
