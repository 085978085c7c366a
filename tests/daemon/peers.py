"""Peers of the broker: processes of real users, and calls as bytes on a socket.

A client that was written for these tests alone, so that it can also do what no client should.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from running import CONTROL, MALLORY, OPERATOR, PATIENCE

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
PR_SET_DUMPABLE = 4

DENIED = "io.sockbroker.Denied"
INVALID_APP = "io.sockbroker.InvalidApp"
NO_SUCH_DIRECTORY = "io.sockbroker.NoSuchDirectory"
OBSTRUCTED = "io.sockbroker.Obstructed"
IN_USE = "io.sockbroker.InUse"
LIMIT_REACHED = "io.sockbroker.LimitReached"
PERMISSION_DENIED = "org.varlink.service.PermissionDenied"
INVALID_PARAMETER = "org.varlink.service.InvalidParameter"

Reply = dict[str, Any]


class Peer(Generic[T]):
    """A process of some user that runs one function; `result()` returns what that returned."""

    running: ClassVar[set[Peer[Any]]] = set()

    def __init__(
        self,
        uid: int,
        act: Callable[[], T],
        *,
        gid: int | None = None,
        groups: Sequence[int] = (),
        umask: int = 0o022,
        seconds: float = 5 * PATIENCE,
    ) -> None:
        self._answer = open(os.memfd_create("result"), "w+b", buffering=0)  # noqa: SIM115
        self.pid = os.fork()
        if self.pid:
            self.running.add(self)
            return
        try:
            try:
                signal.alarm(int(seconds))  # never left behind, whatever the test does
                os.umask(umask)
                os.setgroups(groups)
                gid = uid if gid is None else gid
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
                answer = pickle.dumps((act(), None))
            except BaseException:
                answer = pickle.dumps((None, traceback.format_exc()))
            self._answer.write(answer)
        finally:
            os._exit(0)  # nothing of the parent's is cleaned up: its files, its pytest

    def result(self) -> T:
        """Wait for the end; AssertionError with the traceback if the function raised."""
        self.running.discard(self)
        with self._answer as file:
            _, status = os.waitpid(self.pid, 0)
            file.seek(0)
            answer = file.read()
        assert answer, f"the peer ended with wait status {status}"
        value, problem = pickle.loads(answer)  # noqa: S301 - written by our own child
        assert problem is None, problem
        return value  # type: ignore[no-any-return]

    def end(self) -> None:
        """Kill it."""
        self.running.discard(self)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._answer.close()


SUBORDINATE = 100_000


def in_user_namespace(uid: int, act: Callable[[], T], *, subordinate: int = 0, **how: Any) -> T:
    """Run `act` as that user and as root of a user namespace of his own, all groups dropped.

    The maps are written by root, as newuidmap and newgidmap do it for him; with so many
    subordinate uids, which are 1 and so on in there, and SUBORDINATE and so on outside.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def enter() -> T:
            _libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self is root's
            if _libc.unshare(CLONE_NEWUSER):
                raise OSError(ctypes.get_errno(), "unshare")
            theirs.send(b".")
            theirs.recv(1)
            os.setgroups([])
            assert (os.getuid(), os.getgroups()) == (0, [])
            return act()

        peer = Peer(uid, enter, **how)
        theirs.close()
        if not ours.recv(1):
            return peer.result()  # which raises: it could not enter
        for name, number in (("uid_map", uid), ("gid_map", how.get("gid") or uid)):
            with open(f"/proc/{peer.pid}/{name}", "w") as file:
                more = f"1 {SUBORDINATE} {subordinate}\n" if subordinate else ""
                file.write(f"0 {number} 1\n{more}")
        ours.send(b".")
        return peer.result()


@contextmanager
def staying(uid: int, prepare: Callable[[], object]) -> Iterator[None]:
    """While entered, a process of that user keeps alive what `prepare` returned."""
    ours, theirs = socket.socketpair()

    def stay() -> None:
        ours.close()
        kept = prepare()
        theirs.send(b".")
        theirs.recv(1)
        del kept

    with ours:
        with theirs:
            peer = Peer(uid, stay)
        if ours.recv(1) != b".":
            peer.result()  # raises what prevented it
        yield
        ours.send(b".")
        peer.result()


def enter_user_namespace(*more: int) -> None:
    """Become root of a user namespace of one's own, and enter other new ones, as anybody may."""
    lines = {"setgroups": "deny", "uid_map": f"0 {os.getuid()} 1", "gid_map": f"0 {os.getgid()} 1"}
    _libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self is root's
    if _libc.unshare(CLONE_NEWUSER | sum(more)):
        raise OSError(ctypes.get_errno(), "unshare")
    for name, line in lines.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def as_user(uid: int, act: Callable[[], T], **how: Any) -> T:
    """Run `act` in a process of that user, with the gid of the same number and no other group."""
    return Peer(uid, act, **how).result()


def as_mallory(act: Callable[[], T]) -> T:
    """Run `act` as the user who means harm."""
    return as_user(MALLORY, act)


def user_asks(user: int, method: str, /, **parameters: object) -> Reply:
    """One call on the abstract socket, by a process of that user; the only reply to it."""
    return as_user(user, lambda: ask(method, **parameters))


def answers() -> bool:
    """Whether somebody answers at the control socket, which is after all is set up."""
    try:
        with Line() as line:
            line.call("org.varlink.service.GetInfo")
    except ConnectionRefusedError:
        return False
    return True


def operator_asks(method: str, /, **parameters: object) -> Reply:
    """One call on the operator socket."""
    return ask(method, at=OPERATOR, **parameters)


def ask(method: str, /, *, at: str | bytes = CONTROL, **parameters: object) -> Reply:
    """One call by this process; the only reply to it."""
    with Line(at) as line:
        return line.call(method, **parameters)


def ask_all(method: str, /, *, at: str | bytes = CONTROL, **parameters: object) -> list[Reply]:
    """One call with `more` by this process; all replies to it."""
    with Line(at) as line:
        line.send(encoded(method, parameters, more=True))
        replies = [line.reply()]
        while replies[-1].get("continues"):
            replies.append(line.reply())
        return replies


def connect_as(uid: int, control_name: str, base: Path) -> Line:
    """Connect this process as a user to the daemon of a base; as root, to its operator socket.

    The kernel takes down who calls connect(2), as whom it is effective.
    """
    at = b"\0" + control_name.encode() if uid else str(base / "sockbroker/operator")
    os.setresgid(-1, uid, -1)
    os.setresuid(-1, uid, -1)
    try:
        return Line(at)
    finally:
        os.setresuid(-1, 0, -1)
        os.setresgid(-1, 0, -1)


def listed(replies: Iterable[Reply]) -> list[dict[str, Any]]:
    """The directories of the replies to a List that worked."""
    return [reply["parameters"]["directory"] for reply in replies]


def encoded(method: str, parameters: dict[str, object], **flags: bool) -> bytes:
    """The bytes of a call, with the NUL; a method without an interface is io.sockbroker's."""
    name = method if "." in method else f"io.sockbroker.{method}"
    return json.dumps({"method": name, "parameters": parameters, **flags}).encode() + b"\0"


REQUEST = encoded("Request", {"app": "demo"})


class Line:
    """A connection to the broker."""

    def __init__(self, at: str | bytes = CONTROL) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self._received = b""
        try:
            # Blocking, so that the kernel queues us where the backlog is full, but not for ever.
            patience = struct.pack("ll", int(PATIENCE), 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
            self.socket.connect(at)
            self.socket.settimeout(PATIENCE)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def call(self, method: str, **parameters: object) -> Reply:
        """Make one call and return its reply."""
        self.send(encoded(method, parameters))
        return self.reply()

    def message(self) -> bytes:
        """The next message as it came, less its NUL; EOFError if there is none any more."""
        while b"\0" not in self._received:
            try:
                chunk = self.socket.recv(65536)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                raise EOFError(f"closed after {self._received!r}")
            self._received += chunk
        message, _, self._received = self._received.partition(b"\0")
        return message

    def reply(self) -> Reply:
        """The next reply."""
        return json.loads(self.message())  # type: ignore[no-any-return]

    def closed(self) -> bool:
        """Wait for what comes next; whether it is the end of the connection."""
        try:
            self.message()
        except EOFError:
            return True
        return False


def granted(reply: Reply) -> tuple[str, str]:
    """Path and outcome of a Request that worked."""
    assert "error" not in reply, reply
    parameters = reply["parameters"]
    return parameters["path"], parameters["outcome"]


def refused(reply: Reply) -> str:
    """The error of a call that did not work."""
    assert "error" in reply, reply
    return str(reply["error"])
