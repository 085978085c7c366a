"""A /run and accounts of a test's own, and `sockbrokerctl why` in it, as a whole process."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import sockbroker
from private_world import (
    ALICE,
    MALLORY,
    as_user,
    in_child,
    in_private_world,
)

T = TypeVar("T")

BOB = 2000
TEAM = 3000
ACCOUNTS = {
    "/etc/passwd": (
        "root:x:0:0::/:/bin/sh\n"
        f"alice:x:{ALICE}:{ALICE}::/:/bin/sh\n"
        f"bob:x:{BOB}:{BOB}::/:/bin/sh\n"
        f"mallory:x:{MALLORY}:{MALLORY}::/:/bin/sh\n"
    ),
    "/etc/group": (
        f"root:x:0:\nalice:x:{ALICE}:\nbob:x:{BOB}:\nmallory:x:{MALLORY}:\nteam:x:{TEAM}:bob\n"
    ),
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\n",
}

SOURCES = str(Path(sockbroker.__file__).parent.parent)
COMMAND = (
    f"import sys; sys.path.insert(0, {SOURCES!r}); from sockbroker.ctl import main; "
    "sys.exit(main())"
)
MS_BIND = 4096

_libc = ctypes.CDLL(None, use_errno=True)

Answer = dict[str, Any]


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    words = [word.encode() for word in (source, target, kind, options)]
    if _libc.mount(*words[:3], flags, words[3] or None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def in_world(test: Callable[[], T]) -> T:
    """Run a test as root with a /run and accounts of its own."""

    def enter() -> T:
        os.umask(0o022)
        for path, text in ACCOUNTS.items():
            own = f"/run/{path.replace('/', '-')}"
            Path(own).write_text(text)
            mount(own, path, "", MS_BIND)
        return test()

    return in_private_world(enter)


def ctl(*arguments: str | bytes, cwd: str | None = None) -> tuple[int, str, str]:
    """Run `why` as whoever calls this; return exit status, output and errors."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", COMMAND, "why", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=cwd,
    )
    return done.returncode, done.stdout, done.stderr


def why(*arguments: str | bytes, cwd: str | None = None) -> Answer:
    """Run `why` with --json, and see that the exit status is the answer's."""
    status, output, errors = ctl(*arguments, "--json", cwd=cwd)
    assert errors == ""
    answer: Answer = json.loads(output)
    assert status == {True: 0, False: 77, None: 1}[answer["can_connect"]]
    return answer


def deciding(answer: Answer) -> Answer:
    """Give the step that decided."""
    step: Answer = answer["steps"][answer["deciding"]]
    return step


def connects(path: str | bytes, kind: int = socket.SOCK_STREAM) -> str | None:
    """Connect for real; return what the kernel says."""
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.setblocking(False)
        try:
            client.connect(path)
        except OSError as error:
            return error.strerror or str(error)  # Python itself refuses what is too long
    return None


def as_bob(path: str | bytes) -> str | None:
    """Connect for real as bob, in all his groups."""

    def become() -> str | None:
        os.setgroups([BOB, TEAM])
        os.setresgid(BOB, BOB, BOB)
        os.setresuid(BOB, BOB, BOB)
        return connects(path)

    return in_child(become)


def marked(text: str) -> str:
    """Give the one line that is marked."""
    (line,) = [line for line in text.splitlines() if line.startswith(">>")]
    return line


def listening(
    path: str | bytes, mode: int = 0o777, uid: int = ALICE, gid: int = -1
) -> socket.socket:
    """Bind and listen, as root, and give the file away."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(5)
    os.chmod(path, mode)
    os.chown(path, uid, uid if gid == -1 else gid)
    return server


@contextlib.contextmanager
def netcat(uid: int, umask: int, path: str) -> Iterator[None]:
    """Have that user run `nc -lU` with that umask, as people do."""
    server = subprocess.Popen(
        ["nc.openbsd", "-lkU", path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        user=uid,
        group=uid,
        extra_groups=[],
        umask=umask,
    )
    try:
        while not (os.path.exists(path) and as_user(uid, lambda: connects(path)) is None):
            assert server.poll() is None
            time.sleep(0.01)
        yield
    finally:
        server.kill()
        server.wait()
        os.unlink(path)


def run_mend(answer: Answer) -> None:
    """Do what the first mend says, through a shell, as who it says."""
    mend = answer["mends"][0]
    uid = {"root": 0, "alice": ALICE, "bob": BOB}[mend["as"][0]]

    def run() -> None:
        subprocess.run(["/bin/sh", "-c", mend["command"]], check=True, stdin=subprocess.DEVNULL)

    in_child(run) if uid == 0 else as_user(uid, run)


def wait_for(path: str) -> None:
    """Wait until something has the name."""
    for _ in range(1000):
        if os.path.lexists(path):
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not come")
