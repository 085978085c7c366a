"""Closes beside the loop what may take long to close.

A peer can send a descriptor of a TCP socket that lingers (SO_LINGER, socket(7)) and close his own:
then the last close is the broker's, and takes as long as the peer has said: measured, 20 s.
So what was sent, and connections that may hold something unread, are closed by a worker.
"""

from __future__ import annotations

import os
import socket
from functools import partial

from sockbroker.kernel.worker import Worker

CONTROL_SPACE = socket.CMSG_SPACE(253 * 4)
"""Room for all descriptors of one message (SCM_MAX_FD); what has no room the kernel closes here."""


class Closer:
    """Closes in the order of submission."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def close(self, connection: socket.socket) -> None:
        """Close a connection, which is the closer's from here on."""
        self._worker.submit(connection.close, lambda _outcome: None)

    def close_sent(self, control: list[tuple[int, int, bytes]]) -> None:
        """Close the descriptors that recvmsg(2) has brought in."""
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                sent = memoryview(data[: len(data) - len(data) % 4]).cast("i").tolist()
                self._worker.submit(partial(_close_all, sent), lambda _outcome: None)


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
