"""Closes connections in which descriptors may wait, without ever waiting for one of them.

A peer can send a descriptor of a TCP socket that lingers (SO_LINGER, socket(7)) and close his own:
then the last close is the broker's, and takes as long as the peer has said: measured, as long as
he likes.  Nor can one be taken out of a connection: to close a file of a FUSE server asks that
server.  So nothing that was sent is ever received; a look at what waits says whether there is
something (unix(7): MSG_CTRUNC), and then the connection is closed by a process that ends: in one
the kernel lets no socket linger (inet_release in net/ipv4/af_inet.c asks for PF_EXITING).

A look passes over an urgent byte (MSG_OOB, Linux 5.15), and over the descriptors that came with it,
unless the connection has been told to have such bytes stand among the others.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from _socket import MSG_CTRUNC, MSG_DONTWAIT, MSG_PEEK, SO_OOBINLINE, SOL_SOCKET
from _socket import socket as Socket
from collections import deque

from sockbroker.kernel.worker import Worker

RECEIVED_AT_ONCE = 32 * 1024
"""Two messages of the largest size; a pipelining peer is read again when these are answered."""

RECEIVED_FIRST = 479
"""While nothing goes on: a usual call is a hundred bytes.  Up to here Python has memory at hand, in
pieces of 512 bytes; for more it asks the C library, which takes longer."""

MOST_LOOKS = 16
"""At what a connection holds unread when it is closed; the kernel's usual most is seven of them."""

SECONDS_BETWEEN_CHILDREN = 0.02
"""A fork costs a millisecond or two, so that those who come meanwhile share the next one."""

SECONDS_OF_A_CHILD = 1.0
"""It is killed when it is wanted no more; after this long it ends if nobody is left to do that."""


class DescriptorsSent(Exception):
    """The peer has sent descriptors, which are still where he sent them."""


def see_urgent_bytes(connection: Socket) -> None:
    """Have urgent bytes stand among the others, those that have arrived as well; OSError: unknown.

    Source: SO_OOBINLINE in socket(7), manage_oob in net/unix/af_unix.c.
    """
    connection.setsockopt(SOL_SOCKET, SO_OOBINLINE, 1)


def receive(connection: Socket, most: int) -> bytes:
    """Return up to `most` bytes of what has arrived, or b"" at the end.

    The connection is one that `see_urgent_bytes` has been told, or it spins and closes what waits.
    DescriptorsSent instead of any descriptor, BlockingIOError where there is nothing, OSError where
    the connection is lost.
    """
    # Without room for them descriptors are told of and, in a look, stay where they are.
    seen, _control, flags, _address = connection.recvmsg(most, 0, MSG_DONTWAIT | MSG_PEEK)
    if flags & MSG_CTRUNC:
        raise DescriptorsSent
    # Exactly what was seen: descriptors may have arrived behind it.
    return connection.recv(len(seen), MSG_DONTWAIT) if seen else b""


class Closer:
    """Closes what may hold descriptors."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: deque[Socket] = deque()

    def close(self, connection: Socket) -> None:
        """Close a connection, which is the closer's from here on."""
        try:
            connection.shutdown(socket.SHUT_RDWR)  # nothing more arrives
            see_urgent_bytes(connection)
            for _ in range(MOST_LOOKS):
                if not receive(connection, RECEIVED_AT_ONCE):
                    connection.close()
                    return
        except (DescriptorsSent, OSError):
            pass
        self._waiting.append(connection)
        self._worker.submit(self._close_waiting, lambda _outcome: None)

    def _close_waiting(self) -> None:
        batch = []
        while self._waiting:
            batch.append(self._waiting.popleft())
        if batch:
            _close_by_child(batch)
            time.sleep(SECONDS_BETWEEN_CHILDREN)


def _close_by_child(batch: list[Socket]) -> None:
    """Have a child of this process be the last one that has these open, and end it."""
    try:
        child = os.fork()
    except OSError:
        child = -1
    if child == 0:
        try:
            _keep_only(sorted(each.fileno() for each in batch))
            time.sleep(SECONDS_OF_A_CHILD)
        finally:
            os._exit(0)
    for each in batch:
        each.close()
    if child > 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _keep_only(kept: list[int]) -> None:
    """Close every other descriptor: neither the lock nor a listener is to outlive the broker."""
    beyond = os.sysconf("SC_OPEN_MAX")
    for below, above in zip([-1, *kept], [*kept, beyond], strict=True):
        os.closerange(below + 1, above)
