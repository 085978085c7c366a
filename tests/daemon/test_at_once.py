"""Several who ask at the same moment."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter

import pytest
from peers import (
    LIMIT_REACHED,
    Line,
    Peer,
    ask,
    granted,
    operator_asks,
)
from running import (
    ALICE,
    BOB,
    PATIENCE,
    World,
    eventually,
    state,
)

pytestmark = pytest.mark.root


def test_two_users_ask_at_once(world: World) -> None:
    """Two users ask for the same app at the same moment, 1000 times: right each time."""
    world.start("apps: {demo: {allow: {everyone: true}}}")
    at_once([ALICE, BOB], 1000)


def test_one_user_asks_twice_at_once(world: World) -> None:
    """One user's two processes ask at the same moment, 1000 times: one directory each time."""
    world.start("apps: {demo: {allow: {everyone: true}}}")
    at_once([ALICE, ALICE], 1000)


def test_one_user_asks_while_his_directory_is_made(world: World) -> None:
    """However slow the file system is (200 ms for each mkdir), it is made once for all who ask.

    Taken out, to see it fail: that a directory is looked for before one is made.
    """
    slow = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=mkdirat"]
    slow += ["-e", "inject=mkdirat:delay_enter=200000"]
    world.start("apps: {demo: {allow: {everyone: true}}}", under=slow)
    peers = [
        Peer(uid, lambda: granted(ask("Request", app="demo")))
        for uid in (ALICE, BOB)
        for _ in range(5)
    ]
    answers = Counter(peer.result() for peer in peers)
    assert answers == {
        (f"/run/demo/{uid}", outcome): count
        for uid in (ALICE, BOB)
        for outcome, count in (("created", 1), ("existing", 4))
    }
    assert sorted(os.listdir("/run/demo")) == [".sockbroker", f"{ALICE}", f"{BOB}"]


def at_once(uids: list[int], times: int) -> None:
    """Have processes of these users ask together, look at the answers, and release, so often."""
    gate = multiprocessing.get_context("fork").Barrier(len(uids) + 1)

    def repeat() -> list[tuple[str, str]]:
        answers = []
        for _ in range(times):
            with Line() as line:
                gate.wait(PATIENCE)  # all are connected, and send now
                answers.append(granted(line.call("Request", app="demo")))
            gate.wait(PATIENCE)  # all were answered
            gate.wait(PATIENCE)  # the disk was looked at
        return answers

    peers = [Peer(uid, repeat) for uid in uids]
    try:
        expected = {f"{uid}": (uid, uid, "0700") for uid in uids}
        for _ in range(times):
            gate.wait(PATIENCE)
            gate.wait(PATIENCE)
            names = [name for name in os.listdir("/run/demo") if not name.startswith(".")]
            assert {name: state(f"/run/demo/{name}") for name in names} == expected
            for uid in set(uids):
                release(uid)
            gate.wait(PATIENCE)
    except BaseException:
        for peer in peers:
            peer.end()
        raise
    answers = [peer.result() for peer in peers]
    for uid, given in zip(uids, answers, strict=True):
        assert {path for path, _ in given} == {f"/run/demo/{uid}"}
    outcomes = [sorted(outcome for _, outcome in pair) for pair in zip(*answers, strict=True)]
    second = "created" if len(set(uids)) > 1 else "existing"
    assert outcomes == [["created", second]] * times


def release(uid: int) -> None:
    """Release as an operator, when those released before are deleted."""

    def done() -> bool:
        reply = operator_asks("Release", app="demo", uid=uid, force=True)
        assert reply.get("error") in {None, LIMIT_REACHED}, reply
        return not reply

    eventually("released", done)
