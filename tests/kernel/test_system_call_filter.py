"""The filter of system calls, as the kernel and strace(1), which knows their names, see it."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from private_world import in_child
from sockbroker.kernel.process_flags import set_no_new_privileges
from sockbroker.kernel.system_call_filter import denied, filter_calls

PROGRAM = """
import ctypes, os
from sockbroker.kernel.process_flags import set_no_new_privileges
from sockbroker.kernel.system_call_filter import denied, filter_calls
libc = ctypes.CDLL(None, use_errno=True)
set_no_new_privileges()
filter_calls()
for number in denied(os.uname().machine).values():
    libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
"""


def test_each_denied_call_is_the_one_of_its_name(tmp_path: Path) -> None:
    """None of them was made, and each was refused by the filter."""
    traced = tmp_path / "calls"
    subprocess.run(
        ["strace", "-qq", "-o", traced, sys.executable, "-c", PROGRAM], check=True, timeout=60
    )
    last = traced.read_text().rpartition("PR_SET_SECCOMP")[2]
    refused = set(re.findall(r"(?m)^(\w+)\(.*= -1 EPERM", last))
    assert denied(os.uname().machine).keys() <= refused | {"umount2"}
    assert re.search(r"(?m)^umount2?\(.*= -1 EPERM", last)


def filtered(act: str) -> int:
    """Run Python statements behind the filter; return the error number, or 0."""

    def enter() -> int:
        set_no_new_privileges()
        filter_calls()
        try:
            exec(act, {"os": os, "socket": socket})  # noqa: S102
        except OSError as error:
            return error.errno or 0
        return 0

    return in_child(enter)


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        ("socket.socket(socket.AF_UNIX).close()", 0),
        ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4).close()", 0),
        ("socket.socketpair()", 0),
        ("socket.socket(socket.AF_INET)", errno.EAFNOSUPPORT),
        ("socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)", errno.EAFNOSUPPORT),
        ("socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)", errno.EAFNOSUPPORT),
        ("socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", errno.EAFNOSUPPORT),
        ("os.waitpid(os.fork() or os._exit(0), 0)", 0),
        ("import threading; threading.Thread(target=int).start()", 0),
        ("os.execv('/bin/true', ['true'])", errno.EPERM),
        ("os.symlink('/', '/run/x')", errno.EPERM),
    ],
)
def test_what_is_left(act: str, expected: int) -> None:
    """Unix and netlink sockets, processes and threads, and nothing of the rest."""
    assert filtered(act) == expected


def test_a_machine_without_a_table() -> None:
    """It is told, and nothing is filtered by wrong numbers."""
    with pytest.raises(KeyError):
        denied("vax")
