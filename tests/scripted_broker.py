"""A broker that says word for word what a test wants, on a real socket.

For what no honest broker does: to hang, to lie, to break off in the middle.
"""

import json
import os
import socket
from collections.abc import Callable

from private_world import background, end_with_parent

ABSTRACT = b"\0sockbroker"
PATH = b"/run/sockbroker/io.sockbroker"
OPERATOR = b"/run/sockbroker/operator"

# Serves one connection; the int counts them from 0.
Conversation = Callable[[socket.socket, int], None]


class ScriptedBroker:
    """Listens at an address in a process of its own, and records every byte that it is sent."""

    def __init__(
        self, converse: Conversation, *, target: bytes = ABSTRACT, uid: int = 0, backlog: int = 64
    ) -> None:
        self.target = target
        self._record, writable = os.pipe()
        ready, started = os.pipe()

        def serve() -> None:
            os.close(self._record)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(target)
            if not target.startswith(b"\0"):
                os.chmod(target, 0o600 if target == OPERATOR else 0o666)
            os.setresuid(uid, uid, uid)
            end_with_parent()
            listener.listen(backlog)
            os.write(started, b".")
            number = 0
            while True:
                connection, _ = listener.accept()
                recorder = _Recorder(connection, writable)
                try:
                    converse(recorder, number)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                recorder.close()
                number += 1

        self.pid = background(serve)
        os.close(started)
        os.close(writable)
        assert os.read(ready, 1) == b"."
        os.close(ready)

    def received(self) -> list[bytes]:
        """End the broker and return the messages that it was sent, over all connections."""
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        with open(self._record, "rb") as file:
            return file.read().split(b"\0")[:-1]


class _Recorder(socket.socket):
    """A connection that notes what comes in."""

    def __init__(self, connection: socket.socket, record: int) -> None:
        super().__init__(fileno=connection.detach())
        self._record_descriptor = record

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        received = super().recv(size, flags)
        os.write(self._record_descriptor, received)
        return received


def read_call(connection: socket.socket) -> bytes:
    """Read one whole message, or what there was of it."""
    received = b""
    while not received.endswith(b"\0"):
        chunk = connection.recv(65536)
        if not chunk:
            break
        received += chunk
    return received


def message(
    parameters: dict[str, object] | None = None,
    error: str | None = None,
    *,
    continues: bool = False,
) -> bytes:
    """Give a reply as a broker sends it."""
    reply: dict[str, object] = {}
    if parameters is not None:
        reply["parameters"] = parameters
    if error is not None:
        reply["error"] = error
    if continues:
        reply["continues"] = True
    return json.dumps(reply).encode() + b"\0"


def answering(*replies: bytes) -> Conversation:
    """Answer each call with the next of these; the connection is closed after each."""

    def converse(connection: socket.socket, number: int) -> None:
        read_call(connection)
        if number < len(replies):
            connection.sendall(replies[number])

    return converse


def always(reply: bytes) -> Conversation:
    """Answer every call with the same bytes."""

    def converse(connection: socket.socket, number: int) -> None:
        read_call(connection)
        connection.sendall(reply)

    return converse


def granted(app: str, uid: int, *, path: str | None = None) -> bytes:
    """Give the reply to a Request that made a directory."""
    return message({"path": path or f"/run/{app}/{uid}", "outcome": "created"})


def make_directory(app: str, uid: int, mode: int = 0o700) -> str:
    """Make a runtime directory as a broker would have left it, and return its path."""
    folder = f"/run/{app}"
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o711)
    path = f"{folder}/{uid}"
    os.mkdir(path)
    os.chown(path, uid, uid)
    os.chmod(path, mode)
    return path
