"""When and how a peer may send, read, wait and go: nobody else suffers, and nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time

import pytest
from peers import (
    DENIED,
    REQUEST,
    Line,
    as_mallory,
    encoded,
    granted,
    operator_asks,
    refused,
    user_asks,
)
from running import ALICE, CONTROL, MALLORY, Daemon, eventually

pytestmark = pytest.mark.root


def test_pipelined_calls_are_answered_in_order(daemon: Daemon) -> None:
    """A thousand calls in one write are all answered, in their order.

    Taken out: that a conversation with more to serve is queued again by `Server._serve`; then the
    rest is not answered.
    """

    def pipeline() -> list[str]:
        with Line() as line:
            calls = [encoded("Request", {"app": f"a{number}"}) for number in range(1000)]
            sender = os.fork()
            if sender == 0:
                try:
                    line.send(b"".join(calls))
                finally:
                    os._exit(0)
            answers = [line.reply()["parameters"]["app"] for _ in calls]
            os.waitpid(sender, 0)
            return answers

    assert as_mallory(pipeline) == [f"a{number}" for number in range(1000)]


def test_byte_by_byte(daemon: Daemon) -> None:
    """Where a message is cut on its way makes no difference.

    Taken out: what `Inbox.feed` has from before; then there is no call.
    """

    def trickle() -> str:
        with Line() as line:
            for byte in REQUEST:
                line.send(bytes([byte]))
            return granted(line.reply())[0]

    assert as_mallory(trickle) == f"/run/demo/{MALLORY}"


def test_half_close(daemon: Daemon) -> None:
    """Who shuts down his sending side after his calls is answered, and then let go.

    Taken out: that `Server._ready` does not read on while a turn is waited for; then the end of
    what was sent ends the answers.
    """

    def half_close(more: int) -> int:
        with Line() as line:
            line.send(REQUEST * more)
            line.socket.shutdown(socket.SHUT_WR)
            for _ in range(more):
                granted(line.reply())
            return line.closed()

    for more in (1, 3, 50):
        assert as_mallory(lambda more=more: half_close(more)) is True


def test_oneway_calls_are_done_and_not_answered(daemon: Daemon) -> None:
    """A call with `oneway` is carried out; the next reply is that of the next call.

    Taken out: the look at `oneway` for an error; then that is taken for the next call's reply.
    """

    def oneway() -> list[object]:
        with Line() as line:
            line.send(encoded("Request", {"app": "demo"}, oneway=True))
            line.send(encoded("Request", {"app": "../x"}, oneway=True))
            return [granted(line.call("Request", app="demo"))[1]]

    assert as_mallory(oneway) == ["existing"]


def test_going_at_any_moment(daemon: Daemon) -> None:
    """Before, within and after a message, with replies unread, by a reset: all the same.

    Taken out: what catches the error of send(2) in `Server._send`; then the daemon ends.
    """

    def go() -> None:
        for length in (0, 1, 10, len(REQUEST) - 1, len(REQUEST)):
            for _ in range(50):
                with Line() as line:
                    line.send(REQUEST[:length])
                with Line() as line:
                    line.send(REQUEST * 20 + REQUEST[:length])
                with Line() as line:
                    line.send(REQUEST[:length])
                    line.socket.shutdown(socket.SHUT_RDWR)
                with Line() as line:
                    linger = struct.pack("ii", 1, 0)
                    line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    line.send(REQUEST[:length])

    as_mallory(go)
    eventually(
        "all closed", lambda: operator_asks("Status")["parameters"]["counters"]["connections"] == 1
    )


def test_who_never_reads(daemon: Daemon) -> None:
    """His replies wait for him alone, and for 10 s; another's call is answered meanwhile.

    Taken out: the deadline of `Server._send`; then he is never dropped.
    """

    def gorge() -> float:
        with Line() as line:
            line.socket.setblocking(False)
            began = time.monotonic()
            description = encoded(
                "org.varlink.service.GetInterfaceDescription", {"interface": "io.sockbroker"}
            )
            try:
                while True:
                    line.send(description * 100)
            except BlockingIOError:
                pass
            slowest = 0.0
            for _ in range(20):
                before = time.monotonic()
                with Line() as other:
                    granted(other.call("Request", app="demo"))
                slowest = max(slowest, time.monotonic() - before)
            assert slowest < 5, slowest  # it would be ten
            line.socket.settimeout(60)
            line.socket.setblocking(True)
            eventually("dropped", lambda: connections() == 0)
            return time.monotonic() - began

    def connections() -> int:
        return sum(
            line.endswith(b"@sockbroker\n") and line.split()[5] == b"03"
            for line in open("/proc/net/unix", "rb")
        )

    assert 9 < as_mallory(gorge) < 60  # type: ignore[operator]


def test_deadlines(daemon: Daemon) -> None:
    """10 s for the first byte and a message once begun, not renewed by a byte; idling is free.

    Taken out: the deadline of `_welcome` (silence lasts then), and that `_rest` arms only once for
    a message (a byte now and then renews it).
    """

    def wait() -> dict[str, float]:
        began = time.monotonic()
        silent, slow, begun, idle = (Line() for _ in range(4))
        granted(idle.call("Request", app="demo"))
        granted(begun.call("Request", app="demo"))
        time.sleep(2)
        begun.send(REQUEST[:5])
        ends: dict[str, float] = {}
        waiting = {"silent": silent, "slow": slow, "begun": begun}
        for line in waiting.values():
            line.socket.setblocking(False)
        position = 0
        while waiting and time.monotonic() < began + 60:
            if "slow" in waiting:
                try:
                    slow.send(REQUEST[position % 20 : position % 20 + 1])
                except OSError:
                    pass
                position += 1
            for name, line in list(waiting.items()):
                try:
                    if not line.socket.recv(1):
                        raise ConnectionResetError
                except BlockingIOError:
                    continue
                except ConnectionResetError:
                    ends[name] = time.monotonic() - began
                    waiting.pop(name)
            time.sleep(0.25)
        granted(idle.call("Request", app="demo"))
        for line in (silent, slow, begun, idle):
            line.socket.close()
        return ends

    ends = as_mallory(wait)
    assert isinstance(ends, dict)
    assert sorted(ends) == ["begun", "silent", "slow"]
    assert 9.5 < ends["silent"] < 20
    assert 9.5 < ends["slow"] < 20
    assert 11.5 < ends["begun"] < 22


def test_other_ways_to_be_strange(daemon: Daemon) -> None:
    """Credentials, urgent bytes, client addresses that tell a uid: only SO_PEERCRED counts.

    Taken out: that SO_PEERCRED is all that is asked (a uid in the peer's address was believed);
    then he is denied as root.
    """

    def be_strange() -> set[str]:
        paths = set()
        os.chdir("/tmp")
        for name in ("", b"\0uid=0;", "uid=0;gid=0"):
            with Line.__new__(Line) as line:
                line.socket = socket.socket(socket.AF_UNIX)
                line._received = b""
                line.socket.bind(name)
                line.socket.connect(CONTROL)
                claim = struct.pack("iII", os.getpid(), os.getuid(), os.getgid())
                credentials = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, claim)]
                line.socket.sendmsg([REQUEST[:3]], credentials)
                line.send(REQUEST[3:])
                paths.add(granted(line.reply())[0])
                try:
                    line.socket.send(b"!", socket.MSG_OOB)
                except OSError:
                    pass
        os.unlink("uid=0;gid=0")
        return paths

    assert as_mallory(be_strange) == {f"/run/demo/{MALLORY}"}


def test_the_broker_survives_what_signals_there_are(daemon: Daemon) -> None:
    """A storm of reloads and a stop of the whole process lose nothing.

    Taken out: the handler of SIGHUP; then nothing was reloaded.
    """
    for _ in range(200):
        daemon.process.send_signal(signal.SIGHUP)
    daemon.process.send_signal(signal.SIGSTOP)
    line = Line()
    line.send(REQUEST)
    time.sleep(1)
    daemon.process.send_signal(signal.SIGCONT)
    assert refused(line.reply()) == DENIED  # root is not in the range of everyone
    line.socket.close()
    generation = operator_asks("Reload")["parameters"]["policyGeneration"]
    assert generation >= 3
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
