"""What the daemon writes down: one line for a change or a refusal, nothing that a peer wrote."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import threading
import time

import pytest
from peers import Line, as_mallory, as_user, ask, granted, operator_asks, user_asks
from running import ALICE, BOB, CAROL, MALLORY, RUN, World, eventually

pytestmark = pytest.mark.root

POLICY = "apps: {demo: {allow: {everyone: true}, deny: {users: [mallory]}, max_directories: 2}}"


def test_one_line_for_a_change_and_none_for_none(world: World) -> None:
    """Made, repaired, denied, failed and removed are a line each; what was right is none."""
    daemon = world.start(POLICY)
    pids = {}
    for _ in range(5):
        pids.setdefault("created", []).append(as_user(ALICE, who_asks))
    (RUN / f"demo/{ALICE}").chmod(0o777)
    pids["repaired"] = [as_user(ALICE, who_asks), as_user(ALICE, who_asks)]
    user_asks(BOB, "Request", app="demo")
    assert "error" in user_asks(MALLORY, "Request", app="demo")
    assert "error" in user_asks(CAROL, "Request", app="demo")
    assert user_asks(BOB, "Release", app="demo") == {}
    ask("Status")
    expected = [
        ("created", ALICE, "info"),
        ("repaired", ALICE, "info"),
        ("created", BOB, "info"),
        ("denied", MALLORY, "warning"),
        ("request failed", CAROL, "error"),
        ("removed", BOB, "info"),
    ]
    eventually("logged", lambda: len(daemon.log()) >= len(expected) + 2)
    lines = daemon.log()[2:]
    assert [(line["event"], line["uid"], line["level"]) for line in lines] == expected
    assert {line["app"] for line in lines} == {"demo"}
    assert lines[0]["pid"] == pids["created"][0]
    assert lines[0]["path"] == f"/run/demo/{ALICE}"
    assert lines[0]["rule"] == f"{world.policy}:1: allow.everyone"
    assert lines[3]["rule"] == f"{world.policy}:1: deny.users"
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["time"]) for line in lines)


def who_asks() -> int:
    """Ask, and tell the pid."""
    granted(ask("Request", app="demo"))
    return os.getpid()


def test_the_lines_of_a_uid_are_limited(world: World) -> None:
    """Thousands of refusals of one uid are a few lines a minute; another uid's are all there."""
    daemon = world.start(POLICY)

    def be_refused() -> None:
        with Line() as line:
            for _ in range(5000):
                assert line.call("Request", app="demo")["error"] == "io.sockbroker.Denied"

    as_mallory(be_refused)
    user_asks(ALICE, "Request", app="demo")
    eventually("logged", lambda: daemon.log("created"))
    assert 10 <= len(daemon.log("denied")) <= 100
    assert operator_asks("Status")["parameters"]["counters"]["denied"] == 5000


def test_nothing_of_a_peers_is_written_raw(world: World) -> None:
    """No control character, no line of the peer's own, and every line is JSON in ASCII."""
    daemon = world.start(POLICY)
    escape = '\x1b]0;owned\x07\x1b[2J\r\n{"event": "ready"}\n\u202e\u009b\x7f'

    def inject() -> None:
        for message in (
            json.dumps({escape: 1, "method": "io.sockbroker.Status"}),
            json.dumps({"method": "io.sockbroker.Request", "parameters": {"app": escape}}),
            json.dumps({"method": escape}),
            json.dumps({"method": f"io.sockbroker.{escape}"}),
            json.dumps({"method": "io.sockbroker.Request", "parameters": {escape: escape}}),
            escape,
        ):
            with Line() as line:
                line.send(message.encode() + b"\0")
                try:
                    reply = line.message()
                except EOFError:
                    continue
                assert reply.isascii()
                assert reply.decode().isprintable()

    as_mallory(inject)
    eventually("logged", lambda: len(daemon.log("protocol violation")) == 2)
    raw = daemon.log_file.read_bytes()
    assert raw.isascii()
    assert raw.decode().replace("\n", "").isprintable()
    assert len(daemon.log("ready")) == 1


def test_a_terminal_gets_lines_for_people(world: World) -> None:
    """Where standard error is a terminal the lines can be read, and steer nothing either."""
    ours, theirs = pty.openpty()
    daemon = world.begin(policy=POLICY, before=lambda: os.dup2(theirs, 2) and None, keep=[theirs])
    os.close(theirs)
    received = b""
    while b"ready" not in received:
        received += os.read(ours, 65536)

    def violate() -> None:
        with Line() as line:
            line.send(b'{"\\u001b[31m\\n":1,"method":"a.b"}\0')
            line.closed()

    as_mallory(violate)
    user_asks(ALICE, "Request", app="demo")
    while b"created app" not in received:
        received += os.read(ours, 65536)
    text = received.decode("ascii")
    assert text.replace("\r\n", "").isprintable()
    assert f"info     created app=demo uid={ALICE}" in text
    assert "warning  protocol violation" in text
    daemon.process.terminate()
    assert daemon.ended() == 0
    os.close(ours)


def test_under_the_journal(world: World) -> None:
    """A line has the priority in front; a journal that takes nothing stops nobody, and is told."""
    ours, theirs = socket.socketpair()
    status = os.fstat(theirs.fileno())
    daemon = world.begin(
        policy=POLICY,
        before=lambda: os.dup2(theirs.fileno(), 2) and None,
        keep=[theirs.fileno()],
        environment={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
    )
    theirs.close()
    eventually("answers", lambda: (RUN / "sockbroker/operator").exists())
    began = time.monotonic()
    # 60 lines a minute for each uid: many uids to fill the socket's buffer.
    for uid in range(3000, 3060):
        as_user(uid, ask_often)
    assert time.monotonic() - began < 60
    received = bytearray()

    def read() -> None:
        while chunk := ours.recv(65536):
            received.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    eventually("read", lambda: received.count(b'"denied"') > 50)
    user_asks(MALLORY, "Request", app="demo")
    daemon.process.terminate()
    assert daemon.ended() == 0
    reader.join()
    ours.close()
    lines = received.decode("ascii").splitlines()
    events = []
    for line in lines:
        found = re.fullmatch(r"<([2-6])>(\{.*\})", line)
        assert found, line
        events.append((int(found[1]), json.loads(found[2])["event"]))
    assert (6, "ready") in events
    assert (4, "denied") in events
    assert any("log lines were lost" in event for _, event in events)
    assert events[-1] == (6, "stopped")


def ask_often() -> None:
    """Be refused a few times."""
    with Line() as line:
        for _ in range(50):
            line.call("Request", app="nothing-of-that-name-is-there")


def test_a_pipe_that_nobody_reads(world: World) -> None:
    """Nor does a log that is a full pipe stop the daemon."""
    reading, writing = os.pipe()
    daemon = world.begin(policy=POLICY, before=lambda: os.dup2(writing, 2) and None, keep=[writing])
    os.close(writing)
    eventually("answers", lambda: (RUN / "sockbroker/operator").exists())
    for uid in range(3000, 3020):
        as_user(uid, ask_often)
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    os.close(reading)
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "existing"
    daemon.process.terminate()
    assert daemon.ended() == 0
