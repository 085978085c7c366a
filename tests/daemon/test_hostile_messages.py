"""What a peer may say: the right error or the end of his connection, and nobody else suffers."""

from __future__ import annotations

import json
import os
import random
import socket
import time

import pytest
from peers import (
    DENIED,
    INVALID_APP,
    INVALID_PARAMETER,
    REQUEST,
    Line,
    as_mallory,
    encoded,
    granted,
    refused,
    user_asks,
)
from running import BOB, MALLORY, Daemon, eventually, layout, tree

pytestmark = pytest.mark.root

LIMIT = 16 * 1024

NO_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "../../etc",
    "a/b",
    "/abs",
    "demo/",
    "demo\0",
    "demo\0x",
    "demo\n",
    "demo ",
    " demo",
    "demo\x7f",
    "Demo",
    "-rf",
    "_x",
    "0day",
    "%s",
    "$(id)",
    "\uff44\uff45\uff4d\uff4f",
    "caf\u00e9",
    "de\u202emo",
    "dem\u0131",
    "\U0001f600",
    "a" * 32,
    "a" * 255,
    "a" * 4096,
    "a" * 16_000,
]


@pytest.mark.parametrize("method", ["Request", "Release", "List"])
def test_no_name_of_an_app(daemon: Daemon, method: str) -> None:
    """What is no name is InvalidApp, on the same connection, and touches nothing.

    Taken out: `is_app_name` of `failures.whom`; then they are Denied as unknown, and a Release is a
    fault.
    """
    before = tree()
    flags = {"more": True} if method == "List" else {}

    def ask_for_all() -> list[str]:
        with Line() as line:
            errors = []
            for name in NO_NAMES:
                line.send(encoded(method, {"app": name}, **flags))
                errors.append(refused(line.reply()))
            return errors

    assert as_mallory(ask_for_all) == [INVALID_APP] * len(NO_NAMES)
    assert tree() == before == layout({"demo": {f"{BOB}": (BOB, BOB, "0700")}, "nobody": {}})


def test_names_that_are_words_but_no_app(daemon: Daemon) -> None:
    """Reserved and unknown names are names: denied like any other, whatever is in /run by them.

    Taken out: the rule of `decide` for an app that the policy does not have; then it is a fault.
    """
    for name in ("a", "a" * 31, "systemd", "sockbroker", "user", "lock", "x-y_z9"):
        reply = user_asks(MALLORY, "Request", app=name)
        assert refused(reply) == DENIED
        assert reply["parameters"]["app"] == name
    assert daemon.log("denied")


LIES = [
    ({}, "app"),
    ({"app": None}, "app"),
    ({"app": 5}, "app"),
    ({"app": 5.5}, "app"),
    ({"app": True}, "app"),
    ({"app": ["demo"]}, "app"),
    ({"app": {"demo": {}}}, "app"),
    ({"app": "demo", "uid": "0"}, "uid"),
    ({"app": "demo", "uid": 0.0}, "uid"),
    ({"app": "demo", "uid": 1e3}, "uid"),
    ({"app": "demo", "uid": True}, "uid"),
    ({"app": "demo", "uid": []}, "uid"),
    ({"app": "demo", "uid": 2**63}, "uid"),
    ({"app": "demo", "uid": -(2**63) - 1}, "uid"),
    ({"app": "demo", "mode": "0777"}, "mode"),
    ({"app": "demo", "gid": 0}, "gid"),
]


def test_lies_about_types(daemon: Daemon) -> None:
    """Each is InvalidParameter with the parameter's name, and the connection goes on.

    Taken out: the check of the parameters in `Service._action`; then the call is a fault.
    """

    def lie() -> list[tuple[str, str]]:
        with Line() as line:
            answers = []
            for parameters, _ in LIES:
                reply = line.call("Request", **parameters)
                answers.append((refused(reply), reply["parameters"]["parameter"]))
            line.call("Request", app="demo")
            return answers

    assert as_mallory(lie) == [(INVALID_PARAMETER, parameter) for _, parameter in LIES]


def call(text: str) -> bytes:
    """A message of this text."""
    return text.encode("utf-8", "surrogatepass") + b"\0"


VIOLATIONS = {
    "no JSON": b"hello\0",
    "nothing": b"\0",
    "two objects": call("{}{}"),
    "an array": call('["io.sockbroker.Request"]'),
    "no method": call('{"parameters":{"app":"demo"}}'),
    "a method that is a number": call('{"method":5}'),
    "parameters that are a list": call('{"method":"io.sockbroker.Request","parameters":["demo"]}'),
    "parameters that are text": call('{"method":"io.sockbroker.Request","parameters":"demo"}'),
    "a flag that is a number": call('{"method":"io.sockbroker.Status","more":1}'),
    "a flag that is null": call('{"method":"io.sockbroker.Status","oneway":null}'),
    "two flags": call('{"method":"io.sockbroker.Status","more":true,"oneway":true}'),
    "an unknown member": call('{"method":"io.sockbroker.Status","uid":0}'),
    "a member twice": call('{"method":"io.sockbroker.Status","method":"io.sockbroker.Reload"}'),
    "a parameter twice": call(
        '{"method":"io.sockbroker.Request","parameters":{"app":"demo","app":"nobody"}}'
    ),
    "NaN": call('{"method":"io.sockbroker.Request","parameters":{"app":NaN}}'),
    "half a surrogate pair": call(
        '{"method":"io.sockbroker.Request","parameters":{"app":"\\ud800"}}'
    ),
    "no UTF-8": b'{"method":"io.sockbroker.Request","parameters":{"app":"\xff\xfe"}}\0',
    "UTF-8 of half a surrogate": call(
        '{"method":"io.sockbroker.Request","parameters":{"app":"\ud800"}}'
    ),
    "UTF-16": '{"method":"io.sockbroker.Status"}\0'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + encoded("Status", {}),
    "a hundred thousand levels": b"[" * 16_000 + b"\0",
    "deep parameters": call(
        '{"method":"io.sockbroker.Request","parameters":{"app":' + "[" * 5000 + "]" * 5000 + "}}"
    ),
    "a huge number": call(
        '{"method":"io.sockbroker.Request","parameters":{"uid":' + "9" * 9000 + "}}"
    ),
    "too long by a byte": b"{}".rjust(LIMIT + 1) + b"\0",
    "a reply": call('{"parameters":{}}'),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n\0",
}


@pytest.mark.parametrize("bytes_at_once", [65536, 1], ids=["whole", "byte-by-byte"])
def test_violations_close_the_connection(daemon: Daemon, bytes_at_once: int) -> None:
    """What is no call gets no answer but the end; what was asked before it is answered.

    Taken out: the closing in `Server._refuse`, which served what came next instead; then that is
    answered.
    """

    def violate() -> dict[str, object]:
        outcomes = {}
        for what, message in VIOLATIONS.items():
            with Line() as line:
                data = REQUEST + message + REQUEST
                if bytes_at_once == 1 and len(data) > 1000:
                    continue
                try:
                    for start in range(0, len(data), bytes_at_once):
                        line.send(data[start : start + bytes_at_once])
                except (BrokenPipeError, ConnectionResetError):
                    pass  # closed while more is sent
                try:
                    granted(line.reply())
                except EOFError:
                    outcomes[what] = "no reply to the call before it"
                    continue
                if not line.closed():
                    outcomes[what] = "answered"
        return outcomes

    assert as_mallory(violate) == {}
    logged = daemon.log("protocol violation")
    assert {event["uid"] for event in logged} == {MALLORY}


def test_a_mebibyte_of_anything(daemon: Daemon) -> None:
    """Neither text nor noise nor brackets of that length cost memory or an answer.

    Taken out: the limits of a message (`Inbox.feed`) and of what waits (`Conversation.receive`),
    one behind the other; then the end comes only when the time for a message is over.
    """
    before = daemon.resident()
    noise = random.Random(1).randbytes(1 << 20)

    def flood() -> list[bool]:
        closed = []
        for data in (b"a" * (1 << 20), noise, b"[" * (1 << 20), b'{"method":"' + b"x" * (1 << 20)):
            with Line() as line:
                try:
                    line.send(data)
                except (BrokenPipeError, ConnectionResetError):
                    closed.append(True)
                    continue
                closed.append(line.closed())
        return closed

    began = time.monotonic()
    assert as_mallory(flood) == [True] * 4
    assert time.monotonic() - began < 5  # at once, not by the time that a message may take
    assert daemon.resident() - before < 8 * 1024


def test_the_longest_message(daemon: Daemon) -> None:
    """A message of exactly 16 KiB is served, wherever its bytes are.

    Taken out: a byte of `MESSAGE_LIMIT`; then there is no reply.
    """

    def at_the_limit() -> list[str]:
        with Line() as line:
            answers = []
            for message in (REQUEST[:-1].ljust(LIMIT), REQUEST[:-1].rjust(LIMIT)):
                line.send(message + b"\0")
                answers.append(granted(line.reply())[0])
            return answers

    assert as_mallory(at_the_limit) == [f"/run/demo/{MALLORY}"] * 2


def test_noise_of_all_kinds(daemon: Daemon) -> None:
    """Thousands of mutated messages leave descriptors, memory and layout as they were."""

    def make_noise(seed: int) -> None:
        rng = random.Random(seed)
        good = [
            REQUEST,
            encoded("Release", {"app": "demo"}),
            encoded("List", {}, more=True),
            encoded("Status", {}),
            encoded("org.varlink.service.GetInfo", {}),
        ]
        for _ in range(1500):
            data = bytearray(rng.choice(good))
            for _ in range(rng.randrange(4)):
                position = rng.randrange(len(data))
                match rng.randrange(3):
                    case 0:
                        data[position] = rng.randrange(256)
                    case 1:
                        del data[position]
                    case _:
                        data[position:position] = rng.randbytes(rng.randrange(8))
            with Line() as line:
                try:
                    line.send(bytes(data) * rng.randrange(1, 3))
                    line.socket.shutdown(socket.SHUT_WR)
                    while line.socket.recv(65536):
                        pass
                except (BrokenPipeError, ConnectionResetError):
                    pass

    as_mallory(lambda: make_noise(1))
    descriptors, resident = daemon.descriptors(), daemon.resident()
    as_mallory(lambda: make_noise(2))
    as_mallory(lambda: make_noise(3))
    eventually("closed", lambda: daemon.descriptors() <= descriptors)
    assert daemon.resident() - resident < 4 * 1024
    names = set(os.listdir("/run/demo"))
    assert {name for name in names if not name.startswith(".old-")} <= {
        ".sockbroker",
        f"{BOB}",
        f"{MALLORY}",
    }
    for event in daemon.log():
        assert json.dumps(event, ensure_ascii=True).isprintable()
