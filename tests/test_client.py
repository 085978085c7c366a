"""The library against brokers that answer, lie, hang, break off, or name what they should not."""

import os
import pickle
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sockbroker
from private_world import (
    ALICE,
    MALLORY,
    ChildFailed,
    as_user,
    in_child,
    in_private_world,
    in_user_namespace,
    mount_file,
    mount_tmpfs,
    needs_root,
)
from scripted_broker import (
    OPERATOR,
    ScriptedBroker,
    always,
    answering,
    granted,
    make_directory,
    message,
    read_call,
)
from sockbroker.account_names import FEW_NAMES, AccountNames
from sockbroker.client import uid_of
from sockbroker.connection import decode_replies, decode_reply, encode_call
from sockbroker.errors import (
    BrokerUnavailable,
    CallFailed,
    Closed,
    ConnectionLost,
    Denied,
    Error,
    Impostor,
    InUse,
    InvalidApp,
    LimitReached,
    NoSuchDirectory,
    NoSuchUser,
    Obstructed,
    PermissionDenied,
    PolicyInvalid,
    ProtocolFault,
    TimedOut,
    UnexpectedDirectory,
    Unverifiable,
    from_reply,
)


def request_as_alice() -> tuple[str, int, str]:
    """Request a directory of the app chat as alice, and return what it is."""
    with sockbroker.request("chat", timeout=5) as directory:
        return directory.path, directory.uid, directory.outcome


# What the library makes of replies, without any socket.


@pytest.mark.parametrize(
    ("parameters", "more", "expected"),
    [
        ({}, False, b'{"method":"a.B"}\0'),
        ({}, True, b'{"method":"a.B","more":true}\0'),
        (
            {"app": 'c"\n\0ü', "uid": 7, "force": True},
            False,
            b'{"method":"a.B","parameters":{"app":"c\\"\\n\\u0000\\u00fc","uid":7,"force":true}}\0',
        ),
    ],
)
def test_calls_are_written_as_varlink(
    parameters: dict[str, str | int | bool], more: bool, expected: bytes
) -> None:
    """A call is one line of ASCII JSON with its NUL, whatever is in it.

    Taken out: the escaping of a text in `connection._literal`.
    """
    assert encode_call("a.B", parameters, more=more) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"{}", ({}, False)),
        (b' {"parameters" : null}\n', ({}, False)),
        (b'{"error":null,"continues":false}', ({}, False)),
        (b'{"parameters":{"a":[1,{"b":null}]},"continues":true}', ({"a": [1, {"b": None}]}, True)),
        (b'{"org.example":{},"later":1}', ({}, False)),
        ('{"parameters":{"ü":"\\ud800"}}'.encode(), ({"ü": "\ud800"}, False)),
    ],
)
def test_replies_are_read(reply: bytes, expected: tuple[dict[str, object], bool]) -> None:
    """A reply is read as UAPI.20 says, and what a later version adds is ignored.

    Taken out: that parameters may be missing.
    """
    assert decode_reply(reply) == expected


CONTINUES = b'{"parameters":{"n":1},"continues":true}'


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize(
    "odd",
    [
        CONTINUES,
        b" " + CONTINUES,
        CONTINUES + b" ",
        b'{"error":"a.b.C","parameters":{},"continues":true}',
        b'{"parameters":{"n":2}}',
        b'{"parameters":{"n":2},"continues":false}',
        b'{"continues":true,"parameters":{"n":2}}',
        b'{"parameters":{"n":2},"continues":true,"later":1}',
        b'{"parameters":null,"continues":true}',
        b'{"parameters":{"n":"\\u0000"},"continues":true}',
        b'{"error":"a.b.C","continues":true}',
        b'{"error":null,"parameters":{},"continues":true}',
        b'{"parameters":[],"continues":true}',
        b'{"parameters":{},"continues":1}',
        b'{"parameters":{},"continues":true}{}',
        b'{"parameters":{},"continues":true},',
        b'{"parameters":{"a":[1',
        b'2]},"continues":true}',
        b'["parameters","continues"]',
        b"\xff",
        b"",
    ],
)
def test_replies_are_read_together_as_they_are_one_by_one(before: int, odd: bytes) -> None:
    """What comes at once is read at once, as strictly, and nothing behind the last reply.

    Seen to fail where `continues`, the kind of the parameters, other members or what is behind a
    message are not looked at.
    """
    messages = [CONTINUES] * before + [odd, CONTINUES, b'{"parameters":{"n":3}}', b"beyond"]
    expected: list[dict[str, object]] = []
    fault = None
    for each in messages:
        try:
            parameters, continues = decode_reply(each)
        except Error as error:
            fault = error
            break
        expected.append(parameters)
        if not continues:
            break
    together = b"".join(each + b"\0" for each in messages)
    if fault is not None:
        with pytest.raises(type(fault), match=re.escape(str(fault))):
            decode_replies(together)
    else:
        assert decode_replies(together) == (expected, False)
        first = messages[: len(expected) - 1]
        if first:
            several = b"".join(each + b"\0" for each in first)
            assert decode_replies(several) == (expected[:-1], True)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"[]",
        b"null",
        b"{} {}",
        b'{"parameters":{"x":1}',
        b'{"a":NaN}',
        b"\xff",
        b"{" * 200,
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b'{"parameters":[]}',
        b'{"continues":1}',
        b'{"error":7}',
        b'{"parameters":"\n"}',
    ],
)
def test_no_replies(reply: bytes) -> None:
    """What is no reply is a ProtocolFault, also in a process that never imported json.

    Taken out: what catches the errors of json, and the look at the end of the text.
    """
    with pytest.raises(ProtocolFault):
        decode_reply(reply)
    code = (
        "from sockbroker.connection import decode_reply\n"
        "from sockbroker.errors import ProtocolFault\n"
        f"try: decode_reply({reply[:300]!r})\n"
        "except ProtocolFault: print('fault')\n"
    )
    if len(reply) < 300:
        assert run_python(code) == "fault\n"


ERRORS: list[tuple[str, dict[str, object], type[Error]]] = [
    ("io.sockbroker.Denied", {"app": "x", "reason": "no"}, Denied),
    ("io.sockbroker.InvalidApp", {"app": "../x", "reason": "no name"}, InvalidApp),
    ("io.sockbroker.NoSuchDirectory", {}, NoSuchDirectory),
    ("io.sockbroker.NoSuchDirectory", {"app": "x", "uid": 7}, NoSuchDirectory),
    ("io.sockbroker.Obstructed", {"path": "/run/x", "reason": "a file"}, Obstructed),
    ("io.sockbroker.InUse", {"path": "/run/x/7", "reason": "pid 8"}, InUse),
    ("io.sockbroker.LimitReached", {"resource": "space", "limit": 0}, LimitReached),
    ("io.sockbroker.PolicyInvalid", {"problems": ["f:1:1: bad", "f:2:1: bad"]}, PolicyInvalid),
    ("org.varlink.service.PermissionDenied", {}, PermissionDenied),
    ("org.varlink.service.MethodNotImplemented", {"method": "io.sockbroker.X"}, CallFailed),
    ("io.sockbroker.Denied", {"app": 7}, CallFailed),
    ("com.example.Other", {"a": [1, "\x1b[2J\n"]}, CallFailed),
]


@pytest.mark.parametrize(("name", "parameters", "kind"), ERRORS)
def test_errors_of_the_interface(
    name: str, parameters: dict[str, object], kind: type[Error]
) -> None:
    """Each error of the interface has its exception; any other is a CallFailed.

    Taken out: `from_reply` (each was a CallFailed).
    """
    error = from_reply(name, parameters)
    assert type(error) is kind
    for attribute, value in parameters.items():
        if kind is not CallFailed:
            expected = tuple(value) if isinstance(value, list) else value
            assert getattr(error, attribute) == expected


ALL_ERRORS: list[Error] = [
    *(from_reply(name, parameters) for name, parameters, _ in ERRORS),
    Denied("\x1b[2J\n", "\x07 and\nmore"),
    InvalidApp("\ud800" * 1000, "\x7f"),
    Obstructed("/run/\n", "it is ä link"),
    UnexpectedDirectory("/run/\x1b", "\r"),
    NoSuchUser("\0"),
    Impostor("unix:@sockbroker", 7, 8),
    Unverifiable("unix:@sockbroker"),
    TimedOut("late"),
]


@pytest.mark.parametrize("error", ALL_ERRORS, ids=lambda error: type(error).__name__)
def test_errors_are_one_printable_line(error: Error) -> None:
    """Every error is one line of ASCII that does nothing to a terminal, and a sockbroker.Error.

    Taken out: `legible` and `escape`.
    """
    assert str(error).isascii()
    assert str(error).isprintable()
    assert isinstance(error, sockbroker.Error)


@pytest.mark.parametrize("error", ALL_ERRORS, ids=lambda error: type(error).__name__)
def test_errors_travel_between_processes(error: Error) -> None:
    """Every error comes out of a process pool as it went in."""
    back = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def test_every_exception_is_public() -> None:
    """What the library raises can be caught by a name in sockbroker."""
    waiting, found = [Error], set()
    while waiting:
        kind = waiting.pop()
        found.add(kind.__name__)
        waiting += kind.__subclasses__()
    assert found <= set(sockbroker.__all__)


def test_the_public_names() -> None:
    """All public names exist, and importing the package imports none of what they need."""
    assert [name for name in sockbroker.__all__ if not hasattr(sockbroker, name)] == []
    with pytest.raises(AttributeError):
        sockbroker.nothing  # noqa: B018
    loaded = run_python("import sys, sockbroker; print([m for m in sys.modules if 'sockb' in m])")
    assert loaded == "['sockbroker']\n"


@pytest.mark.parametrize(
    ("user", "uid"), [(0, 0), ("0", 0), ("root", 0), ("4294967294", 2**32 - 2)]
)
def test_users(user: str | int, uid: int) -> None:
    """A user is named by name or by number."""
    assert uid_of(user) == uid


@pytest.mark.parametrize(
    "user",
    ["", "00", "007", "4294967295", 2**32, -1, "-1", "9" * 5000, "no such", "a\0b", "\ud800"],
)
def test_no_users(user: str | int) -> None:
    """What names nobody is a NoSuchUser, before anybody is asked.

    Taken out: the look at a number, and what catches the errors of getpwnam(3).
    """
    with pytest.raises(NoSuchUser):
        uid_of(user)


# What a granted request leads to.


@needs_root
def test_a_request() -> None:
    """A request returns the directory that was made, and says nothing about who asks.

    Taken out: that of one's own uid nothing is said.
    """

    def world() -> tuple[tuple[str, int, str], list[bytes]]:
        make_directory("chat", ALICE)
        broker = ScriptedBroker(always(granted("chat", ALICE)))
        return as_user(ALICE, request_as_alice), broker.received()

    got, received = in_private_world(world)
    assert got == (f"/run/chat/{ALICE}", ALICE, "created")
    assert received == [b'{"method":"io.sockbroker.Request","parameters":{"app":"chat"}}']


@needs_root
def test_an_operator_requests_for_another() -> None:
    """Root gets the directory of the user that he names.

    Taken out: that of another uid something is said.
    """

    def world() -> tuple[str, list[bytes]]:
        make_directory("chat", ALICE)
        broker = ScriptedBroker(always(granted("chat", ALICE)), target=OPERATOR)
        with sockbroker.request("chat", user=ALICE) as directory:
            return directory.path, broker.received()

    path, received = in_private_world(world)
    assert path == f"/run/chat/{ALICE}"
    assert received == [
        b'{"method":"io.sockbroker.Request","parameters":{"app":"chat","uid":1234}}'
    ]


def link_to_mallory() -> None:
    """Put a link where alice's directory should be."""
    path = make_directory("chat", MALLORY)
    os.symlink(path, f"/run/chat/{ALICE}")


def link_on_the_way() -> None:
    """Put a link where the app's folder should be."""
    make_directory("real", ALICE)
    os.symlink("/run/real", "/run/chat")


def file_instead() -> None:
    """Put a file of alice's where her directory should be."""
    os.rmdir(make_directory("chat", ALICE))
    Path(f"/run/chat/{ALICE}").touch()
    os.chown(f"/run/chat/{ALICE}", ALICE, ALICE)


def of_mallory() -> None:
    """Give alice's directory to mallory."""
    os.chown(make_directory("chat", ALICE), MALLORY, ALICE)


def closed_folder() -> None:
    """Close the app's folder to users."""
    make_directory("chat", ALICE)
    os.chmod("/run/chat", 0o700)


@needs_root
@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda: None, "is not there"),
        (link_to_mallory, "is a link or no directory"),
        (link_on_the_way, "is a link or no directory"),
        (file_instead, "is a link or no directory"),
        (of_mallory, f"owned by uid {MALLORY}, not by uid {ALICE}"),
        (lambda: make_directory("chat", ALICE, 0o777), "everybody may write"),
        (lambda: make_directory("chat", ALICE, 0o1702), "everybody may write"),
        (closed_folder, "is closed to you"),
    ],
    ids=["missing", "link", "way", "file", "owner", "0777", "1702", "closed"],
)
def test_what_the_reply_names_is_checked(prepare: Callable[[], object], reason: str) -> None:
    """A directory of another type, owner or mode than it should have is not returned.

    Taken out: `open_checked`, and of it O_NOFOLLOW and `_judge`.
    """

    def world() -> None:
        prepare()
        ScriptedBroker(always(granted("chat", ALICE)))
        with pytest.raises(UnexpectedDirectory, match=reason):
            as_user(ALICE, request_as_alice)

    in_private_world(world)


@needs_root
@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "run/chat/1234",
        "/run/other/../chat/1234",
        "/run/./chat/1234",
        "/run//chat/1234",
        "/run/chat/1234/",
        "/run/chat/1234/.",
        "/run/chat/4321",
        "/run/other/1234",
        "/run/chat/01234",
        "/1234",
        "/run/chat\n/chat/1234",
        "/run/chat\0/chat/1234",
        "/run/\ud800/chat/1234",
    ],
)
def test_paths_that_no_broker_names(path: str) -> None:
    """A path of another form, app or uid is refused, even if a good directory is there.

    Taken out: the looks at the components, at the end, and at what can be seen; with each, one is
    opened.
    """

    def world() -> None:
        make_directory("chat", ALICE)
        make_directory("other", ALICE)
        ScriptedBroker(always(granted("chat", ALICE, path=path) if path else message({})))
        with pytest.raises((UnexpectedDirectory, ProtocolFault)):
            as_user(ALICE, request_as_alice)

    in_private_world(world)


@needs_root
def test_a_mount_on_the_directory_of_another_is_refused() -> None:
    """Root does not look at a file system that a user mounted on his directory; the user does.

    Taken out: the look at the mount.
    """

    def world() -> str:
        path = make_directory("chat", ALICE)
        mount_tmpfs(path, f"mode=0700,uid={ALICE}")
        ScriptedBroker(always(granted("chat", ALICE)), target=OPERATOR)
        ScriptedBroker(always(granted("chat", ALICE)))
        with pytest.raises(UnexpectedDirectory, match="mounted on it"):
            sockbroker.request("chat", user=ALICE)
        return as_user(ALICE, request_as_alice)[0]

    assert in_private_world(world) == f"/run/chat/{ALICE}"


@needs_root
def test_in_a_user_namespace_the_owner_is_judged_as_seen_from_there() -> None:
    """Who says verify=False gets a directory whose name is the uid outside the namespace.

    Taken out: that the last name is not looked at there.
    """

    def world() -> tuple[str, int]:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)))

        def act() -> tuple[str, int]:
            with sockbroker.request("chat", verify=False) as directory:
                return directory.path, directory.uid

        return in_user_namespace(ALICE, f"77 {ALICE} 1", act)

    assert in_private_world(world) == (f"/run/chat/{ALICE}", 77)


@needs_root
def test_the_descriptor_is_held_and_not_inherited() -> None:
    """The directory is held by descriptors that no program inherits, until it is closed.

    Taken out: close-on-exec, and the closing on the way.
    """

    def world() -> None:
        path = make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)))

        def act() -> None:
            before = set(os.listdir("/proc/self/fd"))
            directory = sockbroker.request("chat")
            links = {name: f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")}
            held = {
                name: os.readlink(link)
                for name, link in links.items()
                if os.path.lexists(link) and os.readlink(link).startswith("/run/chat")
            }
            places = sorted(held.values())
            # Itself, its lock, and its mark.
            assert places == [path, path, f"{path}/.sockbroker.lock"]
            assert str(directory.fileno()) in held
            assert not any(os.get_inheritable(int(descriptor)) for descriptor in held)
            assert os.path.samefile(f"/proc/self/fd/{directory.fileno()}", path)
            assert os.fspath(directory) == path
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.listdir(directory.fileno())  # O_PATH: good for nothing but as a dir_fd
            directory.close()
            directory.close()
            assert set(os.listdir("/proc/self/fd")) == before
            with pytest.raises(Closed):
                directory.fileno()

        as_user(ALICE, act)

    in_private_world(world)


@needs_root
def test_a_refused_directory_leaves_no_descriptor() -> None:
    """Whatever is wrong with what the reply names, nothing of it stays open.

    Taken out: the closing after a refusal, and on the way.
    """

    def world() -> None:
        link_to_mallory()
        make_directory("wide", ALICE, 0o777)

        def converse(connection: socket.socket, number: int) -> None:
            app = "wide" if b"wide" in read_call(connection) else "chat"
            connection.sendall(granted(app, ALICE))

        ScriptedBroker(converse)

        def act() -> None:
            before = os.listdir("/proc/self/fd")
            for app in ("chat", "wide") * 10:
                with pytest.raises(UnexpectedDirectory):
                    sockbroker.request(app)
            assert os.listdir("/proc/self/fd") == before

        as_user(ALICE, act)

    in_private_world(world)


@needs_root
def test_a_directory_that_is_forgotten_is_closed_with_a_warning() -> None:
    """Who lets a directory go without closing it is told so in development mode.

    Taken out: `__del__`.
    """

    def world() -> None:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)))

        def act() -> None:
            before = os.listdir("/proc/self/fd")
            with pytest.warns(ResourceWarning, match=f"/run/chat/{ALICE}"):
                sockbroker.request("chat")
            assert os.listdir("/proc/self/fd") == before

        as_user(ALICE, act)

    in_private_world(world)


# How a call ends when the other side does not do its part.


def hang(connection: socket.socket, number: int) -> None:
    """Take the call and say nothing."""
    read_call(connection)
    time.sleep(60)


def hang_in_the_middle(connection: socket.socket, number: int) -> None:
    """Begin an answer, a byte at a time, and never come to an end."""
    read_call(connection)
    for _ in range(600):
        connection.sendall(b"{" if number == 0 else b" ")
        time.sleep(0.1)


@needs_root
@pytest.mark.parametrize("converse", [hang, hang_in_the_middle])
def test_every_call_ends_by_its_timeout(
    converse: Callable[[socket.socket, int], None],
) -> None:
    """However a broker holds an answer back, the call ends in time.

    Taken out: the deadline (each read had 20 s).
    """

    def world() -> float:
        ScriptedBroker(converse)
        begin = time.monotonic()
        with pytest.raises(TimedOut):
            as_user(ALICE, lambda: sockbroker.broker_status(timeout=0.5))
        return time.monotonic() - begin

    assert 0.4 < in_private_world(world) < 15


def hang_up(connection: socket.socket, number: int) -> None:
    """Take the call and close."""
    read_call(connection)


def hang_up_unread(connection: socket.socket, number: int) -> None:
    """Close without taking the call, which resets the connection."""
    time.sleep(0.05)


def half_an_answer(connection: socket.socket, number: int) -> None:
    """Answer with all but the NUL."""
    read_call(connection)
    connection.sendall(b'{"parameters":{}}')


@needs_root
@pytest.mark.parametrize("converse", [hang_up, hang_up_unread, half_an_answer])
@pytest.mark.parametrize(
    ("call", "times"),
    [
        (lambda: sockbroker.request("chat"), 2),
        (lambda: sockbroker.list_directories(), 2),
        (lambda: sockbroker.broker_status(), 2),
        (lambda: sockbroker.release("chat"), 1),
        (lambda: sockbroker.reload_policy(), 1),
    ],
    ids=["request", "list", "status", "release", "reload"],
)
def test_a_lost_connection(
    converse: Callable[[socket.socket, int], None], call: Callable[[], object], times: int
) -> None:
    """A lost connection is tried once more where that does no harm, and is an error after that.

    Taken out: the second try, and that it is not for all calls.
    """

    def world() -> int:
        counted, writable = os.pipe()

        def count(connection: socket.socket, number: int) -> None:
            os.write(writable, b".")
            converse(connection, number)

        ScriptedBroker(count)
        with pytest.raises(ConnectionLost):
            as_user(ALICE, lambda: bool(call()))
        return len(os.read(counted, 100))

    assert in_private_world(world) == times


@needs_root
def test_the_second_try_counts() -> None:
    """A broker that was restarted in the middle of a call costs the caller nothing.

    Taken out: the second try.
    """

    def world() -> tuple[str, int, str]:
        make_directory("chat", ALICE)
        ScriptedBroker(answering(b"", granted("chat", ALICE)))
        return as_user(ALICE, request_as_alice)

    assert in_private_world(world)[0] == f"/run/chat/{ALICE}"


@needs_root
def test_an_answer_in_pieces() -> None:
    """An answer is the same whether it comes whole or byte by byte.

    Taken out: what was received before.
    """

    def world() -> tuple[str, int, str]:
        make_directory("chat", ALICE)

        def converse(connection: socket.socket, number: int) -> None:
            read_call(connection)
            for byte in granted("chat", ALICE):
                connection.sendall(bytes([byte]))
                time.sleep(0.001)

        ScriptedBroker(converse)
        return as_user(ALICE, request_as_alice)

    assert in_private_world(world)[0] == f"/run/chat/{ALICE}"


@needs_root
def test_an_answer_without_end_is_given_up() -> None:
    """A reply that never ends does not fill the caller's memory.

    Taken out: REPLY_LIMIT.
    """

    def world() -> None:
        def converse(connection: socket.socket, number: int) -> None:
            while True:
                connection.sendall(b" " * 65536)

        ScriptedBroker(converse)
        with pytest.raises(ProtocolFault, match="without end"):
            as_user(ALICE, lambda: sockbroker.broker_status(timeout=20))

    in_private_world(world)


@needs_root
@pytest.mark.parametrize("app", ["\ud800", "x" * 256, "x" * 100_000, "\U0001f600" * 64])
def test_names_that_fit_in_no_message(app: str) -> None:
    """A name that a broker could only hang up on is refused before it is sent.

    Taken out: the looks at the length and at UTF-8.
    """

    def world() -> list[bytes]:
        broker = ScriptedBroker(always(message({})))
        with pytest.raises(InvalidApp):
            as_user(ALICE, lambda: bool(sockbroker.request(app)))
        return broker.received()

    assert in_private_world(world) == []


@needs_root
def test_a_refusal_is_an_exception() -> None:
    """What the broker answers as an error is raised, with the values that it gave.

    Taken out: `from_reply` (each was a CallFailed).
    """

    def world() -> str:
        refusal = message({"app": "chat", "reason": "no rule"}, "io.sockbroker.Denied")
        ScriptedBroker(always(refusal))
        with pytest.raises(Denied) as caught:
            as_user(ALICE, request_as_alice)
        return caught.value.reason

    assert in_private_world(world) == "no rule"


def listed(app: str, uid: int, **others: object) -> dict[str, object]:
    """Give what List says about a directory."""
    return {
        "directory": {
            "app": app,
            "uid": uid,
            "gid": uid,
            "path": f"/run/{app}/{uid}",
            "mode": "0700",
            "state": "ok",
            **others,
        }
    }


@needs_root
def test_a_list() -> None:
    """A list has every directory of the series, in order, with the names that this side knows.

    Taken out: that a list asks for more, and that all of it is read.
    """

    def world() -> list[tuple[object, ...]]:
        first = message(listed("chat", 0), continues=True)
        second = message(listed("mail", 1999, userName="ann", inUse=True, sockets=3, new=[]))
        broker = ScriptedBroker(answering(first + second))
        found = as_user(ALICE, lambda: [row(each) for each in sockbroker.list_directories()])
        assert broker.received() == [b'{"method":"io.sockbroker.List","more":true}']
        return found

    def row(each: sockbroker.ListedDirectory) -> tuple[object, ...]:
        return tuple(getattr(each, field) for field in each.FIELDS)

    assert in_private_world(world) == [
        ("chat", 0, "root", "/run/chat/0", "0700", 0, "root", "ok", None, None),
        ("mail", 1999, "ann", "/run/mail/1999", "0700", 1999, None, "ok", True, 3),
    ]


@needs_root
@pytest.mark.parametrize(
    "sources", ["files", "files systemd", "files sss", "files [!UNAVAIL=return]"]
)
def test_names_of_many_are_read_at_once(sources: str) -> None:
    """What is asked one by one is bounded where the whole database can be read on this machine.

    The answers are the same. Seen to fail where all are looked up one by one, and where a source
    that may not tell all is taken for one that does.
    """

    def world() -> tuple[list[str | None], list[str | None], int]:
        accounts = "".join(f"u{uid}:x:{uid}:1::/:/bin/sh\n" for uid in range(5000, 5500, 2))
        for name, text in (
            ("passwd", f"{accounts}again:x:5100:1::/:/bin/sh\n"),
            ("nsswitch.conf", f"passwd: {sources}\n"),
        ):
            Path(f"/run/{name}").write_text(text)
            mount_file(f"/run/{name}", f"/etc/{name}")
        asked = []
        really = pwd.getpwuid

        def getpwuid(uid: int) -> pwd.struct_passwd:
            asked.append(uid)
            return really(uid)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pwd, "getpwuid", getpwuid)
            names = AccountNames()
            found = [names.user(uid) for uid in [*range(5000, 5500), *range(5000, 5500)]]
        return found, [_name(uid) for uid in range(5000, 5500)], len(asked)

    found, expected, asked = in_private_world(world)
    assert found == expected * 2
    assert asked == {"files": FEW_NAMES, "files systemd": 250 + FEW_NAMES // 2}.get(sources, 500)


def _name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


@needs_root
def test_a_list_that_breaks_off_is_asked_again_from_the_start() -> None:
    """A series that was cut off is not taken for a whole one, nor is its beginning kept.

    Taken out: the second try.
    """

    def world() -> int:
        cut = message(listed("chat", 0), continues=True)
        whole = message(listed("chat", 0), continues=True) + message(listed("chat", 1))
        ScriptedBroker(answering(cut, whole))
        return as_user(ALICE, lambda: len(sockbroker.list_directories()))

    assert in_private_world(world) == 2


@needs_root
def test_an_empty_list() -> None:
    """That there is nothing to list is a list without anything, and no error.

    Taken out: what catches NoSuchDirectory.
    """

    def world() -> list[object]:
        ScriptedBroker(always(message({}, "io.sockbroker.NoSuchDirectory")))
        return as_user(ALICE, lambda: [*sockbroker.list_directories(app="chat")])

    assert in_private_world(world) == []


@needs_root
@pytest.mark.parametrize(
    "answer",
    [message({}), message({"directory": {}}), message(listed("x", 1, mode=448))],
)
def test_a_list_of_what_is_no_directory(answer: bytes) -> None:
    """A reply that lacks what every directory has is a ProtocolFault."""

    def world() -> None:
        ScriptedBroker(always(answer))
        with pytest.raises(ProtocolFault):
            as_user(ALICE, lambda: bool(sockbroker.list_directories()))

    in_private_world(world)


@needs_root
def test_calls_from_many_threads() -> None:
    """Threads that ask at once each get their own answer."""

    def world() -> list[str]:
        for number in range(8):
            make_directory(f"app{number}", ALICE)

        def converse(connection: socket.socket, number: int) -> None:
            found = re.search(rb"app[0-9]", read_call(connection))
            assert found
            connection.sendall(granted(found[0].decode(), ALICE))

        ScriptedBroker(converse)

        def act() -> list[str]:
            def one(number: int) -> str:
                with sockbroker.request(f"app{number % 8}") as directory:
                    return directory.path

            with ThreadPoolExecutor(8) as pool:
                return [*pool.map(one, range(80))]

        return as_user(ALICE, act)

    assert in_private_world(world) == [f"/run/app{number % 8}/{ALICE}" for number in range(80)]


@needs_root
def test_who_has_changed_the_signal_for_a_broken_pipe() -> None:
    """A program that left SIGPIPE at its default is not killed by a broker that hangs up.

    Taken out: MSG_NOSIGNAL, and what catches the error of send(2).
    """

    def world() -> None:
        def refuse_to_read(connection: socket.socket, number: int) -> None:
            connection.shutdown(socket.SHUT_RDWR)

        ScriptedBroker(refuse_to_read)

        def act() -> None:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            for _ in range(50):
                with pytest.raises(BrokerUnavailable):
                    sockbroker.broker_status()

        as_user(ALICE, act)

    in_private_world(world)


def test_a_child_that_fails_fails_the_test() -> None:
    """What goes wrong in a child of these tests is seen."""

    def die() -> None:
        os._exit(3)

    def fail() -> None:
        raise type("Local", (Exception,), {})("lost")

    with pytest.raises(ChildFailed, match="wait status"):
        in_child(die)
    with pytest.raises(ChildFailed, match="lost"):
        in_child(fail)


def run_python(code: str) -> str:
    """Run code in a fresh interpreter that finds the package, and return what it prints."""
    found = str(Path(sockbroker.__file__).parent.parent)
    prefix = f"import sys; sys.path.insert(0, {found!r})\n"
    return subprocess.run(
        [sys.executable, "-I", "-c", prefix + code], capture_output=True, text=True, check=True
    ).stdout
