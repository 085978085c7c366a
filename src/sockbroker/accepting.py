"""Takes peers out of the kernel's queues as fast as can be, and never spins for want of room.

A queue is one for all uids, first come first served: only who is out of it can be served in turn.
What a peer controls here is how many he is, and what descriptors he has sent already.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import time
from _socket import socket as Socket
from collections.abc import Callable
from dataclasses import dataclass

from sockbroker.closing import Closer
from sockbroker.kernel.listeners import accept, refuse_descriptors
from sockbroker.kernel.loop import READABLE, Loop

SECONDS_OF_ACCEPTING = 0.004
"""At once, before those are served who are in."""

TAKEN_SINGLY = 16
"""Where a queue held one peer only, so many more are taken one by one: to see that it is empty
costs as much as a call.  A crowd is met half a millisecond later."""

SECONDS_WITHOUT_DESCRIPTORS = 0.1
"""Pause of accepting when the system has no descriptor left and no idle peer could be dropped."""


@dataclass(slots=True, eq=False)
class Listening:
    """What is known of a listening socket, which stays its owner's to close."""

    socket: socket.socket
    operator: bool
    refuses: bool  # descriptors, at the sender
    caught_up: bool = False  # all have been accepted who connected before it refused them
    singly: int = 0  # so many of the next are taken without a look at who else is there
    resting: bool = False  # for want of descriptors, or for good


Welcome = Callable[[Socket, Listening], None]


class Acceptor:
    """The listening sockets; who is accepted is `welcome`'s, which closes him."""

    def __init__(
        self, loop: Loop, closer: Closer, *, welcome: Welcome, make_room: Callable[[], bool]
    ) -> None:
        """`make_room` drops a connection; it says whether there was one."""
        self._loop = loop
        self._closer = closer
        self._welcome = welcome
        self._make_room = make_room
        self._listeners: list[Listening] = []
        self._spare = _spare_descriptor()

    def listen(self, listener: socket.socket, *, operator: bool) -> None:
        """Accept from a listening socket, which stays the caller's to close; it must not block."""
        listening = Listening(listener, operator, refuse_descriptors(listener))
        self._listeners.append(listening)
        self._loop.watch(listener.fileno(), self._accept, listening)

    def stop(self) -> None:
        for listening in self._listeners:
            listening.resting = True  # an event of this look at the kernel may be on its way
            self._loop.unwatch(listening.socket.fileno())
        self._listeners.clear()

    def accept_all(self) -> None:
        """Look at every queue: where much else happens, the loop may not have come to it."""
        for listening in self._listeners.copy():
            listening.singly = 0
            self._accept(listening)

    def close(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)

    def _go_on(self, listening: Listening) -> None:
        if listening in self._listeners:
            listening.resting = False
            self._loop.change(listening.socket.fileno(), READABLE)

    def _accept(self, listening: Listening, _events: int = 0) -> None:
        if listening.resting:
            return
        singly = listening.singly
        end = 0.0 if singly else time.monotonic() + SECONDS_OF_ACCEPTING
        for tries in itertools.count(1):
            try:
                connected = accept(listening.socket)
            except BlockingIOError:
                listening.caught_up = True
                listening.singly = TAKEN_SINGLY if tries <= 2 else 0  # one peer, then nobody
                return
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}:
                    self._without_descriptors(listening)
                    return
                # accept(2): else it is an error of that one connection.
            else:
                if not listening.caught_up and listening.refuses:
                    refuse_descriptors(connected)
                self._welcome(connected, listening)
            if singly:
                listening.singly = singly - 1
                return
            if time.monotonic() >= end:
                return

    def _without_descriptors(self, listening: Listening) -> None:
        """Make room, or turn the peer away, or wait."""
        if self._make_room():
            return
        if self._spare >= 0:
            os.close(self._spare)
        try:
            self._closer.close(accept(listening.socket))
        except OSError:
            listening.resting = True
            # Which, unlike a new watch, cannot fail.
            self._loop.change(listening.socket.fileno(), 0)
            self._loop.call_later(SECONDS_WITHOUT_DESCRIPTORS, lambda: self._go_on(listening))
        self._spare = _spare_descriptor()


def _spare_descriptor() -> int:
    """Open one to give up when there is no other left; -1 if there is none already."""
    try:
        return os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return -1
