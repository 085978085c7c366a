"""Takes peers out of the kernel's queues as fast as can be, and never spins for want of room.

A queue is one for all uids, first come first served: only who is out of it can be served in turn.
What a peer controls here is how many he is, and what descriptors he has sent already.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from _socket import socket as Socket
from collections.abc import Callable
from functools import partial

from sockbroker.closing import Closer
from sockbroker.kernel.listeners import accept, refuse_descriptors
from sockbroker.kernel.loop import READABLE, Loop
from sockbroker.session import Listening

SECONDS_OF_ACCEPTING = 0.004
"""At once, before those are served who are in."""

TAKEN_ALONE = 16
"""Where a queue held one peer only, so many more are taken one by one: to see that it is empty
costs as much as a call.  A crowd is met half a millisecond later."""

SECONDS_WITHOUT_DESCRIPTORS = 0.1
"""Pause of accepting when the system has no descriptor left and no idle peer could be dropped."""

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
        self._listeners: dict[socket.socket, Listening] = {}
        self._spare = _spare_descriptor()

    def listen(self, listener: socket.socket, *, operator: bool) -> None:
        """Accept from a listening socket, which stays the caller's to close; it must not block."""
        listening = Listening(operator, refuse_descriptors(listener))
        self._listeners[listener] = listening
        self._loop.watch(listener.fileno(), partial(self._accept, listener, listening))

    def stop(self) -> None:
        for listener in self._listeners:
            self._loop.unwatch(listener.fileno())
        self._listeners.clear()

    def accept_all(self) -> None:
        """Look at every queue: where much else happens, the loop may not have come to it."""
        for listener, listening in list(self._listeners.items()):
            listening.alone = 0
            self._accept(listener, listening)

    def close(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)

    def _go_on(self, listener: socket.socket, listening: Listening) -> None:
        if listener in self._listeners:
            listening.resting = False
            self._loop.change(listener.fileno(), READABLE)

    def _accept(self, listener: socket.socket, listening: Listening, _events: int = 0) -> None:
        if listening.resting or listener not in self._listeners:
            return
        alone = listening.alone
        taken = 0
        end = 0.0 if alone else time.monotonic() + SECONDS_OF_ACCEPTING
        while taken == 0 or time.monotonic() < end:
            taken += 1
            try:
                connected = accept(listener)
            except BlockingIOError:
                listening.caught_up = True
                listening.alone = TAKEN_ALONE if taken <= 2 else 0
                return
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}:
                    self._without_descriptors(listener, listening)
                    return
                continue  # accept(2): an error of that one connection
            if not listening.caught_up and listening.refuses:
                refuse_descriptors(connected)
            self._welcome(connected, listening)
            if alone:
                listening.alone = alone - 1
                return

    def _without_descriptors(self, listener: socket.socket, listening: Listening) -> None:
        """Make room, or turn the peer away, or wait."""
        if self._make_room():
            return
        if self._spare >= 0:
            os.close(self._spare)
        try:
            self._closer.close(accept(listener))
        except OSError:
            listening.resting = True
            self._loop.change(listener.fileno(), 0)  # which, unlike a new watch, cannot fail
            self._loop.call_later(
                SECONDS_WITHOUT_DESCRIPTORS, lambda: self._go_on(listener, listening)
            )
        self._spare = _spare_descriptor()


def _spare_descriptor() -> int:
    """Open one to give up when there is no other left; -1 if there is none already."""
    try:
        return os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return -1
