"""The kernel's table of sockets is read whole and byte by byte, or not at all."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import own_run
import pytest

from private_world import ALICE, CLONE_NEWNET, as_user, in_private_world, mount_tmpfs, unshare
from sockbroker.kernel import unix_sockets as module
from sockbroker.kernel.unix_sockets import (
    NETLINK_SOCK_DIAG,
    SHOW_NAME,
    SHOW_PEER,
    SHOW_RQLEN,
    SHOW_UID,
    SHOW_VFS,
    SOCK_DIAG_BY_FAMILY,
    BoundFile,
    Disturbed,
    UnixSocket,
    bound_files,
    read_dump,
    unix_sockets,
)

pytestmark = pytest.mark.root

T = TypeVar("T")
EVERYTHING = SHOW_NAME | SHOW_VFS | SHOW_PEER | SHOW_RQLEN | SHOW_UID
STREAM, DGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET

# include/uapi/linux/netlink.h
ERROR, DONE, OVERRUN, DUMP_INTERRUPTED = 2, 3, 4, 0x10


def every(_socket: UnixSocket) -> bool:
    return True


def made(address: bytes | str, kind: int = STREAM, backlog: int | None = None) -> socket.socket:
    """Bind a socket, and have it listen if there is a backlog."""
    bound = socket.socket(socket.AF_UNIX, kind)
    bound.bind(address)
    if backlog is not None:
        bound.listen(backlog)
    return bound


def file_of(path: str) -> BoundFile:
    """What stat(2) says of a file, as the table has it."""
    status = os.lstat(path)
    return BoundFile(status.st_dev, status.st_ino & 0xFFFFFFFF)


def table(show: int = EVERYTHING) -> dict[int, UnixSocket]:
    """The whole table, by the inodes of the sockets."""
    return {each.number: each for each in unix_sockets(show, every)}


def told_of(make: Callable[[], socket.socket], show: int = EVERYTHING) -> UnixSocket:
    """What the table tells of one socket, in a /run and a network of its own."""

    def world() -> UnixSocket:
        kept = make()
        return table(show)[os.fstat(kept.fileno()).st_ino]

    return in_private_world(world)


# What is told.


@pytest.mark.parametrize("kind", [STREAM, SEQPACKET])
def test_a_listener(kind: int) -> None:
    """Its queue and its backlog, its file, who made it, and that it listens."""

    def world() -> tuple[UnixSocket, UnixSocket]:
        def listen() -> UnixSocket:
            kept = made("/run/s", kind, 7)
            clients = [socket.socket(socket.AF_UNIX, kind) for _ in range(3)]
            for client in clients:
                client.connect("/run/s")
            return table()[os.fstat(kept.fileno()).st_ino]

        os.chmod("/run", 0o777)
        told = as_user(ALICE, listen)
        expected = UnixSocket(
            type=kind,
            number=told.number,
            listening=True,
            established=False,
            name=b"/run/s",
            file=file_of("/run/s"),
            uid=ALICE,
            queue=3,
            backlog=7,
            peered=False,
            shut=False,
        )
        return told, expected

    told, expected = in_private_world(world)
    assert told == expected
    assert not told.is_connection


def test_what_was_not_asked_for() -> None:
    """Is None, whatever the kernel knows."""
    told = told_of(lambda: made("/run/s", STREAM, 7), 0)
    assert (told.name, told.file, told.uid) == (None, None, None)
    assert (told.queue, told.backlog, told.peered) == (None, None, False)
    assert told.listening


@pytest.mark.parametrize("kind", [STREAM, DGRAM, SEQPACKET])
def test_bound_and_not_listening(kind: int) -> None:
    """It is alive, with no queue to connect to; a buffer's fill is no queue."""
    told = told_of(lambda: made("/run/s", kind))
    assert (told.type, told.listening, told.queue, told.backlog) == (kind, False, None, None)
    assert told.file is not None
    assert not told.is_connection


@pytest.mark.parametrize("kind", [STREAM, DGRAM, SEQPACKET])
def test_bound_to_nothing(kind: int) -> None:
    """It has neither name nor file."""
    told = told_of(lambda: socket.socket(socket.AF_UNIX, kind))
    assert (told.name, told.file) == (None, None)


@pytest.mark.parametrize(
    "name",
    [
        b"\0sockbroker",
        b"\0@sockbroker",
        b"\0\0",
        b"\0sock\0broker\0\0",
        b"\0" + bytes(range(107)),
        b"\0" + bytes(range(149, 256)),
        b"\0" + b"x" * 107,
        b"\0/run/s",
        b"\0\n\x1b[2J ",
    ],
)
def test_abstract_names_are_exact(name: bytes) -> None:
    """Each NUL is there, at the end too."""
    told = told_of(lambda: made(name))
    assert (told.name, told.file) == (name, None)


def test_a_name_that_the_kernel_chose() -> None:
    """Autobind, by binding to nothing: five hexadecimal digits."""
    told = told_of(lambda: made(""))
    assert told.name is not None
    assert (told.name[0], len(told.name)) == (0, 6)
    int(told.name[1:], 16)


@pytest.mark.parametrize("name", [b"@s", b"\xff\n\x1b", b"x" * 100, b"s"])
def test_paths_are_exact(name: bytes) -> None:
    """As the binder wrote them, relative ones too; the longest has no NUL at its end."""

    def make() -> socket.socket:
        os.chdir("/run")
        return made(name)

    assert told_of(make).name == name


def test_the_longest_path() -> None:
    """A path of 108 bytes ends without a NUL."""
    path = b"/run/" + b"x" * 102
    assert told_of(lambda: made(path)).name == path


def test_a_name_is_only_a_claim() -> None:
    """The file is what tells: of a renamed socket, and of one on another mount."""

    def world() -> tuple[UnixSocket, BoundFile]:
        os.mkdir("/run/there")
        mount_tmpfs("/run/there")
        kept = made("/run/there/s")
        os.rename("/run/there/s", "/run/there/t")
        file = file_of("/run/there/t")
        own_run.umount(Path("/run/there"))
        return table()[os.fstat(kept.fileno()).st_ino], file

    told, file = in_private_world(world)
    assert (told.name, told.file) == (b"/run/there/s", file)


# Connections.


@pytest.mark.parametrize("kind", [STREAM, SEQPACKET])
def test_a_connection_outlives_its_listener(kind: int) -> None:
    """It has the listener's file and name, and counts neither as bound nor as alive."""

    def world() -> tuple[UnixSocket, UnixSocket, bool, bool]:
        listener = made("/run/s", kind, 1)
        client = socket.socket(socket.AF_UNIX, kind)
        client.connect("/run/s")
        accepted, _ = listener.accept()
        file = file_of("/run/s")
        before = file in bound_files()
        listener.close()
        found = table()
        return (
            found[os.fstat(accepted.fileno()).st_ino],
            found[os.fstat(client.fileno()).st_ino],
            before,
            file in bound_files(),
        )

    accepted, client, before, after = in_private_world(world)
    assert (accepted.name, accepted.is_connection, accepted.peered) == (b"/run/s", True, True)
    assert accepted.file is not None
    assert (client.file, client.is_connection) == (None, True)
    assert (before, after) == (True, False)


def test_datagram_sockets_receive_when_they_are_connected() -> None:
    """So does one that somebody connected to, although the kernel calls both established."""

    def world() -> tuple[bool, bool, bool, bool]:
        server, other = made("/run/s", DGRAM), made("/run/t", DGRAM)
        other.connect("/run/s")
        found = table()
        told = [found[os.fstat(each.fileno()).st_ino] for each in (server, other)]
        files = bound_files()
        return (
            *(each.is_connection for each in told),
            *(file_of(path) in files for path in ("/run/s", "/run/t")),
        )  # type: ignore[return-value]

    assert in_private_world(world) == (False, False, True, True)


def test_shut_down() -> None:
    """A datagram socket that takes nothing any more says so."""

    def make() -> socket.socket:
        bound = made("/run/s", DGRAM)
        bound.shutdown(socket.SHUT_RD)
        return bound

    assert told_of(make).shut


def test_other_network_namespaces_have_tables_of_their_own() -> None:
    """What is bound elsewhere is not in this one."""

    def world() -> tuple[bool, bool]:
        kept = made("/run/s")
        here = file_of("/run/s") in bound_files()
        unshare(CLONE_NEWNET)
        del kept
        return here, file_of("/run/s") in bound_files()

    assert in_private_world(world) == (True, False)


# As many as there may be.


def raise_limit() -> None:
    """Have as many descriptors as one may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def test_many_more_than_a_buffer_holds() -> None:
    """Each of thousands is there exactly once, whatever they are called."""

    def world() -> tuple[int, int, int, int]:
        raise_limit()
        kept = [made(b"\0" + b"x" * 100 + b"%06d" % number) for number in range(4000)]
        kept += [made(f"/run/{number}") for number in range(2000)]
        sockets = unix_sockets(EVERYTHING, every)
        names = {each.name for each in sockets}
        return len(kept), len(sockets), len(names), len(bound_files())

    assert in_private_world(world) == (6000, 6000, 6000, 2000)


def test_only_what_is_wanted_is_kept() -> None:
    """Who asks says what he wants while the table goes by."""

    def world() -> list[bytes | None]:
        kept = [made(b"\0%03d" % number) for number in range(300)]
        wanted = unix_sockets(SHOW_NAME, lambda each: each.name == b"\x00007")
        del kept
        return [each.name for each in wanted]

    assert in_private_world(world) == [b"\x00007"]


def test_signals_do_not_disturb() -> None:
    """A reading that signals break into is as complete as any other."""

    def world() -> set[int]:
        raise_limit()
        kept = [made(b"\0%06d" % number) for number in range(4000)]
        arrived = []
        signal.signal(signal.SIGALRM, lambda *_: arrived.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        end = time.monotonic() + 1
        sizes = set()
        while time.monotonic() < end or len(arrived) < 10:
            sizes.add(len(table(SHOW_NAME)))
        signal.setitimer(signal.ITIMER_REAL, 0)
        del kept
        return sizes

    assert in_private_world(world) == {4000}


def test_a_message_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost in silence, even if the kernel should send more at once some day."""
    monkeypatch.setattr(module, "RECEIVED_AT_ONCE", 64)

    def world() -> list[int | None]:
        kept = [made(f"/run/{number}") for number in range(100)]
        errors = []
        for read in (bound_files, table):
            with pytest.raises(OSError, match="did not fit") as caught:
                read()
            errors.append(caught.value.errno)
        del kept
        return errors

    assert in_private_world(world) == [errno.EMSGSIZE] * 2


def test_descriptors_are_closed() -> None:
    """None is left behind, and none is inherited."""

    def world() -> tuple[int, int]:
        before = own_run.descriptors()
        bound_files()
        table()
        return before, own_run.descriptors()

    before, after = in_private_world(world)
    assert before == after


def test_who_may_not_ask() -> None:
    """Without descriptors there is an OSError, not an empty table."""

    def world() -> int | None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        with pytest.raises(OSError, match="open files") as caught:
            bound_files()
        return caught.value.errno

    assert in_private_world(world) == errno.EMFILE


# What the kernel says of a reading, word by word over a real socket.

A_SOCKET = struct.pack("=BBBBIII", socket.AF_UNIX, STREAM, 7, 0, 1, 0, 0)


def message(kind: int, body: bytes = b"", *, flags: int = 0) -> bytes:
    """A netlink message."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def done(error: int = 0) -> bytes:
    return message(DONE, struct.pack("=i", error))


def dump(*datagrams: bytes) -> list[bytes]:
    """Read a dump that consists of these."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        for each in datagrams:
            there.send(each)
        here.settimeout(1)
        return list(read_dump(here))


def test_a_dump() -> None:
    """Several messages may come at once; what is not a socket is passed over."""
    a_socket = message(SOCK_DIAG_BY_FAMILY, A_SOCKET)
    assert dump(a_socket + a_socket, message(1), a_socket, done()) == [A_SOCKET] * 3
    assert dump(message(DONE)) == []


@pytest.mark.parametrize(
    ("last", "number"),
    [
        (message(ERROR, struct.pack("=i", -errno.EPERM) + message(0)), errno.EPERM),
        (done(-errno.ENOMEM), errno.ENOMEM),
        (message(OVERRUN), errno.ENOBUFS),
        (struct.pack("=IHHII", 0, SOCK_DIAG_BY_FAMILY, 0, 1, 0), errno.EBADMSG),
        (struct.pack("=IHHII", 15, SOCK_DIAG_BY_FAMILY, 0, 1, 0), errno.EBADMSG),
        (struct.pack("=IHHII", 99, SOCK_DIAG_BY_FAMILY, 0, 1, 0), errno.EBADMSG),
    ],
    ids=["error", "done with an error", "overrun", "length 0", "too short", "cut off"],
)
def test_a_dump_that_fails(last: bytes, number: int) -> None:
    """What came before is not taken for the whole, and nothing is read for ever."""
    with pytest.raises(OSError, match=r".") as caught:
        dump(message(SOCK_DIAG_BY_FAMILY, A_SOCKET), last)
    assert caught.value.errno == number


def test_an_interrupted_dump() -> None:
    """One message with the flag, anywhere, makes all of it worthless."""
    a_socket = message(SOCK_DIAG_BY_FAMILY, A_SOCKET)
    for datagrams in (
        (message(SOCK_DIAG_BY_FAMILY, A_SOCKET, flags=DUMP_INTERRUPTED), a_socket, done()),
        (a_socket, message(DONE, struct.pack("=i", 0), flags=DUMP_INTERRUPTED)),
    ):
        with pytest.raises(Disturbed):
            dump(*datagrams)


@pytest.mark.parametrize("interrupted", [0, 1, 4, 5])
def test_an_interrupted_dump_is_repeated(interrupted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few times, and with nothing left of those before; then it is an error."""
    asked = []

    def answer(_show: int) -> socket.socket:
        """Stand in for the kernel, which cannot be made to interrupt."""
        flags = DUMP_INTERRUPTED if len(asked) < interrupted else 0
        asked.append(1)
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with there:
            there.send(message(SOCK_DIAG_BY_FAMILY, A_SOCKET, flags=flags) + done())
        return here

    monkeypatch.setattr(module, "ask", answer)
    if interrupted < 5:
        assert len(unix_sockets(0, every)) == 1
        assert len(asked) == interrupted + 1
    else:
        with pytest.raises(OSError, match="again and again"):
            bound_files()
        assert len(asked) == 5


def test_a_socket_that_makes_no_sense() -> None:
    """An attribute that is longer than its message is an error."""
    body = A_SOCKET + struct.pack("=HH", 100, 0) + b"x"
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        there.send(message(SOCK_DIAG_BY_FAMILY, body) + done())
        with pytest.raises(OSError, match="not as it should be"):
            list(map(module._parse, read_dump(here)))


def test_the_protocol_is_the_kernels() -> None:
    """The number of the protocol, which Python has no name for."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG):
        pass
