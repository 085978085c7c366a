"""Who gets which directory, and exactly how it is: by the kernel's word, the policy, nothing else."""

from __future__ import annotations

import ctypes
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from peers import (
    DENIED,
    INVALID_APP,
    INVALID_PARAMETER,
    LIMIT_REACHED,
    NO_SUCH_DIRECTORY,
    PERMISSION_DENIED,
    Line,
    as_user,
    ask,
    ask_all,
    encoded,
    granted,
    listed,
    operator_asks,
    refused,
    user_asks,
)
from running import (
    ALICE,
    BOB,
    CAROL,
    CHAT,
    GUEST,
    GUESTS,
    MALLORY,
    OPERATOR,
    PATH,
    STAFF,
    World,
    eventually,
    layout,
    state,
    tree,
)

pytestmark = pytest.mark.root

POLICY = f"""\
uid_range: [1000, 2000]
apps:
  demo: {{allow: {{everyone: true}}}}
  shared:
    allow: {{users: [alice], groups: [chat]}}
    deny: {{users: [mallory], groups: [guests]}}
    mode: "2770"
    group: chat
    parent: {{mode: "0750", group: chat}}
  guarded:
    allow: {{everyone: true}}
    deny: {{groups: [guests, staff]}}
  numbers: {{allow: {{users: [{BOB}, "1500-1600"], groups: [7000]}}}}
  overflow: {{allow: {{users: ["0-65533", "65536-4294967294"]}}}}
  nobody: {{}}
"""

CLONE_NEWUSER = 0x10000000
PR_SET_DUMPABLE = 4


def no_groups_left(act: Callable[[], object], gid: int | None = None) -> None:
    """Drop every group in a user namespace, as any user may since he owns it; then act."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self is root's
    uid, real_gid = os.getuid(), os.getgid()
    ready, parent_end = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            libc.unshare(CLONE_NEWUSER)
            parent_end.send(b".")
            parent_end.recv(1)
            os.setgroups([])
            act()
            os._exit(0)
        finally:
            os._exit(1)
    raise AssertionError((ready, uid, real_gid, gid))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("ours", [0o000, 0o777], ids=["daemon-000", "daemon-777"])
def test_attributes_are_exact_whatever_the_umask(world: World, umask: int, ours: int) -> None:
    """Owner, group and mode, setgid too, are the policy's, whatever umask anybody has."""
    world.start(POLICY, before=lambda: os.umask(ours) and None)
    for app in ("demo", "shared"):
        path, outcome = granted(as_user(ALICE, lambda a=app: ask("Request", app=a), umask=umask))
        assert (path, outcome) == (f"/run/{app}/{ALICE}", "created")
    assert tree() == {
        **layout({"demo": {f"{ALICE}": (ALICE, ALICE, "0700")}, "guarded": {}, "numbers": {}}),
        **layout({"overflow": {}, "nobody": {}}),
        **layout({"shared": {f"{ALICE}": (ALICE, CHAT, "2770")}}),
        "shared": (0, CHAT, "0750"),
    }
    assert state("/run/sockbroker") == (0, 0, "0755")
    modes = {name: os.lstat(f"/run/{name}").st_mode & 0o7777 for name in (".sockbroker.lock",)}
    modes |= {path: os.lstat(path).st_mode & 0o7777 for path in (PATH, OPERATOR)}
    assert modes == {".sockbroker.lock": 0o600, PATH: 0o666, OPERATOR: 0o600}
