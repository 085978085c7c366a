"""What one uid does while others are timed: the floods and trees of the daemon's tests.

A scene prepares what it takes in a world where a daemon runs, and returns what is to be done, and
ended, while the others ask.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress

import floods
from descriptors import Lingering, file_that_is_never_closed, rights
from floods import SECONDS
from measuring import NotMeasured
from peers import REQUEST, Line, Peer, as_mallory, encoded, user_asks
from running import MALLORY, World
from trees import HIS
from witness import looping, silent_file_server

Finish = Callable[[], None]
Scene = Callable[[World], Finish]


def _all(peers: list[Peer[object]]) -> Finish:
    def finish() -> None:
        for peer in peers:
            peer.result()

    return finish


def _repeat(*acts: Callable[[], object]) -> list[Peer[object]]:
    """Have mallory do these again and again, each in a process."""
    return [Peer[object](MALLORY, looping(act)) for act in acts]


def _end(peers: list[Peer[object]]) -> None:
    """Kill them; AssertionError if one had ended, and disturbed nobody from then on."""
    for peer in peers:
        if os.waitid(os.P_PID, peer.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            peer.end()
        else:
            peer.result()
            raise AssertionError("a process that disturbs others has ended before them")


def _until_asked(peers: list[Peer[object]]) -> Finish:
    """Let them go on until the others have asked."""

    def finish() -> None:
        time.sleep(SECONDS + 1)
        _end(peers)

    return finish


def flood(kind: Callable[[], Callable[[], None]]) -> Scene:
    """Four processes that flood in one way."""

    def scene(_world: World) -> Finish:
        flooding = [
            Peer[object](MALLORY, lambda: floods.flood(kind)) for _ in range(floods.FLOODERS)
        ]
        time.sleep(1)  # until it is in full flow
        return _all(flooding)

    return scene


def every_flood(_world: World) -> Finish:
    """One process for each way to flood, at once."""
    return _all([Peer[object](MALLORY, floods.flooding(act)) for act in floods.EVERY_WAY])


def many_descriptors(_world: World) -> Finish:
    """Messages with as many descriptors as one can have."""
    many: list[int] = []

    def send() -> None:
        if not many:
            many.extend(os.open("/", os.O_RDONLY) for _ in range(253))
        with Line() as line:
            line.socket.sendmsg([REQUEST], rights(many))
            line.closed()

    return _until_asked(_repeat(send, send))


def lingering_sockets(_world: World) -> Finish:
    """Sockets whose last close takes ten minutes; a hundred, since each takes a thread here."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def send() -> None:
        lingering = Lingering()
        for _ in range(100):
            with Line() as line, lingering.make() as made, suppress(PermissionError):
                line.socket.sendmsg([REQUEST[:5]], rights([made.fileno()]))
            time.sleep(SECONDS / 150)
        time.sleep(SECONDS)

    return _until_asked([Peer[object](MALLORY, send)])


def _with_mounted(
    mounted: Callable[[], AbstractContextManager[None]], act: Callable[[], object]
) -> Finish:
    """Have mallory act while something is mounted."""
    if not os.path.exists("/dev/fuse"):
        raise NotMeasured("there is no /dev/fuse")
    stack, peers = ExitStack(), list[Peer[object]]()
    stack.callback(lambda: _end(peers))  # last: a file that nobody serves keeps its process
    stack.enter_context(mounted())
    peers += _repeat(act)

    def finish() -> None:
        with stack:
            time.sleep(SECONDS + 1)

    return finish


def unclosed_files(world: World) -> Finish:
    """Files of a file server that never lets anybody close them."""
    path = world.own / "file"
    opened: list[int] = []

    def send() -> None:
        if not opened:
            os.closerange(3, 1024)  # with the server's end in it, this process could never end
            opened.append(os.open(path, os.O_RDONLY))
        with Line() as line:
            line.socket.sendmsg([REQUEST], rights(opened))
            line.closed()

    return _with_mounted(lambda: file_that_is_never_closed(path), send)


def tree(make: Callable[[], None]) -> Scene:
    """The owner of a large tree has it deleted, and asks for a new directory."""

    def scene(_world: World) -> Finish:
        user_asks(MALLORY, "Request", app="demo")
        as_mallory(make)

        def finish() -> None:
            time.sleep(0.5)  # until the others ask
            user_asks(MALLORY, "Release", app="demo")
            user_asks(MALLORY, "Request", app="demo")

        return finish

    return scene


def _ask(method: str) -> None:
    with Line() as line:
        line.send(encoded(method, {"app": "demo"}))
        line.closed()  # or an answer, whichever it is


def _ask_in_every_way() -> None:
    _ask("Request")
    _ask("Release")


def file_server(_world: World) -> Finish:
    """A file server that never answers is mounted on the directory, which is asked for."""
    user_asks(MALLORY, "Request", app="demo")
    return _with_mounted(lambda: silent_file_server(HIS, MALLORY), _ask_in_every_way)


def changes(_world: World) -> Finish:
    """The owner changes the mode of his directory in loops, while he asks for it."""
    user_asks(MALLORY, "Request", app="demo")

    def change() -> None:
        for mode in (0o777, 0o000, 0o3777, 0o1755):
            os.chmod(HIS, mode)

    return _until_asked(_repeat(change, lambda: _ask("Request")))
