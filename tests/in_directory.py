"""Runs a test as the user of a runtime directory that a broker grants to him."""

import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar

import sockbroker
from private_world import (
    ALICE,
    CLONE_NEWNET,
    as_user,
    end_with_parent,
    in_private_world,
    unshare,
)
from scripted_broker import ScriptedBroker, always, granted, make_directory

T = TypeVar("T")

PATH = f"/run/chat/{ALICE}"

# The library's own, in the directory.
OWN = {".sockbroker.lock", ".sockbroker.names"}


def in_directory(
    act: Callable[[sockbroker.Directory], T],
    *,
    prepare: Callable[[], object] = lambda: None,
    mode: int = 0o700,
    gid: int = ALICE,
) -> T:
    """Run `act` as alice with her directory; `prepare` runs before that, as root."""

    def requested() -> T:
        with sockbroker.request("chat") as directory:
            return act(directory)

    def world() -> T:
        make_directory("chat", ALICE)
        os.chown(PATH, ALICE, gid)
        os.chmod(PATH, mode)
        ScriptedBroker(always(granted("chat", ALICE)))
        prepare()
        return as_user(ALICE, requested)

    return in_private_world(world)


def entries() -> set[str]:
    """Give what is in the directory, but for the library's own files."""
    return set(os.listdir(PATH)) - OWN


def mode_of(name: str) -> int:
    """Give the permission bits of a file in the directory."""
    return os.lstat(f"{PATH}/{name}").st_mode & 0o7777


def make_dead(name: str, kind: int = socket.SOCK_STREAM, *, settled: bool = True) -> None:
    """Leave a socket file as a server does that was killed, long enough ago unless told."""
    with socket.socket(socket.AF_UNIX, kind) as dead:
        dead.bind(f"{PATH}/{name}")
    if settled:
        time.sleep(0.11)


class Server:
    """A process that starts something, says that it has, and goes on until it is killed."""

    def __init__(
        self,
        start: Callable[[], T],
        go_on: Callable[[T], object] = lambda _: signal.pause(),
        *,
        uid: int | None = None,
        own_network: bool = False,
    ) -> None:
        ready, writable = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(ready)
                if own_network:
                    unshare(CLONE_NEWNET)
                if uid is not None:
                    os.setgroups([])
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                end_with_parent()
                started = start()
                os.write(writable, b".")
                go_on(started)
            except BaseException:
                traceback.print_exc(file=sys.stderr)
            finally:
                os._exit(1)
        os.close(writable)
        started = os.read(ready, 1) == b"."
        os.close(ready)
        assert started, "the process has said why it could not"

    def kill(self) -> None:
        """End it without a warning."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Running(Generic[T]):
    """A process that runs one function beside this one; `result()` waits for what it returns."""

    def __init__(self, act: Callable[[], T]) -> None:
        self._answer = os.memfd_create("answer")
        self._pid = os.fork()
        if self._pid == 0:
            try:
                end_with_parent()
                try:
                    answer = pickle.dumps((act(), None))
                except BaseException:
                    answer = pickle.dumps((None, traceback.format_exc()))
                os.write(self._answer, answer)
            finally:
                os._exit(0)

    def result(self) -> T:
        """Return what the function returned; AssertionError with the traceback if it raised."""
        os.waitpid(self._pid, 0)
        with open(self._answer, "rb") as file:
            file.seek(0)
            value, problem = pickle.load(file)  # noqa: S301  # our own child wrote it
        assert problem is None, problem
        return value  # type: ignore[no-any-return]


def bind(name: str, kind: int = socket.SOCK_STREAM, *, backlog: int | None = 8) -> socket.socket:
    """Bind as a program does that does not know the library; with a backlog, listen too."""
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind(f"{PATH}/{name}")
    if backlog is not None and kind != socket.SOCK_DGRAM:
        server.listen(backlog)
    return server
