"""Whatever it is asked, and however often: it takes no more memory, descriptors or threads."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from peers import REQUEST, Line, Peer, encoded
from running import ALICE, BOB, CHAT, MALLORY, OPERATOR, RUN, Daemon, World, eventually

pytestmark = pytest.mark.root

SECONDS = float(os.environ.get("SOCKBROKER_SOAK_SECONDS", "20"))
"""Half of them to warm up: what is kept open, and the interpreter's own memory, have a most."""

MOST_WARMING = 600.0

ROOM = 1024
"""KiB that memory may grow by after that: it goes up and down by a tenth of it.  In the shortest of
runs thousands of operations are still to come, which a few hundred bytes of each make more of."""

MOST_THREADS = 7
"""The loop's, each worker's, and one that looks names up."""

KEPT_OPEN = ("demo", "odd", "even")
"""Folders of apps that were asked for."""

POLICIES = [
    f"""\
apps:
  demo: {{allow: {{everyone: true}}, mode: "2750", group: {CHAT}}}
  {name}: {{allow: {{everyone: true}}, at_boot: {{users: [carol]}}}}
  nobody: {{}}
"""
    for name in ("odd", "even")
]


def ask_and_release() -> None:
    """On one connection: a directory, something in it, and away with all of it."""
    with Line() as line:
        if "error" not in line.call("Request", app="demo"):
            with contextlib.suppress(FileExistsError, FileNotFoundError, PermissionError):
                os.makedirs(RUN / f"demo/{os.getuid()}/a/b")
        line.call("List", app="demo")
        line.call("Release", app="demo", force=random.random() < 0.5)


def drift() -> None:
    """What an owner can do to his directory is mended."""
    with Line() as line:
        line.call("Request", app="demo")
        with contextlib.suppress(FileNotFoundError):
            os.chmod(RUN / f"demo/{os.getuid()}", 0o777)
        line.call("Request", app="demo")


def refused() -> None:
    """Calls that come to nothing."""
    with Line() as line:
        for app in ("nobody", "absent", "../etc", "x" * 5000):
            line.call("Request", app=app)
        line.call("Reload")
        line.call("org.varlink.service.GetInterfaceDescription", interface="io.sockbroker")


def broken() -> None:
    """What is no message, or none that ends, or is left unread."""
    for data in (b"nonsense\0", REQUEST[:20], REQUEST * 50, b"\0\0", os.urandom(100) + b"\0"):
        with Line() as line, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            line.send(data)


def descriptors() -> None:
    """A message with files in it, that nobody has asked for."""
    with Line() as line, open("/etc/passwd") as file, contextlib.suppress(PermissionError):
        socket.send_fds(line.socket, [REQUEST], [file.fileno()] * 10)


def operate() -> None:
    """All that an operator does."""
    with Line(OPERATOR) as line:
        line.call("Status")
        line.call("Request", app="demo", uid=random.randrange(2000, 2050))
        line.call("Release", app="demo", uid=random.randrange(2000, 2050), force=True)
        line.send(encoded("List", {}, more=True))
        while line.reply().get("continues"):
            pass


def in_turn(world: World) -> Callable[[], None]:
    """Reload, with one policy and then the other, every now and then; else nothing."""
    count = 0

    def reload() -> None:
        nonlocal count
        count += 1
        world.write(POLICIES[count % 2])
        with Line(OPERATOR) as line:
            assert "error" not in line.call("Reload")
        time.sleep(0.2)

    return reload


USERS = [ask_and_release, ask_and_release, drift, refused, broken, descriptors]


def keep_at(acts: list[Callable[[], None]], end: Path) -> int:
    """One after the other until there is that file; how many."""
    done = 0
    while not end.exists():
        random.choice(acts)()
        done += 1
    return done


def threads(daemon: Daemon) -> int:
    """How many it has."""
    return len(os.listdir(f"/proc/{daemon.pid}/task"))


def test_nothing_grows(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """After thousands of operations of all kinds it takes what it took after the first ones.

    SOCKBROKER_SOAK_SECONDS says for how long they go on: 20, and hours if that is wanted.  Then it
    stands still for a while and goes on (SIGSTOP), and takes no more for that either.

    Seen to fail when each reload kept for good what was garbage at that moment (gc.freeze), when
    every connection stayed in a list, when a release left its folder open, and when each job had a
    thread of its own that stayed.
    """
    world.write(POLICIES[0])
    daemon = world.start()
    fewest = daemon.descriptors()
    end = world.own / "end"
    peers = [
        *(Peer(uid, lambda: keep_at(USERS, end), seconds=SECONDS + 600) for uid in (ALICE, BOB)),
        Peer(MALLORY, lambda: keep_at(USERS, end), seconds=SECONDS + 600),
        Peer(0, lambda: keep_at([operate], end), seconds=SECONDS + 600),
        Peer(0, lambda: keep_at([in_turn(world)], end), seconds=SECONDS + 600),
    ]
    warming = min(SECONDS / 2, MOST_WARMING)
    time.sleep(warming)
    before = daemon.resident(), threads(daemon)
    time.sleep((SECONDS - warming) / 2)
    daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    daemon.process.send_signal(signal.SIGCONT)
    time.sleep((SECONDS - warming) / 2)
    after = daemon.resident(), threads(daemon)
    end.touch()
    done = sum(peer.result() for peer in peers)
    with capsys.disabled():
        shown = f"{done} operations in {SECONDS:.0f} s: {before[0]} KiB, then {after[0]} KiB"
        print(f"\n{shown}, {after[1]} threads")
    assert done > 10 * SECONDS
    assert after[0] <= before[0] + ROOM
    assert after[1] <= MOST_THREADS + 1  # one may just be ending
    eventually("threads that have ended", lambda: threads(daemon) <= MOST_THREADS)
    eventually("closed", lambda: daemon.descriptors() <= fewest + len(KEPT_OPEN))
    assert daemon.log("fault") == []
    daemon.end()
