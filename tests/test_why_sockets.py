"""`sockbrokerctl why` at the end of the way: is it bound, by what, where, and does it listen."""

from __future__ import annotations

import contextlib
import os
import socket
import time

import pytest

from private_world import (
    CLONE_NEWNET,
    WHOLE_MACHINE,
    as_user,
    background,
    needs_root,
    unshare,
)
from why_world import (
    BOB,
    Answer,
    as_bob,
    ctl,
    in_world,
    listening,
    wait_for,
    why,
)


@needs_root
def test_nobody_listens() -> None:
    """Root knows that its server is gone; others cannot look into other network namespaces."""

    def world() -> tuple[Answer, Answer]:
        listening("/run/s").close()
        return why("/run/s", "--user", "bob"), as_user(BOB, lambda: why("/run/s"))

    by_root, by_bob = in_world(world)
    assert (by_bob["can_connect"], by_bob["socket"]["bound"]) == (None, None)
    if not WHOLE_MACHINE:
        assert (by_root["can_connect"], by_root["socket"]["bound"]) == (None, None)
        return
    assert (by_root["error"], by_root["cause"]) == ("ECONNREFUSED", "nobody has it bound")
    assert by_root["socket"]["bound"] is False
    assert "rm /run/s" in by_root["mends"][0]["words"]


@needs_root
def test_a_server_in_another_network_namespace() -> None:
    """Files do not care about it: root sees that he can, others do not see the server."""

    def world() -> tuple[Answer, Answer]:
        def serve() -> None:
            unshare(CLONE_NEWNET)
            with listening("/run/t"):
                os.rename("/run/t", "/run/s")
                time.sleep(60)

        background(serve)
        wait_for("/run/s")
        assert as_bob("/run/s") is None
        return why("/run/s", "--user", "bob"), as_user(BOB, lambda: why("/run/s"))

    by_root, by_bob = in_world(world)
    assert by_root["can_connect"] is True
    assert by_root["socket"]["here"] is False
    assert by_bob["can_connect"] is None


@needs_root
def test_a_full_queue_is_reported() -> None:
    """He may connect, and has to wait."""

    def world() -> tuple[tuple[int, str, str], Answer]:
        with listening("/run/s") as server, contextlib.ExitStack() as clients:
            server.listen(0)
            clients.enter_context(socket.socket(socket.AF_UNIX)).connect("/run/s")
            assert as_bob("/run/s") == "Resource temporarily unavailable"
            return ctl("/run/s", "--user", "bob"), why("/run/s", "--user", "bob")

    (status, text, _), answer = in_world(world)
    assert status == 0
    assert text.startswith("bob can connect to /run/s, but has to wait: its queue is full\n")
    assert (answer["socket"]["waiting"], answer["socket"]["backlog"]) == (1, 0)


@needs_root
def test_types() -> None:
    """Without --type whatever it is is right; with it the wrong one is named."""

    def world() -> list[Answer]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind("/run/d")
            os.chmod("/run/d", 0o666)
            return [why("/run/d", "--user=bob", *more) for more in ([], ["--type=dgram"])] + [
                why("/run/d", "--user=bob", "--type", wrong) for wrong in ("stream", "seqpacket")
            ]

    untyped, right, *wrong = in_world(world)
    assert untyped["can_connect"] is right["can_connect"] is True
    for answer in wrong:
        assert (answer["error"], answer["can_connect"]) == ("EPROTOTYPE", False)
        assert answer["mends"][0]["words"] == "connect with type dgram"


@needs_root
def test_nothing_is_connected() -> None:
    """The server never hears of it."""

    def world() -> None:
        with listening("/run/s") as server:
            assert why("/run/s")["can_connect"] is True
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.accept()

    in_world(world)


# Who is asked about.


@needs_root
def test_abstract_names() -> None:
    """There are no permissions: whether it is bound, by which type, is all; byte for byte."""

    def world() -> dict[str, bool | None]:
        names = {b"\0plain": socket.SOCK_STREAM, b"\0a\0b\n@": socket.SOCK_SEQPACKET}
        with contextlib.ExitStack() as servers:
            for name, kind in names.items():
                server = servers.enter_context(socket.socket(socket.AF_UNIX, kind))
                server.bind(name)
                server.listen()
            asked = [
                ["@plain"], ["@plain", "--type=stream"], ["@plain", "--type=dgram"], ["@plai"],
                ["@plain\\x00"], ["@a\\x00b\\x0a@"], ["@a"], ["@PLAIN"],
            ]  # fmt: skip
            return {
                " ".join(arguments): why(*arguments, "--user=bob")["can_connect"]
                for arguments in asked
            }

    assert in_world(world) == {
        "@plain": True,
        "@plain --type=stream": True,
        "@plain --type=dgram": False,
        "@plai": False,
        "@plain\\x00": False,
        "@a\\x00b\\x0a@": True,
        "@a": False,
        "@PLAIN": False,
    }


@needs_root
def test_abstract_names_on_a_terminal() -> None:
    """In the form in which they were typed."""

    def world() -> tuple[str, Answer]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(b"\0\x1b[2J")
            return ctl("@\\x1b[2J", "--user=bob")[1], why("@\\x1b[2J", "--user=bob")

    text, answer = in_world(world)
    assert text.startswith("bob can connect to @\\x1b[2J\n")
    assert text.isascii()
    assert answer["path"] == "@\\x1b[2J"
    assert answer["socket"]["type"] == "dgram"
