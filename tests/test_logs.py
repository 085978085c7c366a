"""How the lines of the log look and where they go: each logger on a real descriptor.

Loggers are made in children, which own what they open and take it with them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import select
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from private_world import in_child
from sockbroker.logs import (
    Logger,
    journal_logger,
    logger_for,
    plain_logger,
    terminal_logger,
)

Make = Callable[[int], Logger]

LEVELS = {"info": 6, "warning": 4, "error": 3, "critical": 2}

HOSTILE = [
    "",
    " ",
    "\n<0>forged",
    "a\r\n<0>sockbrokerd: forged",
    '"}\n{"event": "forged"}',
    'x" uid=0 app="root',
    "x uid=0",
    "uid=0",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "\x7f\x7f\x7f",
    "\0",
    "\\",
    "\\n",
    '\\"',
    "'",
    "[a, b]",
    "\u2028\u2029\x85\x0b\x0c",
    "\u202edesrever\u2066",
    "\ud800",
    "\udcff",
    "caf\u00e9 \U0001f600",
    "<0>",
    "@name",
]
"""What would forge a line or a field, steer a terminal, or be no text at all."""

FORMS = pytest.mark.parametrize("make", [journal_logger, plain_logger, terminal_logger])


def said(make: Make, act: Callable[[Logger], object]) -> str:
    """All that `act` has the logger write, to a pipe."""
    readable, writable = os.pipe()
    with open(readable, encoding="ascii", newline="") as pipe:
        try:
            in_child(lambda: act(make(writable)))
        finally:
            os.close(writable)
        return pipe.read()


def readable_fields(line: str) -> list[tuple[str, str]]:
    """The fields of a line for a terminal, taken apart as a reader would."""
    rest = line[:-1].split(maxsplit=1)[1].partition(" ")[2] + " "
    taken = re.findall(r'([a-z]+)=("[^"]*"|[^ "]*) ', rest)
    assert "".join(f"{name}={value} " for name, value in taken) == rest.lstrip()
    return taken


# ---- Forms -----------------------------------------------------------------------------------


def test_the_journal_gets_a_priority_and_an_object() -> None:
    """A line is `<N>` and JSON, the event first; time and level are the journal's business."""

    def speak(log: Logger) -> None:
        for level in LEVELS:
            getattr(log, level)("denied", uid=1001, app="demo")

    assert said(journal_logger, speak) == "".join(
        f'<{priority}>{{"event": "denied", "uid": 1001, "app": "demo"}}\n'
        for priority in LEVELS.values()
    )


def test_a_file_gets_the_time_and_the_level() -> None:
    """What nobody adds later is in the line: when, in UTC, and how grave."""
    lines = said(plain_logger, lambda log: [getattr(log, level)("x", uid=1) for level in LEVELS])
    events = [json.loads(line) for line in lines.splitlines()]
    for event, level in zip(events, LEVELS, strict=True):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event.pop("time"))
        assert event == {"event": "x", "uid": 1, "level": level}


def test_a_person_gets_a_readable_line() -> None:
    """Level, event and fields, quoted only where it helps."""
    line = said(
        terminal_logger,
        lambda log: log.warning(
            "protocol violation", uid=1001, why="not a JSON object", seen=["a", "b c"], empty=""
        ),
    )
    assert line == (
        'warning  protocol violation uid=1001 why="not a JSON object" seen=[a, "b c"] empty=""\n'
    )


@FORMS
def test_debugging_is_not_for_the_log(make: Make) -> None:
    """What is below info leaves no line."""
    assert said(make, lambda log: log.debug("x")) == ""


@FORMS
def test_a_fault_is_one_line(make: Make) -> None:
    """An exception is told by its type, its text and the places it went through."""

    def speak(log: Logger) -> None:
        try:
            raise ValueError("two\nlines")
        except ValueError as error:
            log.error("fault", uid=1001, fault=error)

    line = said(make, speak)
    assert line.count("\n") == 1
    assert "ValueError: two" in line
    assert re.search(r"test_logs\.py:\d+ speak", line)


# ---- Escaping --------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_stay_in_their_line(make: Make, value: str) -> None:
    """One printable line of ASCII, which begins as it has to, wherever the value stands."""
    text = said(make, lambda log: log.warning("denied", app=value, problems=[value]))
    assert text.isascii()
    assert text[-1] == "\n"
    assert text[:-1].isprintable()
    assert text.startswith({journal_logger: "<4>{", plain_logger: "{"}.get(make, "warning  denied"))


@pytest.mark.parametrize("value", HOSTILE)
def test_json_gives_the_value_back(value: str) -> None:
    """Escaping loses nothing, and adds no field."""
    line = said(journal_logger, lambda log: log.warning("denied", app=value, why=[value]))
    assert json.loads(line.removeprefix("<4>")) == {"event": "denied", "app": value, "why": [value]}


@pytest.mark.parametrize("value", HOSTILE)
def test_no_field_can_be_forged_for_a_person(value: str) -> None:
    """A readable line has the fields that were logged, and none that a value pretends to be."""
    line = said(terminal_logger, lambda log: log.warning("denied", app=value, uid=1004))
    assert [name for name, _ in readable_fields(line)] == ["app", "uid"]


@pytest.fixture(scope="module")
def on_files(tmp_path_factory: pytest.TempPathFactory) -> dict[Make, tuple[Logger, Path]]:
    """A plain and a readable log, each in a file."""
    logs = {}
    for make in (plain_logger, terminal_logger):
        path = tmp_path_factory.mktemp("log") / "log"
        with path.open("ab") as file:
            logs[make] = make(file.fileno()), path
    return logs


@given(st.dictionaries(st.sampled_from("abc"), st.text(st.characters(exclude_categories=()))))
def test_any_text_in_any_field(
    on_files: dict[Make, tuple[Logger, Path]], fields: dict[str, str]
) -> None:
    """Whatever is logged, a line parses back to it, and a readable line has just its fields."""
    lines = {}
    for make, (log, path) in on_files.items():
        before = path.stat().st_size
        log.info("said", **fields)
        with path.open(encoding="ascii", newline="") as file:
            file.seek(before)
            lines[make] = file.read()
        assert lines[make][:-1].isprintable()
        assert lines[make][-1] == "\n"
    event = json.loads(lines[plain_logger])
    # JSON makes one character of two surrogates that stand side by side.
    assert {name: event[name] for name in fields} == json.loads(json.dumps(fields))
    assert [name for name, _ in readable_fields(lines[terminal_logger])] == list(fields)


@pytest.mark.parametrize("where", ["a file", "a pipe"])
def test_a_long_line_is_whole(tmp_path: Path, where: str) -> None:
    """Twenty problems of a policy are more than a page, and still one line that is JSON."""
    problems = [f"/etc/sockbroker.yaml:{line}:1: {'x' * 400}" for line in range(20)]

    def speak(log: Logger) -> None:
        log.error("policy not taken", problems=problems)
        log.info("after it")

    if where == "a pipe":
        text = said(plain_logger, speak)
    else:
        with (tmp_path / "log").open("ab") as file:
            in_child(lambda: speak(plain_logger(file.fileno())))
        text = (tmp_path / "log").read_text()
    first, second = (json.loads(line) for line in text.splitlines())
    assert first["problems"] == problems
    assert second["event"] == "after it"


def test_a_full_disk(tmp_path: Path) -> None:
    """A line of which there was room for a part only is lost too; the next one says so.

    Seen to fail where what write(2) returns is not looked at.
    """
    with (tmp_path / "log").open("ab") as file:

        def speak() -> None:
            log = plain_logger(file.fileno())
            _soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            for most in (40, 40, hard):
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
                log.info("something", path="/run/demo/1000")

        in_child(speak)
    text = (tmp_path / "log").read_text()
    assert "2 log lines were lost before this one" in text[40:]
    assert json.loads(text.splitlines()[-1])["event"] == "something"


# ---- Where lines go --------------------------------------------------------------------------


def chosen_for(descriptor: int, other_end: int, journal_stream: str | None) -> str:
    """What comes out at the other end of standard error."""
    in_child(lambda: logger_for(descriptor, journal_stream).info("x"))
    said = b""
    while not said.endswith(b"\n") and select.select([other_end], [], [], 10)[0]:
        said += os.read(other_end, 4096)  # a terminal has a line in parts
    return said.decode()


def identity(descriptor: int) -> str:
    """What $JOURNAL_STREAM says of a descriptor."""
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


def test_the_form_follows_standard_error() -> None:
    """The journal's socket, a terminal, and anything else are told apart by what they are."""
    ours, theirs = socket.socketpair()
    readable, writable = os.pipe()
    terminal, shell = os.openpty()
    journal, pipe = identity(theirs.fileno()), identity(writable)
    cases = [
        (theirs.fileno(), ours.fileno(), journal, '<6>{"event": "x"}\n'),
        (theirs.fileno(), ours.fileno(), pipe, '{"event": "x", "level": "info", "time": '),
        (theirs.fileno(), ours.fileno(), None, '{"event": "x", "level": "info", "time": '),
        (writable, readable, pipe, '<6>{"event": "x"}\n'),
        (writable, readable, journal, '{"event": "x", "level": "info", "time": '),
        (writable, readable, "", '{"event": "x", "level": "info", "time": '),
        (writable, readable, "0:0", '{"event": "x", "level": "info", "time": '),
        (shell, terminal, None, "info     x\r\n"),
        (shell, terminal, journal, "info     x\r\n"),
    ]
    for descriptor, other_end, journal_stream, expected in cases:
        said = chosen_for(descriptor, other_end, journal_stream)
        assert said[: len(expected)] == expected
    ours.close()
    theirs.close()
    for descriptor in (readable, writable, terminal, shell):
        os.close(descriptor)


def test_nowhere_to_write_is_no_error() -> None:
    """/dev/null, a descriptor that cannot be written and a reader who is gone cost lines only."""
    reading = os.open("/dev/null", os.O_RDONLY)
    null = os.open("/dev/null", os.O_WRONLY)
    readable, writable = os.pipe()
    os.close(readable)
    ours, theirs = socket.socketpair()
    ours.close()

    def speak(descriptor: int, journal_stream: str | None) -> None:
        log = logger_for(descriptor, journal_stream)
        for _ in range(3):
            log.error("x")

    for descriptor in (reading, null, writable, theirs.fileno()):
        in_child(lambda descriptor=descriptor: speak(descriptor, None))
        in_child(lambda descriptor=descriptor: speak(descriptor, identity(descriptor)))
    theirs.close()
    for descriptor in (reading, null, writable):
        os.close(descriptor)


@FORMS
@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a terminal"])
def test_a_log_that_nobody_reads(make: Make, kind: str) -> None:
    """Writing goes on without waiting; the next line that gets through says what is missing."""
    if kind == "a pipe":
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 65536)
    elif kind == "a socket":
        ends = socket.socketpair()
        ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # less than all that is said
        reading, writing = (end.detach() for end in ends)
    else:
        reading, writing = os.openpty()
    flags = fcntl.fcntl(writing, fcntl.F_GETFL)
    written = 20_000

    def drained() -> str:
        text = b""
        while select.select([reading], [], [], 0.2)[0]:
            text += os.read(reading, 65536)
        return text.decode("ascii").replace("\r\n", "\n")

    def speak() -> tuple[str, str]:
        log = make(writing)
        for number in range(written):
            log.warning("denied", number=number)
        before, after = drained(), ""
        while "after it" not in after:  # once, but for a terminal, which may be slow to have room
            log.info("after it")
            after += drained()
        return before, after

    before, after = in_child(speak)
    assert fcntl.fcntl(writing, fcntl.F_GETFL) == flags  # others share it
    os.close(reading)
    os.close(writing)
    (lost,) = re.findall(r"(\d+) log lines were lost before this one", after)
    assert 0 < int(lost) < written
    if kind == "a terminal":
        return  # it may also take a part of a line
    assert len(before.splitlines()) + int(lost) == written
    note, line = after.splitlines()
    assert "after it" in line
    if make is not terminal_logger:
        for text, priority in ((note, 4), (line, 6)):
            prefix = f"<{priority}>" if make is journal_logger else ""
            assert text.startswith(f'{prefix}{{"event": "')
            json.loads(text.removeprefix(prefix))
