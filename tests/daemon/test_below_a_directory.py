"""What the daemon does with what is in a runtime directory, told by the kernel.

Promised: the daemon never follows a link, opens a fifo or device, crosses a mount or runs anything
below a runtime directory.  strace(1) shows every call that has a path or a descriptor of one.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest
from peers import as_mallory, ask_all, listed, operator_asks, user_asks
from running import MALLORY, OPERATOR, RUN, World, eventually, mount
from witness import furnish, nothing_outside_changes, silent_file_server

pytestmark = pytest.mark.root

POLICY = "apps: {demo: {allow: {everyone: true}}}"
HIS = RUN / f"demo/{MALLORY}"

HARMLESS = re.compile(
    r"""
      unlinkat\(\d+,\ "[^"]*",\ 0\)
    | unlinkat\(\d+,\ "[^"]*",\ AT_REMOVEDIR\)
    | openat2\(\d+,\ "[^"]*",\ \{flags=[A-Z_|]*O_NOFOLLOW[A-Z_|]*O_PATH[A-Z_|]*,
        \ resolve=[A-Z_|]*RESOLVE_NO_XDEV[A-Z_|]*RESOLVE_NO_SYMLINKS[A-Z_|]*\},\ \d+\)
    | (statx|newfstatat)\(\d+,\ "[^"]*",\ [A-Z_|]*AT_SYMLINK_NOFOLLOW[A-Z_|]*AT_STATX_DONT_SYNC.*
    | renameat2\(\d+,\ "[^"]*",\ \d+,\ "[0-9a-f]{32}-\d+",\ RENAME_NOREPLACE\)
    """,
    re.VERBOSE,
)


def test_nothing_below_it_is_followed_opened_crossed_or_run(world: World) -> None:
    """Of what is in a directory only directories are opened, as themselves and on their own mount.

    Taken out: that `_delete_leaf` does not ask for the type (it opened each entry to look).
    """
    furnish()
    trace = world.own / "trace"
    under = ["strace", "-D", "-f", "-qq", "-s", "300", "-o", str(trace)]
    under += ["-e", "trace=%file,%process,openat2,statx,unlinkat,renameat2,mount"]
    world.start(POLICY, under=under)
    user_asks(MALLORY, "Request", app="demo")

    def fill() -> None:
        os.chdir(HIS)
        os.mkdir("evil-folder")
        for folder in (".", "evil-folder"):
            os.mkfifo(f"{folder}/evil-fifo")
            os.symlink("/etc", f"{folder}/evil-link")
            os.symlink("/etc/shadow", f"{folder}/evil-file-link")
            Path(folder, "evil-program").write_text("#!/bin/sh\ntouch /run/other/was-run\n")
            os.chmod(f"{folder}/evil-program", 0o6755)
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(f"{folder}/evil-socket")
        for name in ("evil-mount", "evil-server", "evil-full"):
            os.mkdir(name)
        Path("evil-full/evil-file").touch()

    as_mallory(fill)
    os.mknod(HIS / "evil-device", 0o666 | 0o020000, os.makedev(1, 3))
    mount("tmpfs", HIS / "evil-mount", "tmpfs")
    (HIS / "evil-mount/evil-inner").touch()
    inner = (HIS / "evil-mount/evil-inner").lstat()
    with nothing_outside_changes(), silent_file_server(HIS / "evil-server", MALLORY):
        began = len(trace.read_text().splitlines())
        os.chmod(HIS, 0o777)
        user_asks(MALLORY, "Request", app="demo")
        assert listed(ask_all("List", at=OPERATOR))
        operator_asks("Reload")
        assert operator_asks("Release", app="demo", uid=MALLORY, force=True) == {}
        eventually("parked", lambda: operator_asks("Status")["parameters"]["problems"])
        [aside] = [name for name in os.listdir(RUN / "demo") if name.startswith(".old-")]
        left = sorted(os.listdir(RUN / "demo" / aside))
        assert [name for name in left if name.startswith("evil")] == ["evil-mount", "evil-server"]
        assert (RUN / "demo" / aside / "evil-mount/evil-inner").lstat() == inner
    calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines()[began:]]
    assert not [call for call in calls if call.startswith(("exec", "fork", "vfork"))]
    below = [call.partition(" = ")[0] for call in calls if "evil" in call and "exited" not in call]
    below = [call for call in below if "resumed" not in call]
    assert len(below) > 10
    strange = [call for call in below if not HARMLESS.match(call.replace(" <unfinished ...>", ")"))]
    assert strange == []
