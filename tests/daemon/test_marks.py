"""What the library and `sockbrokerctl exec` do to a directory in use, and what the daemon does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from peers import Peer, as_user
from running import ALICE, RUN, World, eventually

import sockbroker
from sockbroker.errors import InUse

pytestmark = pytest.mark.root

POLICY = "apps: {demo: {allow: {everyone: true}}}"
COMMAND = [sys.executable, "-I", "-m", "sockbroker.ctl"]


def released() -> bool:
    """Release alice's directory as an operator; whether it was, and not refused as in use."""
    try:
        sockbroker.release("demo", user=ALICE)
    except InUse:
        return False
    return not (RUN / "demo" / str(ALICE)).exists()


def test_a_directory_that_the_library_holds_is_not_released(world: World) -> None:
    """Not before it is closed, by whichever process; also without any socket in it."""
    world.start(POLICY)
    ours, theirs = os.pipe(), os.pipe()

    def hold() -> None:
        with sockbroker.request("demo") as directory:
            assert directory.marked
            os.write(ours[1], b".")
            os.read(theirs[0], 1)

    holder = Peer(ALICE, hold)
    os.read(ours[0], 1)
    assert not released()
    os.write(theirs[1], b".")
    holder.result()
    assert released()


def test_a_directory_is_not_released_while_a_program_runs_in_it(world: World) -> None:
    """Which knows nothing of the broker, and need not have a socket there."""
    world.start(POLICY)

    def run() -> int:
        with subprocess.Popen(
            [*COMMAND, "exec", "demo", "--", "sh", "-c", 'cd "$RUNTIME_DIRECTORY"; >here; cat'],
            stdin=reading,
            stdout=subprocess.DEVNULL,
        ) as process:
            os.close(writing)
            return process.wait()

    reading, writing = os.pipe()
    program = Peer(ALICE, run)
    os.close(reading)
    eventually("running", (RUN / "demo" / str(ALICE) / "here").exists)
    assert not released()
    os.close(writing)  # and so it ends
    assert program.result() == 0
    assert released()


def test_a_live_listener_is_in_use_without_the_mark(world: World) -> None:
    """A socket of the library's keeps its directory after the mark is gone."""
    world.start(POLICY)
    ours, theirs = os.pipe(), os.pipe()

    def listen() -> None:
        with sockbroker.request("demo") as directory:
            server = directory.listen("s")
        os.write(ours[1], b".")
        os.read(theirs[0], 1)
        server.close()

    listener = Peer(ALICE, listen)
    os.read(ours[0], 1)
    assert not released()
    os.write(theirs[1], b".")
    listener.result()
    assert as_user(ALICE, lambda: os.listdir(RUN / "demo" / str(ALICE))) != []
    assert released()
