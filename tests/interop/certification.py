"""A server for org.varlink.certification: the engine of the broker behind a plain blocking socket.

Varlink's own test of an implementation: a client calls Start, Test01 to Test11 and End, each with
what the call before answered, and both sides check every value. The interface's text comes from the
PyPI package `varlink`, so that nothing here can be bent to fit.
"""

import contextlib
import itertools
import math
import socket
import threading
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path

from sockbroker.core.conversation import Conversation
from sockbroker.core.idl import parse
from sockbroker.core.service import (
    Answer,
    Binding,
    Failure,
    Handler,
    Reply,
    Series,
    Service,
)
from sockbroker.core.varlink import Call, ProtocolError

INTERFACE = "org.varlink.certification"

NUMBERS = {"bool": False, "int": 2, "float": math.pi, "string": "a lot of string"}
WORDS = {"foo": "Foo", "bar": "Bar"}
SET: dict[str, object] = {"one": {}, "two": {}, "three": {}}
MY_TYPE = {
    "object": {"method": f"{INTERFACE}.Test09", "parameters": {"map": WORDS}},
    "enum": "two",
    "struct": {"first": 1, "second": "2"},
    "array": ["one", "two", "three"],
    "dictionary": WORDS,
    "stringset": SET,
    "nullable": None,
    "nullable_array_struct": None,
    "interface": {
        "foo": [None, {"foo": "foo", "bar": "bar"}, None, {"one": "foo", "two": "bar"}],
        "anon": {"foo": True, "bar": False},
    },
}
REPLIES = [f"Reply number {number}" for number in range(1, 11)]

# What each method has to be called with besides the client's id, and what it answers.
STEPS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "Test01": ({}, {"bool": True}),
    "Test02": ({"bool": True}, {"int": 1}),
    "Test03": ({"int": 1}, {"float": 1.0}),
    "Test04": ({"float": 1.0}, {"string": "ping"}),
    "Test05": ({"string": "ping"}, dict(NUMBERS)),
    "Test06": (dict(NUMBERS), {"struct": NUMBERS}),
    "Test07": ({"struct": NUMBERS}, {"map": WORDS}),
    "Test08": ({"map": WORDS}, {"set": SET}),
    "Test09": ({"set": SET}, {"mytype": MY_TYPE}),
    "Test10": ({"mytype": MY_TYPE}, {}),
    "Test11": ({"last_more_replies": REPLIES}, {}),
    "End": ({}, {"all_ok": True}),
}
ORDER = list(STEPS)


class Certification:
    """The state of all clients that are being certified."""

    def __init__(self) -> None:
        self.certified: list[str] = []
        """Clients that called everything right, to the end."""
        self.failures: list[str] = []
        """What clients did wrong."""
        self._next: dict[str, str] = {}
        self._numbers = itertools.count()  # of which all threads may take the next
        texts = (
            resources.files("varlink.tests").joinpath(f"{INTERFACE}.varlink").read_text("utf-8"),
            resources.files("sockbroker")
            .joinpath("org.varlink.service.varlink")
            .read_text("utf-8"),
        )
        certified, standard = map(parse, texts)
        handlers: dict[str, Handler[None]] = {"Start": self._start}
        handlers |= dict.fromkeys(STEPS, self._step)
        self.service: Service[None] = Service(
            "sockbroker",
            "certification",
            "1",
            "",
            # Test10 needs `more`; that Test11 is `oneway` is checked below.
            [Binding(certified, handlers, frozenset({"Test10"})), Binding(standard)],
        )

    def _start(self, _context: None, _call: Call) -> Answer:
        client = f"client-{next(self._numbers)}"
        self._next[client] = ORDER[0]
        return Reply({"client_id": client})

    def _step(self, _context: None, call: Call) -> Answer:
        step = call.method.rpartition(".")[2]
        given = dict(call.parameters)
        client = str(given.pop("client_id"))
        expected = self._next.pop(client, None)
        if expected is None:
            return Failure(f"{INTERFACE}.ClientIdError", {})
        wanted, answer = STEPS[expected]
        if step != expected or _whole(wanted) != _whole(given) or call.oneway != (step == "Test11"):
            self.failures.append(f"{step} instead of {expected}: {given}")
            wants = {"method": expected, "parameters": wanted}
            got = {"method": step, "parameters": given}
            return Failure(f"{INTERFACE}.CertificationError", {"wants": wants, "got": got})
        if step == "End":
            self.certified.append(client)
        else:
            self._next[client] = ORDER[ORDER.index(step) + 1]
        return Series(_replies()) if step == "Test10" else Reply(answer)


def _replies() -> Iterator[Mapping[str, object]]:
    for reply in REPLIES:
        yield {"string": reply}


def _whole(value: object) -> object:
    """Leave out what is null, which is the same as absent."""
    if isinstance(value, dict):
        return {name: _whole(below) for name, below in value.items() if below is not None}
    return value


class Server:
    """Serves each connection in a thread, as simply as can be; a context manager."""

    def __init__(self, path: Path, service: Service[None], *, received_at_once: int) -> None:
        self._service = service
        self._received_at_once = received_at_once
        self._served: list[tuple[socket.socket, threading.Thread]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()

    def __enter__(self) -> "Server":
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._accepting.join()
        self._listener.close()
        for connected, thread in self._served:
            with contextlib.suppress(OSError):  # it has ended already
                connected.shutdown(socket.SHUT_RDWR)
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=[connected])
            self._served.append((connected, thread))
            thread.start()

    def _serve(self, connected: socket.socket) -> None:
        conversation = Conversation(self._service, None)
        with connected:
            try:
                while (sent := conversation.turn()) is not None or (
                    received := connected.recv(self._received_at_once)
                ):
                    if sent is None:
                        conversation.receive(received)
                    else:
                        connected.sendall(sent)
            except (ProtocolError, OSError):
                pass
            conversation.close()
