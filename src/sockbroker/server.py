"""Serves the peers: connections, their limits, their deadlines, and whose turn it is.

It knows sockets and conversations, and nothing of directories or policies.  What a peer controls
here is when it connects, what and how slowly it sends and reads, and when it goes; none of that may
cost another uid more than a short turn.  So calls are served in turn by account (a uid, or the
operators together), one at a time; nobody who is alone waits, and a crowd from one account only
delays itself.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections import deque
from collections.abc import Callable

from sockbroker.accepting import Acceptor
from sockbroker.closing import RECEIVED_AT_ONCE, Closer, DescriptorsSent, receive
from sockbroker.core.peer import Peer
from sockbroker.core.service import Service
from sockbroker.core.varlink import ProtocolError
from sockbroker.kernel.loop import ENDED, READABLE, WRITABLE, Loop
from sockbroker.kernel.peercred import peer_of
from sockbroker.session import OPERATORS, Connection, Listening, Session

CALLS_A_ROUND = 32
"""Calls between two looks at the kernel: about 2 ms, which a newcomer waits at most."""

LOOKED_AT_TO_DROP = 64
"""Connections of one account among which an idle one is searched when places have run out."""

# A number: to combine flags of an enumeration takes as long as a system call.
SENDING = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

SECONDS_A_ROUND = 0.002
"""Of calls between two looks at the kernel, however few they were."""

SECONDS_FOR_A_MESSAGE = 10.0
"""For the first byte, for each message once begun, and for a peer to take a reply."""


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
        # Each account's connections, the longest idle first.
        self._accounts: dict[int, dict[Connection, None]] = {}
        self._count = 0
        # Deadlines are all the same time ahead, so the order of arming is the order of expiry.
        self._armed: dict[Connection, None] = {}
        self._turns: dict[int, deque[Connection]] = {}
        self.accepted = 0
        self.dropped = 0

    @property
    def connections(self) -> int:
        return self._count

    def listen(self, listener: socket.socket, *, operator: bool) -> None:
        """Serve a listening socket, which stays the caller's to close; it must not block."""
        self._acceptor.listen(listener, operator=operator)

    def stop_listening(self) -> None:
        self._acceptor.stop()

    # Accepting.

    def _welcome(self, connected: socket.socket, listening: Listening) -> None:
        clean = listening.refuses and listening.caught_up
        try:
            peer = peer_of(connected)
        except OSError:
            self._closer.close(connected)
            return
        operator = listening.operator
        if operator and peer.uid != 0:  # the socket's mode says so too; it may have been passed on
            self._closer.close(connected)
            return
        if self._count >= self._most:
            self._make_room()
        session = Session(peer, operator)
        connection = Connection(connected, session, self._service, clean=clean)
        connection.conversation.on_ready = lambda: self._queue(connection)
        # To the end: of uids with as many, who was last seen longest ago loses a place first.
        account = self._accounts.pop(connection.account, {})
        account[connection] = None
        self._accounts[connection.account] = account
        self._count += 1
        self.accepted += 1
        self._arm(connection)
        self._queue(connection)

    def _make_room(self) -> bool:
        """Drop the longest idle connection of the account with most, or else its oldest."""
        if not self._accounts:
            return False
        # Operators come last: no crowd may put them out.
        crowd = max(self._accounts.items(), key=lambda item: (item[0] != OPERATORS, len(item[1])))[
            1
        ]
        # The longest idle are first; where all of many are busy, looking on is not worth the time.
        oldest = itertools.islice(crowd, LOOKED_AT_TO_DROP)
        idle = (each for each in oldest if each.begun and each.conversation.idle)
        self.dropped += 1
        self._close(next(idle, None) or next(iter(crowd)))
        return True

    # Receiving.

    def _ready(self, connection: Connection, events: int) -> None:
        if connection.closed:
            return  # by an earlier event of the same look at the kernel
        if events & WRITABLE and connection.outgoing:
            self._send(connection, b"")
        elif events & READABLE and not connection.paused:
            if connection.queued:  # it sends faster than its turns come
                self._pause(connection)
            elif self._receive(connection):
                self._queue(connection)
        elif events & ENDED:
            if connection.queued:  # what it sent before it went is done still
                connection.ending = True
            else:
                self._close(connection)

    def _receive(self, connection: Connection) -> bool:
        """Take what the peer has sent; say whether there may be something to serve now."""
        try:
            if connection.clean:
                received = connection.socket.recv(RECEIVED_AT_ONCE, socket.MSG_DONTWAIT)
            else:
                received = receive(connection.socket)
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
            if connection.conversation.waiting or connection.conversation.streaming:
                connection.ending = True
                self._pause(connection)
            else:
                self._close(connection, unread=False)
            return False
        if not connection.heard:
            connection.heard = True
            self._disarm(connection)
        try:
            connection.conversation.receive(received)
        except ProtocolError as violation:
            self._refuse(connection, violation)
            return False
        return True

    def _pause(self, connection: Connection) -> None:
        if not connection.paused:
            connection.paused = True
            self._loop.change(connection.socket.fileno(), 0)

    def _resume(self, connection: Connection) -> None:
        if connection.paused and not connection.ending:
            connection.paused = False
            self._loop.change(connection.socket.fileno(), READABLE)

    # Serving in turn.

    def _queue(self, connection: Connection) -> None:
        """Give the connection its account's next turn; also called when a deferred answer came."""
        if not connection.queued and not connection.closed:
            connection.queued = True
            self._turns.setdefault(connection.account, deque()).append(connection)

    def between(self) -> bool:
        """Serve a round of calls and close what is late; say whether more calls wait."""
        end = time.monotonic() + SECONDS_A_ROUND
        for _ in range(CALLS_A_ROUND):
            if not self._turns or time.monotonic() >= end:
                break
            account = OPERATORS if OPERATORS in self._turns else next(iter(self._turns))
            waiting = self._turns.pop(account)
            while len(waiting) > 1 and waiting[0].closed:
                waiting.popleft()  # the oldest of a crowd, which have made room
            connection = waiting.popleft()
            if waiting:
                self._turns[account] = waiting  # behind all others
            connection.queued = False
            if not connection.closed and not connection.outgoing:
                self._serve(connection)
        if self._armed:
            self._expire()
        if not self._turns:
            return False
        self._acceptor.accept_all()
        return True

    def _serve(self, connection: Connection) -> None:
        conversation = connection.conversation
        if not connection.begun:
            connection.begun = True
            descriptor = connection.socket.fileno()
            try:
                self._loop.watch(descriptor, lambda events: self._ready(connection, events))
            except OSError:  # epoll_ctl(2): no memory, or more watched than the kernel lets anybody
                self._close(connection)
                return
            if not self._receive(connection):  # most peers have sent their call by now
                return
        try:
            sent = conversation.turn()
        except ProtocolError as violation:
            self._refuse(connection, violation)
            return
        except Exception as fault:  # a fault of ours: this peer is dropped, nobody else
            self._fault(connection.session.peer, fault)
            self._close(connection)
            return
        if sent is None:
            self._rest(connection)
            return
        account = self._accounts[connection.account]
        account[connection] = account.pop(connection)  # no longer the longest idle
        self._disarm(connection)
        if sent:
            self._send(connection, sent)
        if connection.closed or connection.outgoing:
            return
        if conversation.ready:
            self._queue(connection)
        else:
            self._rest(connection)

    def _rest(self, connection: Connection) -> None:
        """Nothing to serve now: wait for the peer, or let it go."""
        conversation = connection.conversation
        if conversation.waiting:
            self._pause(connection)
        elif connection.ending:
            self._close(connection)
        else:
            self._resume(connection)
            if conversation.partial and connection.deadline is None:
                self._arm(connection)

    def _send(self, connection: Connection, data: bytes) -> None:
        data = connection.outgoing + data
        try:
            sent = connection.socket.send(data, SENDING)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(connection)  # the peer is gone
            return
        left = data[sent:]
        if left:
            if not connection.outgoing:
                # Nothing more is read or served until the peer takes what it asked for, in time.
                connection.paused = True
                self._loop.change(connection.socket.fileno(), WRITABLE)
                self._arm(connection)
            connection.outgoing = left
        elif connection.outgoing:
            connection.outgoing = b""
            self._disarm(connection)
            self._loop.change(connection.socket.fileno(), 0)
            self._queue(connection)

    # Deadlines and ends.

    def _arm(self, connection: Connection) -> None:
        self._armed.pop(connection, None)
        self._armed[connection] = None
        connection.deadline = time.monotonic() + SECONDS_FOR_A_MESSAGE

    def _disarm(self, connection: Connection) -> None:
        if connection.deadline is not None:
            connection.deadline = None
            self._armed.pop(connection, None)

    def next_deadline(self) -> float | None:
        """Return the monotonic time at which the next peer is late, or None."""
        for connection in self._armed:
            return connection.deadline
        return None

    def _expire(self) -> None:
        """Close who is late; not who only seems so because we are (SIGSTOP, a crowd)."""
        seen = self._loop.looked
        late = itertools.takewhile(lambda each: (each.deadline or 0.0) <= seen, self._armed)
        for connection in [each for each in late if not each.queued]:
            self._close(connection)

    def _refuse(self, connection: Connection, violation: ProtocolError) -> None:
        self._violation(connection.session.peer, violation)
        self._close(connection)

    def _close(self, connection: Connection, *, unread: bool = True) -> None:
        if connection.closed:
            return
        connection.closed = True
        descriptor = connection.socket.fileno()
        self._disarm(connection)
        connection.conversation.close()
        if unread and not connection.clean:
            self._loop.unwatch(descriptor)
            self._closer.close(connection.socket)
        else:
            self._loop.forget(descriptor)
            connection.socket.close()
        account = self._accounts[connection.account]
        del account[connection]
        if not account:
            del self._accounts[connection.account]
        self._count -= 1

    def drain(self, *, unheard_too: bool) -> bool:
        """Close every connection that has nothing running; say whether any is left.

        Who has not spoken yet keeps his connection unless `unheard_too`: his call is on its way.
        """
        for account in list(self._accounts.values()):
            for connection in list(account):
                conversation = connection.conversation
                running = connection.queued or connection.outgoing or not conversation.idle
                if not running and (connection.heard or unheard_too):
                    self._close(connection)
        return self._count > 0

    def close(self) -> None:
        """Close every connection."""
        for account in list(self._accounts.values()):
            for connection in list(account):
                self._close(connection)
        self._acceptor.close()
