"""What the server watches, and whom it takes in first.

The server and its connections are real; only who accepts is this test.
"""

from __future__ import annotations

import os
import signal
import socket
from _socket import socket as Socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest

from sockbroker.accepting import Listening
from sockbroker.closing import Closer
from sockbroker.interfaces import service
from sockbroker.kernel.loop import EVENTS_A_TURN, Loop
from sockbroker.kernel.worker import Worker
from sockbroker.server import Server


@contextmanager
def child() -> Iterator[None]:
    """Have a child that holds every descriptor, as one of the closer's does for a moment."""
    number = os.fork()
    if number == 0:
        signal.pause()
    try:
        yield
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)


def watched(loop: Loop) -> list[int]:
    """Return the descriptors that the kernel watches for a loop (proc(5), fdinfo of epoll)."""
    lines = Path(f"/proc/self/fdinfo/{loop._epoll.fileno()}").read_text().splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith("tfd:")]


@pytest.mark.parametrize("closing", [False, True])
def test_what_is_closed_is_watched_no_longer(closing: bool) -> None:
    """Not by way of a child either: its end would be told under a number that is another's then.

    Seen to fail where `_close` only forgets, whatever the closer does.
    """
    loop = Loop()
    closer = Closer(Worker("closer", loop.call_from_thread))
    server = Server(
        loop,
        service({}),
        most_connections=10,
        closer=closer,
        fault=lambda *_: None,
        violation=lambda *_: None,
    )

    def once() -> float | None:
        loop.stop()
        return server.between()

    before = watched(loop)
    ours, theirs = socket.socketpair()
    with theirs:
        connected = Socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, ours.detach())
        server._welcome(connected, Listening(theirs, operator=False, refuses=True, caught_up=True))
        server.between()
        assert len(watched(loop)) == len(before) + 1
        with child() if closing else nullcontext():
            closer._jobs += closing  # as while its child lives
            theirs.shutdown(socket.SHUT_RDWR)
            loop.run(once)
            assert server.connections == 0
            assert watched(loop) == before
    server.close()
    loop.close()


def test_who_connects_does_not_wait_behind_a_crowd() -> None:
    """However many connections have something to say, who is new is taken in at the next look.

    Seen to fail with rounds of 1,000 calls: then nobody waits for a turn after one, and the queues
    are only looked at when the kernel comes to them.
    """
    loop = Loop()
    server = Server(
        loop,
        service({}),
        most_connections=1000,
        closer=Closer(Worker("closer", loop.call_from_thread)),
        fault=lambda *_: None,
        violation=lambda *_: None,
    )

    def once() -> float | None:
        loop.stop()
        return server.between()

    with ExitStack() as stack:
        crowd = []
        for _ in range(4 * EVENTS_A_TURN):
            ours, theirs = socket.socketpair()
            crowd.append(stack.enter_context(theirs))
            connected = Socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, ours.detach())
            server._welcome(connected, Listening(theirs, operator=False, refuses=True))
        while server.between() == 0:
            pass
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(b"\0crowded")
        listener.listen()
        listener.setblocking(False)
        server.listen(listener, operator=False)
        for each in crowd:
            each.send(b" ")
        before = server.accepted
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(b"\0crowded")
        loop.run(once)
        assert server.accepted == before + 1
        server.stop_listening()
        server.close()
    loop.close()
