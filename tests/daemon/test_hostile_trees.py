"""What an owner can leave behind in his directory, and how it is deleted.

Nobody waits meanwhile, and nothing outside is touched: /etc and the rest of /run are compared,
attribute for attribute.  Said at each test: what was taken out of the program to see it fail.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from asking import Asking, usual
from peers import (
    Peer,
    as_mallory,
    ask_all,
    granted,
    listed,
    operator_asks,
    user_asks,
)
from running import (
    ALICE,
    MALLORY,
    OPERATOR,
    RUN,
    World,
    eventually,
)
from trees import HIS, TREES
from witness import (
    furnish,
    nothing_outside_changes,
    wait_until_deleted,
)

pytestmark = pytest.mark.root

POLICY = "apps: {demo: {allow: {everyone: true}}}"

PROMISED = 0.05
SLACK = 10
"""The attackers, the one who is timed and this process share two processors with the daemon."""


def everything_there_is() -> None:
    """Fill his directory with one of each thing that stops, follows or leads whoever opens it."""
    os.chdir(HIS)
    os.link("/run/for-all", "hard")
    (HIS / "deep").mkdir()
    os.link("/run/for-all", "deep/hard")
    for name in ("fifo", "deep/fifo", "\x1b[2J\n\udcff", "deep/-rf"):
        os.mkfifo(name, 0o666)
    for name, target in (("etc", "/etc"), ("up", ".."), ("self", "."), ("loop", "loop")):
        os.symlink(target, name)
        os.symlink(target, f"deep/{name}")
    for name in (".sockbroker", ".old-0-0123456789abcdef", "0", "*", "~", "deep/.sockbroker"):
        os.mkdir(name)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("socket")
    Path("setuid").write_text("#!/bin/sh\n")
    os.chmod("setuid", 0o6755)
    for number in range(100):
        os.symlink("/etc/shadow", f"deep/{'x' * 250}{number}")
    os.chmod("deep", 0)


def test_links_fifos_sockets_and_strange_names(world: World) -> None:
    """Hard links are only names, nothing is opened or followed, and all of it is gone at once.

    Taken out: that `_delete_leaf` unlinks before it opens (it opened with O_RDONLY to look);
    then the fifo holds the deletion up for good.
    """
    furnish()
    world.start(POLICY)
    shared = RUN / "for-all"
    before = shared.lstat()
    with nothing_outside_changes("for-all"):
        for _ in range(3):
            user_asks(MALLORY, "Request", app="demo")
            as_mallory(everything_there_is)
            assert shared.lstat().st_nlink == 3
            rows = listed(ask_all("List", at=OPERATOR, app="demo"))
            assert [row["uid"] for row in rows] == [MALLORY]
            assert granted(user_asks(MALLORY, "Request", app="demo"))[1] == "existing"
            began = time.monotonic()
            assert user_asks(MALLORY, "Release", app="demo") == {}
            wait_until_deleted()
            assert time.monotonic() - began < 1 * SLACK
    after = shared.lstat()
    assert after[:7] == before[:7]
    assert shared.read_text() == "stays"


@pytest.mark.parametrize("make", TREES)
def test_large_trees_delay_nobody(world: World, make: Callable[[], None]) -> None:
    """While one is deleted others are served as ever, root at once, with few descriptors.

    Taken out: the worker of `Disposal._delete` (the loop called `remove`); then all wait.
    """
    furnish()
    daemon = world.start(POLICY)
    user_asks(MALLORY, "Request", app="demo")
    as_mallory(make)
    before = daemon.descriptors()
    most = before
    with nothing_outside_changes():
        asking = Asking(ALICE)
        operator = Asking(0, lambda: operator_asks("Status"))
        assert granted(user_asks(MALLORY, "Request", app="demo"))[1] == "existing"
        assert user_asks(MALLORY, "Release", app="demo") == {}
        assert granted(user_asks(MALLORY, "Request", app="demo"))[1] == "created"
        end = time.monotonic() + 240
        while len(os.listdir(RUN / "demo")) > 3:
            most = max(most, daemon.descriptors())
            assert time.monotonic() < end
            time.sleep(0.005)
        waits, of_operator = asking.stop(), operator.stop()
        assert os.listdir(HIS) == []
    assert usual(waits) < PROMISED * SLACK
    assert max(waits) < 1 * SLACK
    assert usual(of_operator) < PROMISED * SLACK
    assert most <= before + 8 + 10  # seven of the deletion, and the connections of this test
    daemon.end()


def test_refilling_while_it_is_deleted(world: World) -> None:
    """Who goes on filling what he has released, through what he has open, does not keep it.

    Taken out: that `_take_over` gives it to root before it is emptied; then it is never empty.
    """
    furnish()
    world.start(POLICY)
    for _ in range(5):
        granted(user_asks(MALLORY, "Request", app="demo"))
        as_mallory(lambda: os.makedirs(HIS / "a/b/c"))

        def refill() -> None:
            os.chdir(HIS / "a/b/c")
            inner = os.open(HIS / "a", os.O_RDONLY)
            number = 0
            while True:
                number += 1
                for name in (f"x{number}", f"../x{number}", f"../../x{number}"):
                    try:
                        os.mkdir(name)
                        os.mkdir(f"{number}", dir_fd=inner)
                        os.fchmod(inner, 0o777)
                    except OSError:
                        pass

        with nothing_outside_changes():
            refilling = [Peer(MALLORY, refill) for _ in range(2)]
            asking = Asking(ALICE)
            eventually("at it", lambda: (HIS / "a/b/c/x20").exists())
            assert user_asks(MALLORY, "Release", app="demo") == {}
            wait_until_deleted()
            for each in refilling:
                each.end()
            assert usual(asking.stop()) < PROMISED * SLACK
