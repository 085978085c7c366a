"""A user who fills /run: what there is is served, and it can be started again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from peers import LIMIT_REACHED, as_mallory, ask, granted, operator_asks, refused, user_asks
from running import ALICE, BOB, MALLORY, MS_REMOUNT, RUN, World, eventually, mount

pytestmark = pytest.mark.root

POLICY = "apps: {demo: {allow: {everyone: true}, at_boot: {users: [alice]}}}"
HIS = RUN / f"demo/{MALLORY}"


def with_bytes() -> None:
    """To the last page."""
    with (HIS / "full").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def with_names() -> None:
    """To the last inode."""
    number = 0
    while True:
        number += 1
        Path(HIS / f"{number}").touch()


@pytest.mark.parametrize("fill", [with_bytes, with_names])
def test_a_start_while_run_is_full(world: World, fill: Callable[[], None]) -> None:
    """Killed and started again it serves what there is, refuses what is new, and says why.

    Room that is made is used at once.  Taken out: that `PidFile` goes on without a file; then the
    daemon does not start.
    """
    daemon = world.start(POLICY)
    mount("tmpfs", RUN, "tmpfs", MS_REMOUNT, "size=2m,nr_inodes=200")
    user_asks(MALLORY, "Request", app="demo")

    def until_full() -> None:
        try:
            fill()
        except OSError as error:
            os.write(2, f"{error}\n".encode())

    as_mallory(until_full)
    for again in (True, False):
        for uid in (ALICE, MALLORY):
            assert granted(user_asks(uid, "Request", app="demo"))[1] == "existing"
        reply = user_asks(BOB, "Request", app="demo")
        if fill is with_names:
            assert refused(reply) == LIMIT_REACHED
            assert reply["parameters"]["resource"] == "space"
        else:  # a directory needs no page on a tmpfs
            assert granted(reply)[0] == f"/run/demo/{BOB}"
        if again:
            daemon.kill()
            daemon = world.start()
            as_mallory(until_full)
    assert operator_asks("Status")["parameters"]["policyGeneration"] == 1
    assert as_mallory(lambda: ask("Release", app="demo")) == {}
    eventually("room", lambda: "error" not in user_asks(BOB, "Request", app="demo"))
    daemon.end()
