"""Serves the peers: connections, their limits, their deadlines, and whose turn it is.

It knows sockets and conversations, and nothing of directories or policies.  What a peer controls
here is when it connects, what and how slowly it sends and reads, and when it goes; none of that may
cost another uid more than a short turn: see `shares`.
"""

from __future__ import annotations

import itertools
import socket
import time
from _socket import MSG_DONTWAIT, MSG_NOSIGNAL
from _socket import socket as Socket
from collections.abc import Callable
from functools import partial

from sockbroker.accepting import Acceptor, Listening
from sockbroker.closing import (
    RECEIVED_AT_ONCE,
    RECEIVED_FIRST,
    Closer,
    DescriptorsSent,
    receive,
    see_urgent_bytes,
)
from sockbroker.core.conversation import converse
from sockbroker.core.peer import Peer
from sockbroker.core.service import Service
from sockbroker.core.varlink import ProtocolError
from sockbroker.kernel.loop import ENDED, EVENTS_A_TURN, READABLE, WRITABLE, Loop
from sockbroker.kernel.peercred import peer_of
from sockbroker.session import Connection, Session
from sockbroker.shares import Shares
from sockbroker.watching import Watching

CALLS_A_ROUND = 32
"""Calls between two looks at the kernel: if more wait then, the queues of listeners are looked at
as well, however quick they were."""

SECONDS_A_ROUND = 0.002
"""Of calls between two looks at the kernel, however few they were; and of closing who is late."""

SECONDS_FOR_A_MESSAGE = 10.0
"""For the first byte, for each message once begun, and for a peer to take a reply."""

SENDING = MSG_DONTWAIT | MSG_NOSIGNAL


class Server:
    """The connections of all listening sockets."""

    def __init__(
        self,
        loop: Loop,
        service: Service[Session],
        *,
        most_connections: int,
        closer: Closer,
        fault: Callable[[Peer, Exception], None],
        violation: Callable[[Peer, ProtocolError], None],
    ) -> None:
        """`fault` is told of an exception out of a handler, `violation` of a peer's bad message."""
        self._loop = loop
        self._service = service
        self._most = most_connections
        self._closer = closer
        self._fault = fault
        self._violation = violation
        self._acceptor = Acceptor(loop, closer, welcome=self._welcome, make_room=self._make_room)
        self._shares = Shares()
        self._watching = Watching(loop, self._shares, self._ready)
        # Who has had his first turn: before the loop sleeps again he is watched, or he is gone.
        self._unwatched: list[Connection] = []
        # The deadlines: all the same time ahead, so the order of arming is the order of expiry.
        self._armed: dict[Connection, float] = {}
        self.accepted = 0
        self.dropped = 0

    @property
    def connections(self) -> int:
        return self._shares.connections

    def listen(self, listener: socket.socket, *, operator: bool) -> None:
        """Serve a listening socket, which stays the caller's to close; it must not block."""
        self._acceptor.listen(listener, operator=operator)

    def stop_listening(self) -> None:
        self._acceptor.stop()

    # Accepting.

    def _welcome(self, connected: Socket, listening: Listening) -> None:
        clean = listening.refuses and listening.caught_up
        try:
            peer = peer_of(connected)
            if not clean:
                see_urgent_bytes(connected)
        except OSError:
            self._closer.close(connected)
            return
        operator = listening.operator
        if operator and peer.uid != 0:  # the socket's mode says so too; it may have been passed on
            self._closer.close(connected)
            return
        if self._shares.connections >= self._most:
            self._make_room()
        connection = Connection(connected, peer, operator, clean)
        self._shares.enter(connection)
        self.accepted += 1
        if listening.singly and not self._shares.turns:
            self._begin(connection)
        else:
            self._shares.queue(connection)

    def _make_room(self) -> bool:
        """Drop a connection of the account with most; say whether there was one."""
        connection = self._shares.dispensable()
        if connection is None:
            return False
        self.dropped += 1
        self._close(connection)
        return True

    # Receiving.

    def _ready(self, connection: Connection, events: int) -> None:
        if connection.closed:
            return  # by an earlier event of the same look at the kernel
        if events & READABLE and not connection.paused:
            if connection.queued:  # it sends faster than its turns come
                self._pause(connection)
            elif self._receive(connection):
                if self._loop.found == 1 and not self._shares.turns:
                    self._serve(connection)
                elif self._weigh(connection):
                    self._shares.queue(connection)
        elif events & WRITABLE and connection.outgoing:
            self._send_rest(connection)
        elif events & ENDED and not connection.queued:  # what it sent before is read in its turn
            self._close(connection)

    def _receive(self, connection: Connection) -> bool:
        """Take what the peer has sent; say whether there may be something to serve now."""
        try:
            most = RECEIVED_FIRST if connection.conversation is None else RECEIVED_AT_ONCE
            if connection.clean:
                received = connection.socket.recv(most, MSG_DONTWAIT)
            else:
                received = receive(connection.socket, most)
        except BlockingIOError:
            return False
        except OSError:
            self._close(connection)
            return False
        except DescriptorsSent:
            self._refuse(connection, ProtocolError("descriptors with a message"))
            return False
        if not received:
            # Everything before was served, or it would be queued and not read; a peer that only
            # shut down its sending side still waits for what runs.
            conversation = connection.conversation
            if conversation is not None and (conversation.waiting or conversation.streaming):
                connection.ending = True
                self._pause(connection)
            else:
                self._close(connection, unread=False)
            return False
        if connection.heard:
            self._shares.heard(connection)
        else:
            connection.heard = True
            self._armed.pop(connection, None)
        if connection.conversation is None:
            connection.received = received  # what had come before was served, or turned into one
            return True
        try:
            connection.conversation.receive(received)
        except ProtocolError as violation:
            self._refuse(connection, violation)
            return False
        return True

    def _pause(self, connection: Connection) -> None:
        if not connection.paused:
            connection.paused = True
            self._watch(connection, 0)

    def _weigh(self, connection: Connection) -> bool:
        """Count what waits in a connection; close it, and say False, if that is too much."""
        waiting = connection.unserved + len(connection.outgoing)
        if waiting == connection.bytes or self._shares.weigh(connection, waiting):
            return True
        self._refuse(connection, ProtocolError("more calls and replies waiting than its share"))
        return False

    # Serving in turn.

    def between(self) -> float | None:
        """Serve a round of calls and close what is late.

        Returns the monotonic time of the next deadline, 0 if more calls wait, None for neither.
        """
        if self._unwatched:
            self._watch_who_stays()
        crowded = self._loop.found >= EVENTS_A_TURN
        if crowded:
            self._acceptor.accept_all()  # the kernel may not have come to them
        elif not self._armed and not self._shares.turns:
            return None  # as nearly always
        if self._shares.turns:
            end = time.monotonic() + SECONDS_A_ROUND
            for _ in range(CALLS_A_ROUND):
                connection = self._shares.next()
                if connection is None:
                    break
                if not connection.begun:
                    self._begin(connection)
                elif not connection.outgoing:
                    self._serve(connection)
                if time.monotonic() >= end:
                    break
        if self._armed:
            self._expire()
        if self._shares.turns:
            if not crowded:
                self._acceptor.accept_all()
            return 0.0
        return 0.0 if self._unwatched else next(iter(self._armed.values()), None)

    def _serve(self, connection: Connection) -> None:
        conversation = connection.conversation
        try:
            if conversation is None:
                received, connection.received = connection.received, b""
                sent, conversation = converse(self._service, connection, received)
            else:
                sent = conversation.turn()
                if conversation.idle:
                    conversation = None
        except ProtocolError as violation:
            self._refuse(connection, violation)
            return
        except Exception as fault:  # a fault of ours: this peer is dropped, nobody else
            self._fault(connection.peer, fault)
            self._close(connection)
            return
        connection.conversation = conversation
        if sent is None:
            self._rest(connection)
            return
        self._armed.pop(connection, None)
        if sent and not self._send(connection, sent):
            return
        if conversation is not None and conversation.ready:
            if self._weigh(connection):
                self._shares.queue(connection)
        elif conversation or connection.paused or connection.ending or connection.bytes:
            self._rest(connection)

    def _begin(self, connection: Connection) -> None:
        """Serve what a connection has sent by its first turn: by then most have sent their call."""
        connection.begun = True
        if self._receive(connection):
            self._serve(connection)
        elif not connection.closed:
            self._arm(connection)
        if connection.watched is None:
            self._unwatched.append(connection)

    def _watch_who_stays(self) -> None:
        """Watch who is there still: most are gone as soon as they have their answer.

        That is seen by reading once more, which takes less than to have watched them.
        """
        unwatched, self._unwatched = self._unwatched, []
        for connection in unwatched:
            if connection.watched is not None or connection.closed:
                continue
            if not connection.queued and self._receive(connection) and self._weigh(connection):
                self._shares.queue(connection)
            if connection.watched is None and not connection.closed:
                self._watch(connection, READABLE)

    def _watch(self, connection: Connection, events: int) -> bool:
        """Have the loop tell of these events; say False, and close it, if that cannot be."""
        try:
            if connection.watched is None:
                self._watching.start(connection, events)
            else:
                connection.watched.change(connection.descriptor, events)
        except OSError:
            self._close(connection)
            return False
        return True

    def _rest(self, connection: Connection) -> None:
        """Nothing to serve now: wait for the peer, or let it go."""
        conversation = connection.conversation
        if conversation is not None and conversation.waiting:
            conversation.on_ready = partial(self._shares.queue, connection)
            self._pause(connection)
        elif connection.ending:
            self._close(connection)
        else:
            if connection.paused:
                connection.paused = False
                self._watch(connection, READABLE)
            if conversation is not None and conversation.partial and connection not in self._armed:
                self._arm(connection)
            self._weigh(connection)

    def _send(self, connection: Connection, data: bytes) -> bool:
        """Send what can be sent now; say whether that is all, and the peer still there."""
        try:
            sent = connection.socket.send(data, SENDING)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(connection)  # the peer is gone
            return False
        if sent == len(data):
            return True
        if not connection.outgoing:
            # Nothing more is read or served until the peer takes what it asked for, in time.
            connection.paused = True
            if not self._watch(connection, WRITABLE):
                return False
            self._arm(connection)
        connection.outgoing = data[sent:]
        self._weigh(connection)
        return False

    def _send_rest(self, connection: Connection) -> None:
        if self._send(connection, connection.outgoing):
            connection.outgoing = b""
            self._armed.pop(connection, None)
            self._watch(connection, 0)
            self._shares.queue(connection)

    # Deadlines and ends.

    def _arm(self, connection: Connection) -> None:
        self._armed.pop(connection, None)
        self._armed[connection] = time.monotonic() + SECONDS_FOR_A_MESSAGE

    def _expire(self) -> None:
        """Close who is late; not who only seems so because we are (SIGSTOP, a crowd)."""
        now = time.monotonic()
        late = itertools.takewhile(lambda item: item[1] <= now, self._armed.items())
        for connection in [each for each, _ in late if not each.queued]:
            self._give_up(connection)
            if time.monotonic() >= now + SECONDS_A_ROUND:
                return  # the rest is late still when the kernel has been looked at

    def _give_up(self, connection: Connection) -> None:
        """Close it, unless what was waited for has come, and the kernel not told of it yet."""
        if connection.outgoing:
            self._send_rest(connection)
        elif self._receive(connection) and connection.ready and self._weigh(connection):
            self._shares.queue(connection)
        if not connection.queued:
            self._close(connection)

    def _refuse(self, connection: Connection, violation: ProtocolError) -> None:
        self._violation(connection.peer, violation)
        self._close(connection)

    def _close(self, connection: Connection, *, unread: bool = True) -> None:
        if connection.closed:
            return
        connection.closed = True
        self._armed.pop(connection, None)
        if connection.conversation is not None:
            connection.conversation.close()
        by_closer = unread and not connection.clean
        self._watching.stop(connection)
        if by_closer:
            self._closer.close(connection.socket)
        else:
            connection.socket.close()
        self._shares.leave(connection)

    def drain(self, *, unheard_too: bool) -> bool:
        """Close every connection that has nothing running; say whether any is left.

        Who has not spoken yet keeps his connection unless `unheard_too`: his call is on its way.
        """
        for connection in self._shares.all():
            if connection.idle and connection.heard:
                self._close(connection)
            elif connection.idle and unheard_too:
                self._give_up(connection)
        return self._shares.connections > 0

    def close(self) -> None:
        """Close every connection."""
        for connection in self._shares.all():
            self._close(connection)
        self._acceptor.close()
