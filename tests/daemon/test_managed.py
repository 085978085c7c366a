"""What a service manager hands over and is told, and how the daemon ends."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peers import REQUEST, Line, Peer, as_user, ask, encoded, granted, operator_asks, user_asks
from running import (
    ALICE,
    BOB,
    CONTROL,
    MALLORY,
    MS_BIND,
    OPERATOR,
    PATH,
    RUN,
    Daemon,
    Manager,
    World,
    descriptors_of,
    eventually,
    mount,
)

pytestmark = pytest.mark.root

POLICY = "apps: {demo: {allow: {everyone: true}}}"


# sd_notify.


@pytest.mark.parametrize("address", ["path", "abstract"])
def test_what_the_manager_is_told(world: World, address: str) -> None:
    """READY after the start, RELOADING with the time and READY again, STOPPING at the end.

    Taken out: the time of RELOADING.
    """
    with Manager(world.own / "notify") as manager:
        environment = manager.environment()
        if address == "abstract":
            manager.socket.close()
            manager.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            manager.socket.bind(b"\0notify")
            manager.socket.settimeout(60)
            environment["NOTIFY_SOCKET"] = "@notify"
        daemon = world.start(POLICY, environment=environment)
        ready = {"READY": "1", "STATUS": "running: 1 app, policy 1"}
        assert manager.wait_for("READY") == ready
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        daemon.process.send_signal(signal.SIGHUP)
        reloading = manager.wait_for("RELOADING")
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert before <= int(reloading["MONOTONIC_USEC"]) <= after
        assert manager.wait_for("READY")["STATUS"] == "running: 1 app, policy 2"
        world.write("nonsense")
        daemon.process.send_signal(signal.SIGHUP)
        manager.wait_for("RELOADING")
        assert "the newest policy on disk is bad" in manager.wait_for("READY")["STATUS"]
        daemon.process.send_signal(signal.SIGTERM)
        manager.wait_for("STOPPING")
        assert daemon.ended() == 0


def test_a_manager_that_does_not_listen(world: World) -> None:
    """A wrong NOTIFY_SOCKET is no reason not to serve.

    Taken out: what catches the error of connect(2) in `Notifier`.
    """
    for address in (str(world.own / "nothing"), "@nobody", "relative", ""):
        daemon = world.start(POLICY, environment={"NOTIFY_SOCKET": address})
        assert "error" not in operator_asks("Status")
        daemon.end()


def test_the_watchdog_is_fed(world: World) -> None:
    """Twice as often as asked for; and not at all if it is for another process.

    Taken out: the comparison with WATCHDOG_PID.
    """
    with Manager(world.own / "notify") as manager:
        daemon = world.start(POLICY, environment=manager.environment(WATCHDOG_USEC="1000000"))
        manager.wait_for("WATCHDOG")
        intervals = []
        for _ in range(5):
            began = time.monotonic()
            manager.wait_for("WATCHDOG")
            intervals.append(time.monotonic() - began)
        assert sorted(intervals)[2] < 0.75, intervals  # the machine may stall now and then
        daemon.end()
        other = manager.environment(WATCHDOG_USEC="200000", WATCHDOG_PID="1")
        world.start(POLICY, environment=other)
        manager.wait_for("READY")
        manager.socket.settimeout(1.5)
        with pytest.raises(TimeoutError):
            manager.next()


# sd_listen_fds.

PASSING = """\
import os, sys
passed = [int(number) for number in sys.argv[1].split(",")]
for place, number in enumerate([os.dup2(number, 100 + number) for number in passed], 3):
    os.dup2(number, place, inheritable=True)
    os.close(number)
os.environ["LISTEN_PID"] = sys.argv[2] or str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(passed))
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Does what a service manager does between fork and exec."""


def start_with(world: World, sockets: list[socket.socket], *, listen_pid: str = "") -> Daemon:
    """Start the daemon with these passed to it."""
    numbers = [each.fileno() for each in sockets]
    listed = ",".join(str(number) for number in numbers)
    passing = [sys.executable, "-I", "-c", PASSING, listed, listen_pid]
    return world.start(POLICY, under=passing, keep=numbers)


@contextmanager
def listening(*addresses: str | bytes, uid: int = 0) -> Iterator[list[socket.socket]]:
    """Sockets as a service manager has them."""
    (RUN / "sockbroker").mkdir(exist_ok=True)
    sockets = []
    for address in addresses:
        each = socket.socket(socket.AF_UNIX)
        sockets.append(each)
        each.bind(address)
        if isinstance(address, str):
            os.chmod(address, 0o600 if address == OPERATOR else 0o666)
        os.setresuid(-1, uid, -1)
        each.listen(4096)
        os.setresuid(-1, 0, -1)
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()


def test_passed_sockets_are_served_and_outlive_the_daemon(world: World) -> None:
    """They are taken over as they are; who connects while no daemon runs is served by the next.

    Taken out: that `Sockets.close` removes only what it has bound; then the files are gone.
    """
    with listening(CONTROL, PATH, OPERATOR) as sockets:
        inodes = {path: Path(path).lstat().st_ino for path in (PATH, OPERATOR)}
        for end in ("kill", "end"):
            daemon = start_with(world, sockets)
            assert sorted(daemon.log("ready")[0]["sockets"]) == sorted(
                ["@sockbroker", PATH, OPERATOR]
            )
            for at in (CONTROL, PATH):
                granted(as_user(ALICE, lambda at=at: ask("Request", at=at, app="demo")))
            assert operator_asks("Status")["parameters"]["state"] == "running"
            assert daemon.log("passed socket refused") == []
            getattr(daemon, end)()
            assert {path: Path(path).lstat().st_ino for path in inodes} == inodes
            waiting = Peer(BOB, lambda: ask("Request", app="demo"))
            time.sleep(0.2)
            daemon = start_with(world, sockets)
            assert granted(waiting.result())[0] == f"/run/demo/{BOB}"
            daemon.kill()


def test_sockets_for_another_process(world: World) -> None:
    """With another LISTEN_PID nothing is taken: the daemon binds its own.

    Taken out: the comparison with LISTEN_PID; then what is another's is refused and closed.
    """
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(b"\0foreign")
        foreign.listen()
        daemon = start_with(world, [foreign], listen_pid="1")
        assert daemon.log("passed socket refused") == []
        assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
        daemon.end()


def wrong_sockets(own: Path) -> dict[str, Callable[[], socket.socket]]:
    """Makers of what is not to be adopted, by what has to be said about it."""

    def stream(address: str | bytes, *, listen: bool = True, mode: int = 0o666) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.bind(address)
        if isinstance(address, str):
            os.chmod(address, mode)
        if listen:
            made.listen()
        return made

    def datagram() -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.bind(CONTROL)
        return made

    def of_a_user() -> socket.socket:
        os.setresuid(-1, MALLORY, -1)
        try:
            return stream(CONTROL)
        finally:
            os.setresuid(-1, 0, -1)

    def internet() -> socket.socket:
        made = socket.socket(socket.AF_INET)
        made.listen()
        return made

    def connected() -> socket.socket:
        made, other = socket.socketpair()
        other.close()
        return made

    return {
        "not a Unix stream socket": datagram,
        "not a Unix stream socket ": internet,
        "not a listening socket": lambda: stream(CONTROL, listen=False),
        "not a listening socket ": connected,
        "its address is none of the broker's": lambda: stream(b"\0elsewhere"),
        "its address is none of the broker's ": lambda: stream(str(own / "elsewhere")),
        "not root's": of_a_user,
        "wider than it may": lambda: stream(OPERATOR, mode=0o666),
    }


def test_wrong_sockets_are_refused_and_named(world: World) -> None:
    """What is no socket of the broker's is closed, and logged with what is wrong with it.

    Taken out: `listeners._fault`, and of it the uid of who called listen(2); with each, one is not
    refused.
    """
    (RUN / "sockbroker").mkdir()
    for reason, make in wrong_sockets(world.own).items():
        with make() as passed:
            daemon = world_with(world, passed)
            (event,) = daemon.log("passed socket refused")
            assert "descriptor 3" in event["why"]
            assert reason.strip() in event["why"], event
            daemon.process.kill()
            daemon.process.wait()
        for path in (PATH, OPERATOR):
            if Path(path).exists():
                os.unlink(path)


def world_with(world: World, passed: socket.socket) -> Daemon:
    """Start with one socket, and wait until that is judged, whatever comes after it."""
    numbers = [passed.fileno()]
    passing = [sys.executable, "-I", "-c", PASSING, str(passed.fileno()), ""]
    daemon = world.begin(policy=POLICY, under=passing, keep=numbers)
    daemon.wait_for("passed socket refused")
    return daemon


def test_what_is_no_socket_is_refused(world: World) -> None:
    """A file, or nothing at all, in the place of a socket is named; the daemon serves its own.

    Taken out: what catches the error of a descriptor that is no socket in `adopt`; then the start
    fails.
    """
    with open("/etc/passwd") as file:
        passing = [sys.executable, "-I", "-c", PASSING, str(file.fileno()), ""]
        daemon = world.start(POLICY, under=passing, keep=[file.fileno()])
    (event,) = daemon.log("passed socket refused")
    assert "not a socket" in event["why"]
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    assert "/etc/passwd" not in descriptors_of(daemon.pid).values()


def test_a_second_socket_for_the_same_name(world: World) -> None:
    """One is served; a copy of it is refused.

    Taken out: the look at what was adopted before in `_fault`; then both are taken.
    """
    with listening(CONTROL) as sockets:
        copy = sockets[0].dup()
        daemon = start_with(world, [*sockets, copy])
        copy.close()
        (event,) = daemon.log("passed socket refused")
        assert "a second socket for @sockbroker" in event["why"]
        assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"


# The end.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_clients_connected(world: World, number: signal.Signals) -> None:
    """Idle, silent, half heard and never reading peers do not keep it: under 5 s.

    Taken out: SECONDS_TO_DRAIN in `Daemon._drain`; then who never reads keeps it for longer.
    """
    daemon = world.start(POLICY)
    lines = [Line() for _ in range(40)]
    for line in lines[10:]:
        line.call("Status")
    for line in lines[20:30]:
        line.send(REQUEST[:20])
    for line in lines[30:]:
        line.socket.setblocking(False)
        try:
            while True:
                line.send(encoded("org.varlink.service.GetInfo", {}) * 1000)
        except BlockingIOError:
            pass
    began = time.monotonic()
    daemon.process.send_signal(number)
    assert daemon.ended() == 0
    assert time.monotonic() - began < 8  # 4 s are his; without an end of them it is 10
    for line in lines:
        line.socket.close()
    assert os.listdir(RUN / "sockbroker") == []
    assert daemon.log("stopped")


def alice_sends(number: int, daemon: Daemon, *, accepted: bool) -> Peer[list[str]]:
    """Have alice send calls while the daemon is stopped, with its end on the way, and let it go on.

    Her connections are accepted before that, or still in the listening socket's queue.
    """

    def call_all() -> list[str]:
        if not accepted:
            os.kill(daemon.pid, signal.SIGSTOP)
        os.setresuid(0, ALICE, 0)
        lines = [Line() for _ in range(number)]
        os.setresuid(0, 0, 0)
        if accepted:
            eventually("accepted", lambda: connections() == number + 1)
            os.kill(daemon.pid, signal.SIGSTOP)
        for line in lines:
            line.send(REQUEST)
        os.kill(daemon.pid, signal.SIGTERM)
        os.kill(daemon.pid, signal.SIGCONT)
        return [granted(line.reply())[0] for line in lines]

    def connections() -> int:
        return int(operator_asks("Status")["parameters"]["counters"]["connections"])

    return Peer(0, call_all)


def test_what_was_sent_is_answered_before_the_end(world: World) -> None:
    """Calls that have arrived on accepted connections when the end comes are all served.

    Taken out: that `Daemon._drain` waits for what is left; then calls are lost.
    """
    daemon = world.start(POLICY)
    alice = alice_sends(50, daemon, accepted=True)
    assert daemon.ended() == 0
    assert alice.result() == [f"/run/demo/{ALICE}"] * 50


def test_no_connection_is_lost_between_two_daemons(world: World) -> None:
    """On passed sockets whoever is not accepted any more is served by the next daemon.

    Taken out: that `Daemon._drain` waits for what is left; then who was accepted is lost.
    """
    with listening(CONTROL, PATH, OPERATOR) as sockets:
        daemon = start_with(world, sockets)
        alice = alice_sends(200, daemon, accepted=False)
        assert daemon.ended() == 0
        start_with(world, sockets)
        assert alice.result() == [f"/run/demo/{ALICE}"] * 200


def test_it_ends_while_a_look_up_hangs(world: World) -> None:
    """A user database that never answers keeps neither a start's rest nor the end: under 5 s.

    Taken out: `daemon=True` of the worker's thread and of that which asks the database; then it
    never ends.
    """
    policy = POLICY[:-1] + ", a: {allow: {groups: [chat]}}}"
    daemon = world.start(policy)
    fifo = world.own / "fifo"
    os.mkfifo(fifo)
    mount(str(fifo), Path("/etc/group"), flags=MS_BIND)
    with Line(OPERATOR) as reloading, Line(OPERATOR) as asking:
        reloading.send(encoded("Reload", {}))
        asking.send(encoded("Request", {"app": "demo", "uid": ALICE}))
        time.sleep(0.5)
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.ended() == 0
        assert time.monotonic() - began < 30
    assert daemon.log("stopped")


def test_it_ends_while_it_deletes(world: World) -> None:
    """A deletion is cut short, and the next start goes on with it."""
    daemon = world.start(POLICY)
    user_asks(ALICE, "Request", app="demo")

    def fill() -> None:
        for number in range(20_000):
            (RUN / f"demo/{ALICE}/{number}").touch()

    as_user(ALICE, fill)
    user_asks(ALICE, "Release", app="demo")
    began = time.monotonic()
    daemon.end()
    assert time.monotonic() - began < 5
    world.start()
    eventually("deleted", lambda: os.listdir(RUN / "demo") == [".sockbroker"])


def test_storms_of_signals(world: World) -> None:
    """However many come, and until it is gone, it ends once and well.

    Taken out: the handler of SIGTERM; then the signal ends it.  What `Loop.close` makes of it; then
    one that comes while the interpreter ends does.
    """
    daemon = world.start(POLICY)
    for _ in range(100):
        daemon.process.send_signal(signal.SIGHUP)
    while daemon.process.poll() is None:
        daemon.process.send_signal(signal.SIGTERM)
        time.sleep(0.0002)
    assert daemon.ended() == 0
    assert len(daemon.log("stopped")) == 1
    assert daemon.log("fault") == []


def slow_start(world: World, *, directories: int) -> Daemon:
    """A daemon that takes 0.3 s for each directory of its start, and has begun."""
    slow = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=mkdirat"]
    slow += ["-e", "inject=mkdirat:delay_enter=300000"]
    last = 2000 + directories - 1
    policy = f'apps: {{demo: {{allow: {{everyone: true}}, at_boot: {{users: ["2000-{last}"]}}}}}}'
    daemon = world.begin(policy=policy, under=slow)
    eventually("under way", lambda: (RUN / ".sockbroker-new-demo/folder/2000").exists())
    return daemon


def test_a_reload_during_the_start(world: World) -> None:
    """A SIGHUP that comes before the daemon is ready kills nothing, and reloads when it is.

    Taken out: `block_signals`; then the start is killed.
    """
    daemon = slow_start(world, directories=10)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_until_ready()
    daemon.wait_for("policy in force")
    daemon.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_end_during_the_start(world: World, number: signal.Signals) -> None:
    """A start can be ended at once, and leaves nothing that the next one does not mend.

    Taken out: that SIGTERM and SIGINT end a start; then it goes on.
    """
    daemon = slow_start(world, directories=100)
    daemon.process.send_signal(number)
    assert daemon.ended() != 0
    assert daemon.log("ready") == []
    world.start()
    names = sorted(os.listdir(RUN / "demo"))
    assert names == [".sockbroker", *(f"{uid}" for uid in range(2000, 2100))]
