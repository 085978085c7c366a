"""What the daemon logs, where to, and what becomes of it if nobody reads.

Standard error is a file, a pipe, a terminal or a socket of the journal's kind, the real one each
time, and what came out at its other end is judged.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from peers import (
    DENIED,
    INVALID_APP,
    NO_SUCH_DIRECTORY,
    OBSTRUCTED,
    PERMISSION_DENIED,
    Line,
    Reply,
    as_mallory,
    as_user,
    ask,
    ask_all,
    encoded,
    granted,
    operator_asks,
    refused,
    user_asks,
)
from running import (
    ALICE,
    BOB,
    CAROL,
    CHAT,
    GUEST,
    GUESTS,
    MALLORY,
    MS_BIND,
    MS_NOSUID,
    MS_REC,
    PATIENCE,
    RUN,
    Daemon,
    Manager,
    World,
    eventually,
    mount,
)

from this_kernel import MISSING_LAYERS

pytestmark = pytest.mark.root

POLICY = f"""\
apps:
  demo:
    allow:
      users: [alice, "2000-2999"]
      groups: [{CHAT}]
    deny:
      users: [mallory]
      groups: [{GUESTS}]
  open: {{allow: {{everyone: true}}}}
  nobody: {{}}
"""

OPEN = "apps: {demo: {allow: {everyone: true}}, nobody: {}}"

FLOOD = range(2000, 2040)
"""Uids whose refusals, at 60 lines each, are more than any pipe, socket or terminal holds."""


SOMETIMES = ("not all that confines holds", "setting up")
"""What is logged before it is ready on a kernel that lacks something, or that takes its time."""


class Tap:
    """A standard error for the daemon, and its other end, which is read when a test says so."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        if kind == "a terminal":
            self._ours, self.theirs = os.openpty()
        elif kind == "a pipe":
            self._ours, self.theirs = os.pipe()
        else:
            ours, theirs = socket.socketpair()
            self._ours, self.theirs = ours.detach(), theirs.detach()
        self.flags = fcntl.fcntl(self.theirs, fcntl.F_GETFL)
        self._read = b""

    def begin(self, world: World, policy: str, manager: Manager) -> Daemon:
        """Start a daemon on it, and return when that says that it is ready."""
        environment = manager.environment()
        if self.kind == "the journal":
            status = os.fstat(self.theirs)
            environment["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
        daemon = world.begin(
            policy=policy, environment=environment, before=lambda: os.dup2(self.theirs, 2)
        )
        manager.wait_for("READY")
        return daemon

    def lines(self) -> list[str]:
        """All whole lines that have come so far."""
        while self._ours >= 0 and select.select([self._ours], [], [], 0)[0]:
            try:
                chunk = os.read(self._ours, 65536)
            except OSError:
                break  # EIO: a terminal that nobody has open
            if not chunk:
                break
            self._read += chunk
        text = self._read.decode("ascii")
        if self.kind == "a terminal":
            text = text.replace("\r\n", "\n")
        return text.split("\n")[:-1]

    def wait_for(self, text: str) -> list[str]:
        """All lines, once there is one with this text."""
        eventually(text, lambda: any(text in line for line in self.lines()))
        return self.lines()

    def hang_up(self) -> None:
        """Close the end that is read."""
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1

    def close(self) -> None:
        """Close both ends."""
        self.hang_up()
        os.close(self.theirs)


@pytest.fixture(params=["a pipe", "the journal", "a terminal"])
def tap(request: pytest.FixtureRequest) -> Iterator[Tap]:
    """Each kind of standard error that has another end."""
    with contextlib.closing(Tap(request.param)) as tap:
        yield tap


@pytest.fixture
def manager(world: World) -> Iterator[Manager]:
    """A service manager to be told things."""
    with Manager(world.own / "notify") as manager:
        yield manager


def journalled(line: str) -> dict[str, Any]:
    """The event of a line for the journal, with its priority."""
    found = re.fullmatch(r"<([2-6])>(\{.*\})", line)
    assert found is not None, line
    return {**json.loads(found[2]), "priority": int(found[1])}


def since_ready(daemon: Daemon) -> list[dict[str, Any]]:
    """The events after the one that says that it is ready, each without its time."""
    events = daemon.log()
    names = [event["event"] for event in events]
    for event in events:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event.pop("time"))
    return events[names.index("ready") + 1 :]


def user_says(uid: int, *messages: bytes) -> tuple[int, list[Reply]]:
    """Send messages from one process of that user; its pid, and the reply to each."""

    def say() -> tuple[int, list[Reply]]:
        with Line() as line:
            replies = []
            for message in messages:
                line.send(message)
                replies.append(line.reply())
            return os.getpid(), replies

    return as_user(uid, say)


def refuse_often(uids: Sequence[int], times: int = 60) -> None:
    """Have each of them refused so often."""
    message = encoded("Request", {"app": "nobody"})
    for uid in uids:
        _, replies = user_says(uid, *[message] * times)
        assert {refused(reply) for reply in replies} == {DENIED}


def stop(daemon: Daemon) -> None:
    """End it as a service manager does."""
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.ended() == 0


# ---- What is logged ----------------------------------------------------------------------------


def test_one_line_for_each_change_and_none_for_none(world: World) -> None:
    """Created, repaired and removed are a line each; asking for what is there already is none."""
    daemon = world.start(POLICY)
    request = encoded("Request", {"app": "demo"})
    creator, replies = user_says(ALICE, *[request] * 5)
    assert [granted(reply)[1] for reply in replies] == ["created", *["existing"] * 4]
    (RUN / f"demo/{ALICE}").chmod(0o777)
    mender, _ = user_says(ALICE, request, request)
    remover, _ = user_says(ALICE, encoded("Release", {"app": "demo"}))
    same = {"level": "info", "app": "demo", "uid": ALICE, "path": f"/run/demo/{ALICE}"}
    rule = f"{world.policy}:4: allow.users"
    assert since_ready(daemon) == [
        {"event": "created", "pid": creator, "rule": rule, **same},
        {"event": "repaired", "pid": mender, "rule": rule, **same},
        {"event": "removed", "pid": remover, "force": False, **same},
    ]


def test_a_refusal_names_its_rule(world: World) -> None:
    """Who, what, and by which line of which file: what the peer is not told is in the log."""
    daemon = world.start(POLICY)
    file = world.policy
    cases = [
        (MALLORY, {}, "demo", f"{file}:7: deny.users"),
        (BOB, {"groups": [CHAT, GUESTS]}, "demo", f"{file}:8: deny.groups"),
        (GUEST, {}, "demo", f"{file}:8: deny.groups (a member by the user database)"),
        (BOB, {}, "demo", f"{file}:3: no rule"),
        (BOB, {}, "nobody", f"{file}:10: no rule"),
        (BOB, {}, "elsewhere", f"{file}: unknown app"),
        (BOB, {}, "systemd", f"{file}: unknown app"),
        (0, {}, "open", f"{file}:9: no rule"),
        (65534, {}, "open", f"{file}: an overflow uid identifies nobody"),
    ]
    expected = []
    for uid, how, app, rule in cases:

        def say(app: str = app) -> tuple[int, str]:
            reply = ask("Request", app=app)
            assert "rule" not in reply["parameters"]
            assert str(file) not in json.dumps(reply)
            return os.getpid(), refused(reply)

        pid, error = as_user(uid, say, **how)
        assert error == DENIED
        expected.append(
            {"event": "denied", "uid": uid, "pid": pid, "app": app, "rule": rule}
            | {"level": "warning"}
        )
    assert since_ready(daemon) == expected


def test_a_grant_names_its_rule(world: World) -> None:
    """Whichever rule let somebody in stands in the line about his directory."""
    daemon = world.start(POLICY)
    cases = [
        (ALICE, {}, "demo", "4: allow.users"),
        (2500, {}, "demo", "4: allow.users"),
        (BOB, {"groups": [CHAT]}, "demo", "5: allow.groups"),
        (CAROL, {}, "open", "9: allow.everyone"),
    ]
    for uid, how, app, _ in cases:
        as_user(uid, lambda app=app: granted(ask("Request", app=app)), **how)
    assert [event["rule"] for event in daemon.log("created")] == [
        f"{world.policy}:{rule}" for _, _, _, rule in cases
    ]


def test_what_is_in_the_way_is_logged(world: World) -> None:
    """A directory that cannot be given is an error in the log, with the path and the reason."""
    daemon = world.start(OPEN)
    (RUN / f"demo/{ALICE}").mkdir()
    pid, (reply,) = user_says(ALICE, encoded("Request", {"app": "demo"}))
    assert refused(reply) == OBSTRUCTED
    (event,) = since_ready(daemon)
    assert event.pop("why")
    assert event == {
        "event": "request failed",
        "level": "error",
        "uid": ALICE,
        "pid": pid,
        "app": "demo",
        "path": f"/run/demo/{ALICE}",
    }


def test_what_changes_nothing_leaves_no_line(world: World) -> None:
    """Asking, listing and introspecting are not worth a line, nor is what was not there."""
    daemon = world.start(OPEN)
    as_user(ALICE, lambda: granted(ask("Request", app="demo")))
    as_user(ALICE, lambda: ask_all("List"))
    operator_asks("Status")
    user_asks(ALICE, "org.varlink.service.GetInfo")
    assert refused(user_asks(BOB, "Release", app="demo")) == NO_SUCH_DIRECTORY
    assert refused(user_asks(BOB, "Request", app="../x")) == INVALID_APP
    assert refused(user_asks(BOB, "Reload")) == PERMISSION_DENIED
    assert [event["event"] for event in since_ready(daemon)] == ["created"]


def test_a_bad_reload_is_one_line(world: World) -> None:
    """However many problems a policy has and however long they are: one line, and it is JSON."""
    daemon = world.start(OPEN)
    bad = [f"  a{number}: {{{'x' * 200}{number}: 1}}" for number in range(50)]
    world.write("\n".join(["apps:", *bad, ""]))
    daemon.process.send_signal(signal.SIGHUP)
    event = daemon.wait_for("policy not taken")
    assert event["level"] == "error"
    assert event["count"] == 50
    assert event["problems"][0].startswith(f"{world.policy}:2:")
    assert len(daemon.text().splitlines()[-1]) > select.PIPE_BUF
    operator_asks("Reload")
    assert len(daemon.log("policy not taken")) == 2


# ---- What peers would like to have in it -------------------------------------------------------

VIOLATIONS = [
    b'{"method":"io.sockbroker.Status","\\n<0>forged":1}',
    b'{"method":"io.sockbroker.Status","\x7f<0>forged":1}',
    b'{"method":"io.sockbroker.Status","\\u001b[2J\\u001b]0;x\\u0007":1}',
    b'{"method":"io.sockbroker.Status","\\u009b31m\\u202e\\u2028":1}',
    b'{"method":"io.sockbroker.Status","\\"}\\n{\\"event\\": \\"ready\\"}":1}',
    b'{"method":"io.sockbroker.Status","x\\" uid=0 app=\\"root":1}',
    b'{"method":"io.sockbroker.Status","caf\xc3\xa9\xe2\x80\xae":1}',
    b'{"method":"io.sockbroker.Status","' + b"\\n<0>" * 3000 + b'":1}',
    b'{"method":"io.sockbroker.Request","parameters":{"app":"\xff\xfe\n<0>forged"}}',
    b'{"method":"io.sockbroker.Request","parameters":{"app":"\\ud800"}}',
    b"\n<0>forged\n",
    b"\x1b[2J",
    b"<0>",
    b"\r\n\r\n",
    b"\n" * 16_000 + b"x",
    b"<0>forged\n" * 3000,
]
"""No calls, each of them: what is said of them must not say anything else."""

NAMES = [
    "\n<0>forged",
    "\x1b[2J",
    "\x7f",
    "<0>x",
    'x" uid=0 app="root',
    '"}\n{"event": "ready"}',
    "\u202e\u2028\u009b",
    "demo\0",
    "<0>\n" * 1000,
]
"""No names of apps."""


def misbehave(messages: Sequence[bytes] = VIOLATIONS) -> int:
    """Send all of these, one connection each, and all of the names; the pid that did."""
    for message in messages:
        with Line() as line:
            line.send(message + b"\0")
            assert line.closed()
    with Line() as line:
        for name in NAMES:
            for method in ("Request", "Release", name):
                line.send(encoded(method, {"app": name}))
                assert "error" in line.reply()
        line.send(encoded("Request", {"app": "demo", "\n<0>forged": 1}))
        assert "error" in line.reply()
    return os.getpid()


def test_hostile_words_in_a_file(world: World) -> None:
    """Every line is one JSON object of printable ASCII; each violation has one that says whose.

    Taken out: `!a` of `varlink._extension`, `escape` of `Record.violation` and ASCII of
    `logs._json_line`, one behind the other; then a DEL is in the file.
    """
    daemon = world.start(OPEN)
    pid = as_mallory(misbehave)
    text = daemon.text()
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    events = since_ready(daemon)
    assert [(event["event"], event["uid"], event["pid"]) for event in events] == [
        ("protocol violation", MALLORY, pid)
    ] * len(VIOLATIONS)
    assert all(set(event) == {"event", "level", "uid", "pid", "why"} for event in events)


def test_hostile_words_at_another_end(world: World, manager: Manager, tap: Tap) -> None:
    """No line begins as only its writer may have it begin, and none has a field too many.

    Taken out: `!a` of `varlink._extension`, `escape` of `Record.violation`, and ASCII or `escape`
    of `logs`, one behind the other; then a DEL is in a line.
    """
    daemon = tap.begin(world, OPEN, manager)
    pid = as_mallory(misbehave)
    stop(daemon)
    lines = tap.wait_for("stopped")
    assert all(line.isprintable() for line in lines)
    told = [line for line in lines if "protocol violation" in line]
    assert len(told) == len(VIOLATIONS)
    others = [line for line in lines if line not in told and not any(map(line.count, SOMETIMES))]
    assert len(others) == 3  # set up, ready, stopped
    for line in told:
        if tap.kind == "a terminal":
            found = re.fullmatch(
                rf'warning  protocol violation uid={MALLORY} pid={pid} why=("[^"]+"|[^" ]+)', line
            )
            assert found is not None, line
        else:
            event = journalled(line) if tap.kind == "the journal" else json.loads(line)
            assert (event["event"], event["uid"], event["pid"]) == (
                "protocol violation",
                MALLORY,
                pid,
            )


# ---- How much one may have of it ---------------------------------------------------------------


def test_nobody_can_fill_the_log(world: World) -> None:
    """Sixty lines a minute for one uid, of whatever kind, and the others have theirs.

    Taken out: the comparison with LINES_A_MINUTE; then there are hundreds.
    """
    daemon = world.start(OPEN)
    refuse_often([MALLORY], 50)
    for _ in range(3):
        as_mallory(misbehave)
    refuse_often([MALLORY], 200)
    refuse_often([GUEST], 1)
    user_asks(ALICE, "Request", app="demo")
    events = since_ready(daemon)
    lines = {uid: sum(event["uid"] == uid for event in events) for uid in (MALLORY, GUEST, ALICE)}
    assert lines == {MALLORY: 60, GUEST: 1, ALICE: 1}
    assert operator_asks("Status")["parameters"]["counters"]["denied"] == 251


# ---- Where it goes -----------------------------------------------------------------------------


def test_the_journal_gets_lines_and_the_manager_gets_none(world: World, manager: Manager) -> None:
    """Each goes to its own socket: lines with a priority to one, assignments to the other."""
    with contextlib.closing(Tap("the journal")) as tap:
        daemon = tap.begin(world, OPEN, manager)
        user_asks(ALICE, "Request", app="demo")
        refuse_often([BOB], 3)
        operator_asks("Reload")
        stop(daemon)
        events = [journalled(line) for line in tap.wait_for('"stopped"')]
    named = [(event["event"], event["priority"]) for event in events]
    named = [(name, priority) for name, priority in named if name not in SOMETIMES]
    assert [name for name in named if name[0] in {"created", "denied", "stopped"}] == [
        ("created", 6),
        *[("denied", 4)] * 3,
        ("stopped", 6),
    ]
    assert named[:2] == [("set up", 6), ("ready", 6)]
    assert all({"time", "level"}.isdisjoint(event) for event in events)
    assert daemon.text() == ""  # nothing on standard output
    manager.socket.setblocking(False)
    told = []
    with contextlib.suppress(BlockingIOError):
        while True:
            told.append(manager.next())
    assert "STOPPING" in {name for message in told for name in message}
    for message in told:
        assert set(message) <= {"READY", "RELOADING", "MONOTONIC_USEC", "STATUS", "STOPPING"}


def test_only_its_own_journal_stream_is_the_journal(world: World, manager: Manager) -> None:
    """A JOURNAL_STREAM that came down from a shell is about something else, so lines have times."""
    environment = manager.environment(JOURNAL_STREAM="9:12345")
    daemon = world.start(OPEN, environment=environment)
    refuse_often([BOB], 1)
    (event,) = since_ready(daemon)
    assert event["level"] == "warning"


def test_a_person_reads_words(world: World, manager: Manager) -> None:
    """On a terminal a line is level, event and fields."""
    with contextlib.closing(Tap("a terminal")) as tap:
        daemon = tap.begin(world, POLICY, manager)
        request = encoded("Request", {"app": "demo"})
        creator, _ = user_says(ALICE, request)
        intruder, _ = user_says(MALLORY, request)
        stop(daemon)
        lines = tap.wait_for("stopped")
    assert lines[-3:] == [
        f"info     created uid={ALICE} pid={creator} app=demo path=/run/demo/{ALICE}"
        f' rule="{world.policy}:4: allow.users"',
        f"warning  denied uid={MALLORY} pid={intruder} app=demo"
        f' rule="{world.policy}:7: deny.users"',
        "info     stopped",
    ]


def test_a_log_that_nobody_reads(world: World, manager: Manager, tap: Tap) -> None:
    """It goes on answering at once; later it says how many lines were lost, and loses no more."""
    daemon = tap.begin(world, OPEN, manager)
    refuse_often(FLOOD)
    assert granted(user_asks(BOB, "Request", app="demo"))[1] == "created"
    operator_asks("Status")
    assert fcntl.fcntl(tap.theirs, fcntl.F_GETFL) == tap.flags  # it is not the daemon's alone
    before = len(tap.lines())
    latecomers = iter(range(3000, 4000))

    def told() -> bool:  # at once, but for a terminal, which may be slow to have room again
        uid = next(latecomers)
        refuse_often([uid], 1)
        return any(re.search(rf'uid(=|": ){uid}\b', line) for line in tap.lines())

    eventually("a line that gets through", told)
    lines = tap.lines()
    (lost,) = re.findall(r"(\d+) log lines were lost before this one", "\n".join(lines[before:]))
    assert 0 < int(lost) < 60 * len(FLOOD)
    if tap.kind != "a terminal":  # which may also take a part of a line
        read = journalled if tap.kind == "the journal" else json.loads
        events = [read(line)["event"] for line in lines]
        assert events.count("denied") + events.count("created") + int(lost) == 60 * len(FLOOD) + 2
        assert events[before + 1 :] == ["denied"]
    stop(daemon)


def test_a_reader_who_goes(world: World, manager: Manager, tap: Tap) -> None:
    """A closed terminal, pipe or journal ends nothing but the lines."""
    daemon = tap.begin(world, OPEN, manager)
    tap.hang_up()
    refuse_often([MALLORY], 30)
    os.close(tap.theirs)
    tap.theirs = os.open("/dev/null", os.O_RDONLY)
    refuse_often([GUEST], 30)
    assert granted(user_asks(BOB, "Request", app="demo"))[1] == "created"
    stop(daemon)


# ---- In the background -------------------------------------------------------------------------


def furnish_dev(world: World) -> None:
    """Give this mount namespace a /dev of its own, so that the machine's log is out of reach."""
    own = world.own / "dev"
    own.mkdir()
    mount("tmpfs", own, "tmpfs", MS_NOSUID, "mode=0755")
    for name in ("null", "urandom"):
        (own / name).touch()
        mount(f"/dev/{name}", own / name, flags=MS_BIND)
    mount(str(own), Path("/dev"), flags=MS_BIND | MS_REC)
    assert set(os.listdir("/dev")) == {"null", "urandom"}


@contextlib.contextmanager
def in_background(world: World, policy: str) -> Iterator[int]:
    """Start a daemon with --daemonize, see it return, and end what then runs; its pid."""
    starter = world.begin("--daemonize", policy=policy)
    assert starter.ended() == 0, starter.text()
    assert starter.text() == ""
    pid = int((RUN / "sockbroker/sockbrokerd.pid").read_text())
    watched = os.pidfd_open(pid)
    try:
        yield pid
        signal.pidfd_send_signal(watched, signal.SIGTERM)
        assert select.select([watched], [], [], PATIENCE)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(watched, signal.SIGKILL)
        os.close(watched)


def test_in_the_background_it_is_the_systems_log(world: World) -> None:
    """Each line is a datagram to /dev/log in syslog's form: priority, name, pid and JSON."""
    furnish_dev(world)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind("/dev/log")
        log.settimeout(PATIENCE)
        with in_background(world, OPEN) as pid:
            said = [log.recv(65536)]
            while b'"ready"' not in said[-1]:
                said.append(log.recv(65536))
            refuse_often([MALLORY], 1)
            said.append(log.recv(65536))
            for message in VIOLATIONS:  # one by one, for the queue is as short as ten
                as_mallory(lambda message=message: misbehave([message]))
                said.append(log.recv(65536))
        said.append(log.recv(65536))
    events = []
    for datagram in said:
        found = re.fullmatch(rf"<(\d+)>sockbrokerd\[{pid}\]: (\{{.*\}})", datagram.decode("ascii"))
        assert found is not None, datagram
        assert found[0].isprintable()
        events.append((int(found[1]), json.loads(found[2])["event"]))
    events = [(priority, name) for priority, name in events if name not in SOMETIMES]
    facility = 3 << 3  # LOG_DAEMON
    assert events == [
        (facility | 6, "set up"),
        (facility | 6, "ready"),
        (facility | 4, "denied"),
        *[(facility | 4, "protocol violation")] * len(VIOLATIONS),
        (facility | 6, "stopped"),
    ]


def test_in_the_background_without_a_log(world: World) -> None:
    """Nobody listens at /dev/log: it serves all the same, and says so to whoever does later."""
    furnish_dev(world)
    with in_background(world, OPEN):
        refuse_often([MALLORY], 3)
        assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            log.bind("/dev/log")
            log.settimeout(PATIENCE)
            refuse_often([GUEST], 1)
            note, refusal = (log.recv(65536).decode("ascii") for _ in range(2))
    lost = 6 + bool(MISSING_LAYERS)  # set up, ready, 3 denied, created; what does not confine it
    assert f"{lost} log lines were lost before this one" in note
    assert f'"uid": {GUEST},' in refusal


def test_a_log_in_the_background_that_nobody_reads(world: World) -> None:
    """A system's log whose queue is full holds nobody up."""
    furnish_dev(world)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind("/dev/log")
        with in_background(world, OPEN):
            refuse_often(FLOOD)
            assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
            log.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    log.recv(65536)
            refuse_often([GUEST], 1)
            note, refusal = (log.recv(65536).decode("ascii") for _ in range(2))
    assert "log lines were lost before this one" in note
    assert f'"uid": {GUEST},' in refusal
