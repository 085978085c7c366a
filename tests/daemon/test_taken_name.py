"""Somebody else has @sockbroker: any user can, so the broker has to live with it."""

from __future__ import annotations

import signal
import socket
import subprocess

import pytest
from peers import Line, Peer, as_user, ask, granted, operator_asks, user_asks
from running import ALICE, BOB, CONTROL, MALLORY, PATH, Manager, World

pytestmark = pytest.mark.root

POLICY = "apps: {demo: {allow: {everyone: true}}}"


def squat(uid: int = MALLORY, *, listening: bool = True) -> Peer[None]:
    """Have a process of that user take the name until it is ended."""
    ours, theirs = socket.socketpair()

    def take() -> None:
        with socket.socket(socket.AF_UNIX) as taken:
            taken.bind(CONTROL)
            if listening:
                taken.listen()
            theirs.send(b".")
            while listening:
                taken.accept()[0].close()
            signal.pause()

    with ours, theirs:
        peer = Peer(uid, take)
        ours.recv(1)
    return peer


def test_the_paths_are_served_and_the_squatter_is_named(world: World) -> None:
    """It starts degraded, serves the paths, tells who it is, and takes the name when it is free.

    Taken out: what catches NameTaken in `Sockets._try_name`; then the start fails.
    """
    squatter = squat()
    with Manager(world.own / "notify") as manager:
        daemon = world.start(POLICY, environment=manager.environment())
        message = manager.wait_for("READY")
        assert message["STATUS"] == "degraded: 1 app, policy 1; 1 problem(s)"
        granted(as_user(ALICE, lambda: ask("Request", at=PATH, app="demo")))
        status = operator_asks("Status")["parameters"]
        assert status["state"] == "degraded"
        (problem,) = status["problems"]
        assert "@sockbroker" in problem
        assert f"uid {MALLORY} (pid {squatter.pid})" in problem
        (event,) = daemon.log("abstract name taken")
        assert (event["uid"], event["pid"]) == (MALLORY, squatter.pid)
        assert event["level"] == "error"
        squatter.end()
        message = manager.wait_for("STATUS")
        assert message["STATUS"] == "running: 1 app, policy 1"
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "existing"
    assert operator_asks("Status")["parameters"]["state"] == "running"
    assert len(daemon.log("abstract name served")) == 1
    assert len(daemon.log("abstract name taken")) == 1  # told once, however often it was tried


def test_another_squatter_is_named_too(world: World) -> None:
    """Who has the name is told as it is now.

    Taken out: the comparison with the holder so far in `Sockets._try_name`; then only the first is
    told.
    """
    first = squat()
    daemon = world.start(POLICY)
    daemon.process.send_signal(signal.SIGSTOP)  # else it might take the name in between
    first.end()
    second = squat(BOB)
    daemon.process.send_signal(signal.SIGCONT)
    daemon.wait_for("abstract name taken", 2)
    (problem,) = operator_asks("Status")["parameters"]["problems"]
    assert f"uid {BOB} (pid {second.pid})" in problem
    second.end()
    daemon.wait_for("abstract name served")


def test_a_squatter_who_does_not_listen(world: World) -> None:
    """Whoever has only bound the name cannot be named; he is reported and outlived all the same.

    Taken out: what catches the error of connect(2) in `listeners._holder`; then something else is
    told.
    """
    squatter = squat(listening=False)
    daemon = world.start(POLICY)
    (problem,) = operator_asks("Status")["parameters"]["problems"]
    assert "@sockbroker is taken by somebody" in problem
    squatter.end()
    daemon.wait_for("abstract name served")
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"


def test_clients_are_not_fooled(world: World) -> None:
    """The commands as a user runs them go to the path while the name is not root's.

    Taken out: the uid that `address._verify` wants; then the squatter is asked.
    """
    squatter = squat()
    world.start(POLICY)
    command = ["setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups"]
    request = [*command, "sockbrokerctl", "request", "demo"]
    done = subprocess.run(request, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"/run/demo/{ALICE}\n")
    named = [*command, "sockbrokerctl", "--address", "unix:@sockbroker", "request", "demo"]
    done = subprocess.run(named, capture_output=True, text=True, timeout=60)
    assert done.returncode == 69
    assert f"{MALLORY}" in done.stderr
    squatter.end()


def test_a_look_alike_takes_nothing(world: World) -> None:
    """Names that only begin like ours are other names.

    Taken out: the exact length of the name in `_bind_name` (it was padded with NULs); then it is
    taken.
    """
    names = (CONTROL + b"\0", b"\0Sockbroker", CONTROL + b"\0" * 97)
    taken = [socket.socket(socket.AF_UNIX) for _ in names]
    for each, name in zip(taken, names, strict=True):
        each.bind(name)
        each.listen()
    world.start(POLICY)
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    assert operator_asks("Status")["parameters"]["state"] == "running"
    for each in taken:
        each.close()


def test_the_name_is_exactly_ten_bytes(world: World) -> None:
    """No padding: whoever connects to the ten bytes after the NUL reaches the broker.

    Taken out: the exact length of the name in `_bind_name` (it was padded with NULs); then nobody
    is there.
    """
    world.start(POLICY)
    with Line(b"\0sockbroker") as line:
        assert line.socket.getpeername() == b"\0sockbroker"
    for other in (b"\0sockbroker\0", b"\0sockbroker".ljust(108, b"\0")):
        with pytest.raises(ConnectionRefusedError):
            Line(other)


def test_another_control_name(world: World) -> None:
    """--control-name and --base serve somewhere else, beside a squatter on the usual name.

    Taken out: the name from the command line in `Sockets`; then the squatter is met.
    """
    (world.own / "base").mkdir(mode=0o755)
    squatter = squat()
    base = str(world.own / "base")
    daemon = world.start(POLICY, "--control-name", "elsewhere", "--base", base)
    reply = as_user(ALICE, lambda: ask("Request", at=b"\0elsewhere", app="demo"))
    assert granted(reply) == (f"{base}/demo/{ALICE}", "created")
    path = f"{base}/sockbroker/io.sockbroker"
    assert granted(as_user(ALICE, lambda: ask("Request", at=path, app="demo")))[1] == "existing"
    assert daemon.log("ready")[0]["state"] == "running"
    daemon.end()
    squatter.end()
