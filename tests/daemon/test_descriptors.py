"""Descriptors that are sent to the broker: nobody waits for them, and nothing of them stays.

Linux 6.16 and later refuse them at the sender (SO_PASSRIGHTS).  An older kernel is made of this one
by a filter that has that option fail, so that the broker has to live with what arrives.  The last
close of a socket that lingers takes as long as its sender has said (SO_LINGER, socket(7)).  Said at
each test: what was taken out of the program to see it fail.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from asking import Asking, usual
from descriptors import Lingering, file_that_is_never_closed, rights
from peers import (
    INVALID_PARAMETER,
    REQUEST,
    Line,
    Peer,
    as_mallory,
    as_user,
    encoded,
    granted,
    operator_asks,
    refused,
    staying,
    user_asks,
)
from refusing import OLDER_KERNEL
from running import ALICE, BOB, MALLORY, Daemon, World, eventually

from this_kernel import REFUSES_DESCRIPTORS

pytestmark = pytest.mark.root

POLICY = "apps: {demo: {allow: {everyone: true}}}"
PROMISED = 0.01
SLACK = 10


@pytest.fixture
def networked(world: World) -> World:
    """A world in which a socket can reach another one."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return world


def offend(number: int) -> None:
    """Be turned away so often, and see the end each time."""
    for _ in range(number):
        with Line() as line:
            line.send(b"no call\0")
            assert line.closed()


def nobody_notices(daemon: Daemon, send: Callable[[], object]) -> None:
    """While mallory has sent, and keeps what `send` returned, nobody else notices anything."""
    with unnoticed(daemon) as look, staying(MALLORY, send):
        look()


@contextmanager
def unnoticed(daemon: Daemon) -> Iterator[Callable[[], None]]:
    """See that others are served and turned away as ever meanwhile, and that nothing is left."""
    before, resident = daemon.descriptors(), daemon.resident()
    asking = Asking(ALICE)

    def look() -> None:
        as_user(BOB, lambda: offend(200))
        time.sleep(1)  # until 99 of 100 answers are not all of them
        waits = asking.stop()
        assert len(waits) > 3
        assert usual(waits) < PROMISED * SLACK, (usual(waits), max(waits))
        assert max(waits) < 1 * SLACK
        eventually("closed", lambda: daemon.descriptors() <= before)
        assert daemon.resident() - resident < 16 * 1024
        assert daemon.log("fault") == []

    yield look


@pytest.mark.parametrize("older", [False, True], ids=["refused at the sender", "older kernel"])
def test_as_many_as_a_message_can_have(networked: World, *, older: bool) -> None:
    """A thousand messages with 253 each cost nobody anything, and are no calls.

    Taken out: `refuse_descriptors` for the one and the look of `receive` for the other (`recvmsg`
    took what came); then the daemon has them.
    """
    daemon = networked.start(POLICY, under=OLDER_KERNEL if older else ())
    user_asks(BOB, "Request", app="demo")

    def send() -> None:
        many = [os.open("/", os.O_RDONLY) for _ in range(253)]
        taken = refused = 0
        while taken + refused < 1000:
            with Line() as line:
                try:
                    line.socket.sendmsg([REQUEST], rights(many))
                except PermissionError:
                    refused += 1
                except OSError as error:  # more are on their way than a user may have open
                    if error.errno != errno.ETOOMANYREFS:
                        raise
                    time.sleep(0.01)
                else:
                    assert line.closed()
                    taken += 1
        assert refused == (0 if older or not REFUSES_DESCRIPTORS else 1000)

    nobody_notices(daemon, send)
    daemon.end()


def test_sockets_that_linger(networked: World) -> None:
    """Closing what lasts ten minutes to close holds up neither a call nor another's end.

    Taken out: `_close_by_child` (the worker closed them itself); then whoever is turned away
    waits, and his descriptors stay.
    """
    daemon = networked.start(POLICY, under=OLDER_KERNEL)
    user_asks(BOB, "Request", app="demo")

    def send() -> Lingering:
        lingering = Lingering()
        for number in range(60):
            with Line() as line, lingering.make() as made:
                if number % 3 == 0:
                    line.send(REQUEST)
                line.socket.sendmsg([REQUEST[:5]], rights([made.fileno()]))
                if number % 3 == 1:
                    line.closed()
        with Line() as line, lingering.make() as made:  # within a socket within a socket
            outer, inner = socket.socketpair()
            with outer, inner:
                outer.sendmsg([b"."], rights([made.fileno()]))
                line.socket.sendmsg([REQUEST], rights([inner.fileno()]))
        return lingering

    nobody_notices(daemon, send)
    daemon.end()


@pytest.mark.parametrize("then", ["sends more", "half closes", "closes"])
def test_what_lingers_with_an_urgent_byte(networked: World, then: str) -> None:
    """A look at what waits sees it as well, and what it brings.

    Taken out: `see_urgent_bytes`; then the loop itself closes what lingers, whatever comes next.
    """
    daemon = networked.start(POLICY, under=OLDER_KERNEL)
    user_asks(BOB, "Request", app="demo")

    def send() -> tuple[Lingering, list[Line]]:
        lingering, lines = Lingering(), [Line() for _ in range(20)]
        for line in lines:
            with lingering.make() as made:
                line.socket.sendmsg([b"!"], rights([made.fileno()]), socket.MSG_OOB)
            time.sleep(0.01)  # until it is closed here, and the broker's close is the last
            if then == "sends more":
                with suppress(BrokenPipeError):  # he may have been turned away
                    line.send(b" ")
            elif then == "half closes":
                line.socket.shutdown(socket.SHUT_WR)
            else:
                line.socket.close()
        return lingering, lines

    nobody_notices(daemon, send)
    daemon.end()


@pytest.mark.parametrize("older", [False, True], ids=["refused at the sender", "older kernel"])
def test_an_urgent_byte_and_nothing_more(networked: World, *, older: bool) -> None:
    """Who sends it and waits takes none of the broker's time.

    Taken out: `see_urgent_bytes`; then an older kernel has the loop told of it again and again.
    """
    daemon = networked.start(POLICY, under=OLDER_KERNEL if older else ())
    user_asks(BOB, "Request", app="demo")

    def send() -> Line:
        line = Line()
        granted(line.call("Request", app="demo"))
        line.socket.send(b"!", socket.MSG_OOB)
        return line

    with staying(MALLORY, send):
        used = daemon.processor_seconds()
        time.sleep(2)
        assert daemon.processor_seconds() - used < 0.02 * SLACK
    daemon.end()


def test_a_file_that_cannot_be_closed(networked: World) -> None:
    """A descriptor whose close would never return is never taken, and so never closed.

    Taken out: the look of `receive` (`recvmsg` took what came, the worker closed it); then a
    single one stops the worker for good.
    """
    daemon = networked.start(POLICY, under=OLDER_KERNEL)
    user_asks(BOB, "Request", app="demo")
    ours, theirs = socket.socketpair()

    def send() -> None:  # and end only when the server does, because the kernel closes it then
        file = os.open(networked.own / "file", os.O_RDONLY)
        for _ in range(20):
            with Line() as line:
                line.socket.sendmsg([REQUEST], rights([file]))
                assert line.closed()
        theirs.send(b".")

    with ours, theirs:
        with file_that_is_never_closed(networked.own / "file"), unnoticed(daemon) as look:
            sending = Peer(MALLORY, send)
            ours.settimeout(60)
            assert ours.recv(1) == b"."
            look()
        sending.result()
    daemon.end()


def test_what_was_queued_before_the_daemon_came(networked: World) -> None:
    """Who connects to a socket that a service manager holds sends before anything is refused.

    Taken out: that a listener has to be `caught_up` before its connections are clean; then the
    loop itself closes what lingers.
    """
    command = ["systemd-socket-activate", "-l", "@sockbroker"]
    networked.write(POLICY)
    daemon = networked.begin(under=command)
    eventually("listens", lambda: "Listening on" in daemon.text())

    def send() -> Lingering:
        lingering = Lingering()
        for number in range(20):
            with Line() as line, lingering.make() as made:
                if number % 2:
                    line.socket.sendmsg([b"!"], rights([made.fileno()]), socket.MSG_OOB)
                else:
                    line.socket.sendmsg([REQUEST[: 5 + number]], rights([made.fileno()]))
        return lingering

    # Or the daemon begins with the first, and what comes later is refused.
    daemon.process.send_signal(signal.SIGSTOP)
    with staying(MALLORY, send):
        daemon.process.send_signal(signal.SIGCONT)
        eventually("ready", lambda: '"ready"' in daemon.text())
        began = time.monotonic()
        assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
        assert time.monotonic() - began < 1 * SLACK
        eventually("closed", lambda: daemon.descriptors() < 25)


def test_who_sends_what_lingers_while_it_ends(networked: World) -> None:
    """Who comes too late to be let in holds up the end no more than anything else.

    Taken out: that listening sockets are left to the end of the process; then their close waits.
    """
    daemon = networked.start(POLICY, under=OLDER_KERNEL)
    user_asks(BOB, "Request", app="demo")

    def send() -> tuple[Lingering, list[Line]]:
        lingering, lines = Lingering(), [Line(), Line()]
        for line, flags in zip(lines, (0, socket.MSG_OOB), strict=True):
            with lingering.make() as made:
                line.socket.sendmsg([b"!"], rights([made.fileno()]), flags)
        return lingering, lines

    eventually("alone", lambda: connections() == 1)
    with Line():  # who says nothing, and is waited for
        eventually("let in", lambda: connections() == 2)
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)  # it takes nobody any more
        daemon.process.send_signal(signal.SIGSTOP)  # nor ends before all is sent
        with staying(MALLORY, send):
            daemon.process.send_signal(signal.SIGCONT)
            assert daemon.ended() == 0
            assert time.monotonic() - began < 60


def connections() -> int:
    """How many there are, with the one that asks."""
    counters = operator_asks("Status")["parameters"]["counters"]
    return counters["connections"]  # type: ignore[no-any-return]


def test_no_reply_carries_a_descriptor(world: World) -> None:
    """Whatever is asked, nothing but bytes comes back; and nobody can ask for a descriptor.

    Taken out: nothing, because there is nothing: a descriptor of a directory would open the tree
    above it to a confined client.  With one sent by hand in `Server._send` it fails.
    """
    world.start(POLICY)

    def ask_for_all() -> tuple[str, list[object]]:
        with Line() as line:
            for method in ("Request", "Status", "List", "Release", "Explain"):
                line.send(encoded(method, {"app": "demo"} if method != "Status" else {}))
            came: list[object] = []
            text = b""
            while text.count(b"\0") < 5:
                data, control, flags, _ = line.socket.recvmsg(65536, socket.CMSG_SPACE(1012))
                text += data
                came += [*control, *([flags] if flags & socket.MSG_CTRUNC else [])]
            return refused(line.call("Request", app="demo", passDirectory=True)), came

    assert as_mallory(ask_for_all) == (INVALID_PARAMETER, [])
