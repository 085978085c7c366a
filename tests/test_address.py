"""Finding the broker among those who would like to be taken for it."""

import os
import socket
import time

import pytest

import sockbroker
from private_world import (
    ALICE,
    MALLORY,
    as_user,
    background,
    in_private_world,
    in_user_namespace,
    needs_root,
)
from scripted_broker import (
    ABSTRACT,
    OPERATOR,
    PATH,
    ScriptedBroker,
    always,
    message,
)
from sockbroker.address import connect, parse
from sockbroker.errors import (
    BrokerUnavailable,
    Impostor,
    InvalidAddress,
    TimedOut,
    Unverifiable,
)

STATUS = message({"version": "1", "state": "running", "policyGeneration": 1})


def ask(*, address: str | None = None, timeout: float = 5, verify: bool = True) -> str | None:
    """Make the shortest call that there is, and return the version in its answer."""
    return sockbroker.broker_status(address=address, timeout=timeout, verify=verify).version


def says(version: str) -> bytes:
    """Give a Status reply that tells the brokers of a test apart."""
    return message({"version": version, "state": "running", "policyGeneration": 1})


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("unix:@sockbroker", b"\0sockbroker"),
        ("unix:@sockbroker;mode=0666", b"\0sockbroker"),
        ("unix:/run/sockbroker/io.sockbroker", b"/run/sockbroker/io.sockbroker"),
        ("unix:/a;b;c", b"/a"),
        ("unix:@@", b"\0@"),
        ("unix:/" + "x" * 106, b"/" + b"x" * 106),
        ("unix:@" + "x" * 107, b"\0" + b"x" * 107),
    ],
)
def test_addresses(text: str, target: bytes) -> None:
    """A Varlink address of a unix socket is read as Varlink says.

    Taken out: that a semicolon ends it.
    """
    assert parse(text).target == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix",
        "unix:",
        "unix:@",
        "unix:/",
        "unix:@;x",
        "unix:relative",
        "tcp:localhost:1",
        "unix:/a\0b",
        "unix:/\ud800",
        "/run/sockbroker/io.sockbroker",
        "unix:/" + "x" * 107,
        "unix:@" + "x" * 108,
    ],
)
def test_no_addresses(text: str) -> None:
    """What is no address, or too long for one, is refused in one printable line.

    Taken out: the look at its form, and at its length.
    """
    with pytest.raises(InvalidAddress) as caught:
        parse(text)
    assert str(caught.value).isprintable()


@needs_root
def test_users_ask_at_the_abstract_name() -> None:
    """A user reaches the broker at @sockbroker, even if the path has one too.

    Taken out: the order of `candidates`.
    """

    def world() -> str | None:
        ScriptedBroker(always(says("abstract")))
        ScriptedBroker(always(says("path")), target=PATH)
        return as_user(ALICE, ask)

    assert in_private_world(world) == "abstract"


@needs_root
def test_the_path_where_nobody_listens_on_the_name() -> None:
    """Where the name is free, as in another network namespace, the path is asked.

    Taken out: the path of `candidates`.
    """

    def world() -> str | None:
        ScriptedBroker(always(says("path")), target=PATH)
        return as_user(ALICE, ask)

    assert in_private_world(world) == "path"


@needs_root
def test_a_squatter_is_told_nothing() -> None:
    """Where a user sits on the name, the path is asked, and the squatter does not see one byte.

    Taken out: the uid that `_verify` wants, and that the next address is tried after an impostor.
    """

    def world() -> tuple[str | None, list[bytes]]:
        squatter = ScriptedBroker(always(says("squatter")), uid=MALLORY)
        ScriptedBroker(always(says("path")), target=PATH)
        return as_user(ALICE, ask), squatter.received()

    assert in_private_world(world) == ("path", [])


@needs_root
def test_a_squatter_alone_is_named() -> None:
    """Where there is nobody but a squatter, the error says who it is, and he sees not one byte.

    Taken out: the uid that `_verify` wants; then he is told.
    """

    def world() -> tuple[str, bool, list[bytes]]:
        squatter = ScriptedBroker(always(says("squatter")), uid=MALLORY)
        with pytest.raises(Impostor) as caught:
            as_user(ALICE, ask)
        named = (caught.value.uid, caught.value.pid) == (MALLORY, squatter.pid)
        return str(caught.value), named, squatter.received()

    text, named, received = in_private_world(world)
    assert named
    assert f"uid {MALLORY}" in text
    assert received == []


@needs_root
def test_verify_false_trusts_whoever_listens() -> None:
    """Only who says so in as many words talks to a listener that is not root.

    Taken out: the look at `verify`.
    """

    def world() -> str | None:
        ScriptedBroker(always(says("somebody")), uid=MALLORY)
        return as_user(ALICE, lambda: ask(verify=False))

    assert in_private_world(world) == "somebody"


@needs_root
def test_a_squatter_who_never_accepts_holds_nobody_up() -> None:
    """A name whose backlog a squatter keeps full costs no waiting: the path is asked.

    Taken out: the path of `candidates`, and that connect(2) does not block; without the latter it
    does not come to an end.
    """

    def world() -> tuple[str | None, float]:
        fill(ABSTRACT, uid=MALLORY)
        ScriptedBroker(always(says("path")), target=PATH)
        begin = time.monotonic()
        return as_user(ALICE, ask), time.monotonic() - begin

    version, seconds = in_private_world(world)
    assert version == "path"
    assert seconds < 4  # it would be five


@needs_root
def test_a_full_backlog_is_waited_for() -> None:
    """A broker that is busy for a moment is waited for, although connect(2) says EAGAIN at once.

    Taken out: that a full backlog is tried again.
    """

    def world() -> str | None:
        listener = fill(ABSTRACT)

        def accept_late() -> None:
            time.sleep(0.3)
            while True:
                connection, _ = listener.accept()
                connection.sendall(says("late"))

        background(accept_late)
        return as_user(ALICE, ask)

    assert in_private_world(world) == "late"


@needs_root
def test_a_backlog_that_stays_full_ends_by_the_timeout() -> None:
    """A broker that takes no connections is given up in time, with the error that says so.

    Taken out: what catches BlockingIOError, and the deadline; without the latter it does not come
    to an end.
    """

    def world() -> float:
        fill(ABSTRACT)
        begin = time.monotonic()
        with pytest.raises(TimedOut):
            as_user(ALICE, lambda: ask(timeout=0.5))
        return time.monotonic() - begin

    assert 0.3 < in_private_world(world) < 15


@needs_root
@pytest.mark.parametrize("name", [b"\0sockbroker\0", b"\0Sockbroker", b"\0sockbroke"])
def test_names_that_look_alike(name: bytes) -> None:
    """A name that is the broker's but for a NUL or a letter is not its name.

    Taken out: the exact name in `ABSTRACT` (it had a NUL more).
    """

    def world() -> list[bytes]:
        other = ScriptedBroker(always(STATUS), target=name)
        with pytest.raises(BrokerUnavailable, match="no broker answers"):
            as_user(ALICE, ask)
        return other.received()

    assert in_private_world(world) == []


@needs_root
def test_root_asks_as_an_operator() -> None:
    """Root reaches the operator socket, whatever else there is.

    Taken out: the look at the caller's uid in `candidates`.
    """

    def world() -> str | None:
        ScriptedBroker(always(says("abstract")))
        ScriptedBroker(always(says("operator")), target=OPERATOR)
        return ask()

    assert in_private_world(world) == "operator"


@needs_root
def test_root_asks_as_an_operator_or_not_at_all() -> None:
    """Without an operator socket root gets an error, never the answer to another question.

    Taken out: that `connect` goes no further after the operator socket.
    """

    def world() -> tuple[str, list[bytes]]:
        public = ScriptedBroker(always(STATUS))
        with pytest.raises(BrokerUnavailable) as caught:
            ask()
        return str(caught.value), public.received()

    text, received = in_private_world(world)
    assert "--address unix:/run/sockbroker/io.sockbroker" in text
    assert received == []


@needs_root
def test_an_address_that_is_given_is_the_only_one() -> None:
    """Who names an address is served there or not at all, and the check of the listener stays.

    Taken out: that it is the only one (the usual name came after it), and the uid that `_verify`
    wants.
    """

    def world() -> None:
        ScriptedBroker(always(STATUS))
        ScriptedBroker(always(STATUS), target=b"\0mallory", uid=MALLORY)
        ScriptedBroker(always(says("named")), target=b"\0named")
        assert as_user(ALICE, lambda: ask(address="unix:@named")) == "named"
        with pytest.raises(BrokerUnavailable, match="no broker answers"):
            as_user(ALICE, lambda: ask(address="unix:@nobody"))
        with pytest.raises(Impostor):
            as_user(ALICE, lambda: ask(address="unix:@mallory"))

    in_private_world(world)


@needs_root
@pytest.mark.parametrize("uid_map", ["", f"0 {ALICE} 1", f"{ALICE} {ALICE} 1"])
def test_in_a_user_namespace_nobody_can_be_told_apart(uid_map: str) -> None:
    """Where root is not mapped, nothing is sent unless the caller says that he does not mind.

    Taken out: the look at the map of uids.
    """

    def world() -> tuple[str | None, list[bytes]]:
        broker = ScriptedBroker(always(says("broker")))
        ScriptedBroker(always(STATUS), target=OPERATOR)
        with pytest.raises(Unverifiable):
            in_user_namespace(ALICE, uid_map, ask)
        version = in_user_namespace(ALICE, uid_map, lambda: ask(verify=False))
        return version, broker.received()

    version, received = in_private_world(world)
    assert version == "broker"
    assert len(received) == 1


@needs_root
def test_who_looks_like_root_in_a_user_namespace_is_not() -> None:
    """A user who is uid 0 in a namespace of his own is not taken for the broker in it.

    Taken out: the look at the map of uids.
    """

    def world() -> None:
        ScriptedBroker(always(STATUS), uid=ALICE)
        with pytest.raises(Unverifiable):
            in_user_namespace(ALICE, f"0 {ALICE} 1", lambda: ask(address="unix:@sockbroker"))

    in_private_world(world)


@needs_root
def test_a_failed_connection_leaves_no_descriptor() -> None:
    """Whatever goes wrong on the way, no descriptor stays behind.

    Taken out: the closing in `_connect`.
    """

    def world() -> tuple[int, int]:
        ScriptedBroker(always(STATUS), uid=MALLORY)

        def act() -> tuple[int, int]:
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                with pytest.raises(Impostor):
                    ask()
            return before, len(os.listdir("/proc/self/fd"))

        return as_user(ALICE, act)

    before, after = in_private_world(world)
    assert before == after


@needs_root
def test_the_connection_is_not_inherited() -> None:
    """A program that is started meanwhile does not get the connection.

    Taken out: that it is close-on-exec.
    """

    def world() -> bool:
        ScriptedBroker(always(STATUS))
        connection = connect(
            (parse("unix:@sockbroker"),), deadline=time.monotonic() + 5, verify=True
        )
        return os.get_inheritable(connection.fileno())

    assert not in_private_world(world)


def fill(name: bytes, *, uid: int = 0) -> socket.socket:
    """Listen on a name as that user and take up all of the backlog; the listener keeps it so."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    euid = os.geteuid()
    os.seteuid(uid)
    listener.listen(0)
    os.seteuid(euid)
    queued = socket.socket(socket.AF_UNIX)
    queued.setblocking(False)
    queued.connect(name)
    _kept.append((listener, queued))
    return listener


_kept: list[tuple[socket.socket, socket.socket]] = []
