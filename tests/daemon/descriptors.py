"""Descriptors that keep whoever closes them, and how they are sent."""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers import Peer
from running import MALLORY, mount, umount

LINGER = 600


def rights(descriptors: list[int]) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]


class Lingering:
    """TCP sockets whose last close lasts ten minutes: what is in them is never taken."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        self._taken: list[socket.socket] = []

    @contextmanager
    def make(self) -> Iterator[socket.socket]:
        """Make one, and close it in a thread: who is the last to do so waits, here or there."""
        made = socket.create_connection(self._server.getsockname())
        self._taken.append(self._server.accept()[0])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER))
        made.setblocking(False)
        try:
            while True:
                made.send(b"x" * 65536)
        except BlockingIOError:
            pass
        yield made
        threading.Thread(target=made.close, daemon=True).start()


FUSE_INIT, FUSE_OPEN, FUSE_FLUSH = 26, 14, 25  # include/uapi/linux/fuse.h


@contextmanager
def file_that_is_never_closed(at: Path) -> Iterator[None]:
    """A file whose server lets everybody open it and then answers to nothing, flush among it."""
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    at.touch()
    options = f"fd={server},rootmode=100000,user_id={MALLORY},group_id={MALLORY}"
    mount("unclosed", at, "fuse", 0, options)

    def serve() -> None:
        while True:
            try:
                request = os.read(server, 1 << 17)
            except OSError:
                return
            _, operation, unique = struct.unpack_from("IIQ", request)
            if operation == FUSE_INIT:
                body = struct.pack("IIIIHHII", 7, 31, 0, 0, 0, 0, 4096, 1) + bytes(32)
            elif operation == FUSE_OPEN:
                body = bytes(16)
            else:
                continue
            os.write(server, struct.pack("IiQ", 16 + len(body), 0, unique) + body)

    serving = Peer(0, serve)
    try:
        yield
    finally:
        serving.end()
        umount(at)
        os.close(server)
