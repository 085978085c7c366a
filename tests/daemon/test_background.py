"""`--daemonize`: exit status and reason are the daemon's own, and it is one in all ways."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest
from peers import Peer, as_user, ask, granted, operator_asks, user_asks
from running import (
    ALICE,
    COMMAND,
    CONTROL,
    MALLORY,
    MS_BIND,
    PATH,
    RUN,
    World,
    descriptors_of,
    eventually,
    has_ended,
    mount,
    tree,
)

pytestmark = pytest.mark.root

POLICY = "apps: {demo: {allow: {everyone: true}, at_boot: {users: [alice]}}}"

PID_FILE = RUN / "sockbroker/sockbrokerd.pid"


def daemonize(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start it in the background, as an administrator does by hand."""
    command = [*COMMAND, "--policy", str(world.policy), "--daemonize", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=world.own)


def pid() -> int:
    """Of the daemon, by its pid file."""
    return int(PID_FILE.read_text())


def end(number: int) -> None:
    """End the daemon of that pid and wait until it has gone."""
    os.kill(number, 15)
    eventually("ended", lambda: has_ended(number))


def status_of(number: int) -> dict[str, str]:
    """What the kernel tells about a process."""
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_it_answers_when_the_command_returns(world: World) -> None:
    """0 means that calls are answered, and the layout is there; nothing is printed.

    Taken out: the place of `launch.ready` (it was the first thing of a start); then nobody answers.
    """
    world.write(POLICY)
    done = daemonize(world)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert granted(user_asks(ALICE, "Request", app="demo")) == (f"/run/demo/{ALICE}", "existing")
    assert stat.S_IMODE(PID_FILE.stat().st_mode) == 0o644
    end(pid())
    assert not PID_FILE.exists()
    assert os.listdir(RUN / "sockbroker") == []


def test_it_is_a_daemon_in_all_ways(world: World) -> None:
    """No terminal, no caller's session, folder, umask or descriptor; it can be found by its pid.

    Taken out: the working directory; then it is the caller's.
    """
    world.write(POLICY)
    kept = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(kept, True)
    command = [*COMMAND, "--policy", str(world.policy), "--daemonize"]
    done = subprocess.run(command, close_fds=False, timeout=120, cwd=world.own)
    assert done.returncode == 0
    number = pid()
    links = descriptors_of(number)
    os.close(kept)
    assert [links[descriptor] for descriptor in range(3)] == ["/dev/null"] * 3
    assert "/etc/passwd" not in links.values()
    assert os.readlink(f"/proc/{number}/cwd") == "/"
    assert status_of(number)["Umask"] == "0077"
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    session, terminal = int(fields[3]), int(fields[4])
    assert session not in (os.getsid(0), number)  # it leads none, so it can get no terminal
    assert terminal == 0
    end(number)


def test_a_bad_policy(world: World) -> None:
    """65, and every problem on standard error; no process and no socket stay.

    Taken out: all problems but the first in `launch.failed`; then one is told.
    """
    world.write("apps:\n  demo: {mode: 0750}\n  systemd: {}\n")
    done = daemonize(world)
    assert done.returncode == 65
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    for line, place in zip(lines, (2, 3), strict=True):
        assert line.startswith(f"sockbrokerd: {world.policy}:{place}:")
    assert not PID_FILE.exists()
    assert tree() == {}


def test_a_base_that_has_its_broker(world: World) -> None:
    """1, and who is there stays.

    Taken out: the flock(2) of `Base.lock`; then the second one goes on until it meets the first
    one's socket.
    """
    world.write(POLICY)
    assert daemonize(world).returncode == 0
    number = pid()
    done = daemonize(world, "--control-name", "other")
    assert done.returncode == 1
    assert "another broker serves /run" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert pid() == number
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "existing"
    end(number)


def test_a_taken_name(world: World) -> None:
    """The path is served, so that is 0; status tells who has the name.

    Taken out: what catches NameTaken in `Sockets._try_name`; then the start fails.
    """
    ours, theirs = socket.socketpair()

    def squat() -> None:
        taken = socket.socket(socket.AF_UNIX)
        taken.bind(CONTROL)
        taken.listen()
        theirs.send(b".")
        theirs.recv(1)

    with ours, theirs:
        squatter = Peer(MALLORY, squat)
        ours.recv(1)
        world.write(POLICY)
        assert daemonize(world).returncode == 0
        reply = as_user(ALICE, lambda: ask("Request", at=PATH, app="demo"))
        assert granted(reply)[1] == "existing"
        (problem,) = operator_asks("Status")["parameters"]["problems"]
        assert f"uid {MALLORY} (pid {squatter.pid})" in problem
        ours.send(b".")
        squatter.result()
    end(pid())


def test_the_lock_goes_with_the_process(world: World) -> None:
    """After kill -9 the next one starts, whatever the pid file says.

    Taken out: that a pid file keeps nobody out (it did); then the next start fails.
    """
    world.write(POLICY)
    assert daemonize(world).returncode == 0
    first = pid()
    os.kill(first, 9)
    eventually("ended", lambda: has_ended(first))
    PID_FILE.write_text("1\n")
    assert daemonize(world).returncode == 0
    assert pid() not in (1, first)
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "existing"
    end(pid())


def test_under_systemd_it_names_the_command(world: World) -> None:
    """Where systemd runs, a daemon by hand would compete with the service.

    Taken out: the look for systemd in `main`; then it starts.
    """
    world.write(POLICY)
    (RUN / "systemd/system").mkdir(parents=True)
    done = daemonize(world)
    assert done.returncode == 1
    assert "systemctl start sockbroker" in done.stderr
    assert not (RUN / "sockbroker").exists()


def test_with_closed_descriptors(world: World) -> None:
    """A caller without standard descriptors gets a daemon that uses none of them for anything.

    Taken out: `_open_standard_descriptors`; then the command fails.
    """
    world.write(POLICY)

    def close_all() -> None:
        for descriptor in range(3):
            os.close(descriptor)

    command = [*COMMAND, "--policy", str(world.policy), "--daemonize"]
    done = subprocess.run(command, preexec_fn=close_all, timeout=120)
    assert done.returncode == 0
    number = pid()
    links = [os.readlink(f"/proc/{number}/fd/{descriptor}") for descriptor in range(3)]
    assert links == ["/dev/null"] * 3
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "existing"
    end(number)


@pytest.mark.parametrize("name", ["socketpair", "clone", "setsid", "chdir", "dup2", "setuid"])
def test_what_keeps_it_out_of_the_background(world: World, name: str) -> None:
    """An error on the way there is one line with what to do, and 1; nothing runs, nothing is made.

    Seen to fail when python-daemon's errors were let through: a traceback, or "see the system's
    log", where there was nothing.
    """
    inject = f"inject={name}:error=ENOMEM:when=1"
    failing = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e", inject]
    starter = world.begin("--daemonize", policy=POLICY, under=failing)
    assert starter.ended() == 1
    told = "becoming a daemon: (/: )?Cannot allocate memory; free memory, or allow it more"
    assert re.fullmatch(f"sockbrokerd: {told}\n", starter.text()), starter.text()
    assert os.listdir(RUN) == []


def test_it_logs_to_dev_log(world: World) -> None:
    """In the background the log goes to the system's, as datagrams with the priority in front.

    Taken out: `syslog_logger` (the log went to standard error); then nothing comes.
    """
    devices = world.own / "dev"
    devices.mkdir()
    mount("tmpfs", devices, "tmpfs", 0, "mode=0755")
    for name, minor in (("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)):
        os.mknod(devices / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(devices / "log"))
        log.settimeout(60)
        mount(str(devices), Path("/dev"), flags=MS_BIND)
        world.write(POLICY)
        assert daemonize(world).returncode == 0
        number = pid()
        user_asks(MALLORY, "Request", app="unknown")
        received = []
        while not received or b'"denied"' not in received[-1]:
            received.append(log.recv(65536))
    end(number)
    assert all(
        line.startswith((b"<30>sockbrokerd[%d]: {" % number, b"<28>sockbrokerd[%d]: {" % number))
        for line in received
    ), received
    assert any(b'"event": "ready"' in line for line in received)


def test_a_long_start_tells_how_far_it_is(world: World) -> None:
    """Meanwhile the command shows a count, and returns when it is done.

    Taken out: `launch.progress`; then nothing is shown.
    """
    world.write('apps: {demo: {allow: {everyone: true}, at_boot: {users: ["2000-2149"]}}}')
    slow = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=mkdirat"]
    slow += ["-e", "inject=mkdirat:delay_enter=25000"]
    command = [*slow, *COMMAND, "--policy", str(world.policy), "--daemonize"]
    began = time.monotonic()
    told = world.own / "stderr"
    with told.open("w") as file:  # no pipe, which strace would keep open
        done = subprocess.run(command, stderr=file, timeout=120)
    assert done.returncode == 0
    assert time.monotonic() - began > 3
    assert len(os.listdir(RUN / "demo")) == 151
    lines = told.read_text().splitlines()
    assert len(lines) >= 2
    assert all("setting up" in line for line in lines)
    end(pid())
