"""What one uid does to keep the broker from others: the floods of the tests and of the bench."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable

from peers import REQUEST, Line, ask, encoded
from running import CONTROL

FLOODERS = 4
"""Processes that flood in one way."""

SECONDS = 4.0
"""For which the others ask."""

# One way, by several processes: each makes a step, which is done again and again.


def connected(*, wait: bool = False) -> socket.socket:
    """Connect, and do not wait where the queue is full."""
    each = socket.socket(socket.AF_UNIX)
    each.setblocking(wait)
    each.connect(CONTROL)
    each.setblocking(False)
    return each


def connections() -> Callable[[], None]:
    """As many as can be, silent, and again when they are dropped."""
    kept: list[socket.socket] = []

    def step() -> None:
        kept.append(connected())
        if len(kept) > 900:
            del kept[:300]

    return step


def comings_and_goings() -> Callable[[], None]:
    """Connections that are gone before they are accepted."""
    return lambda: connected().close()


def waiting_connections() -> Callable[[], None]:
    """Connections made as fast as there is room for them, by processes that wait for it."""
    return lambda: connected(wait=True).close()


def requests() -> Callable[[], None]:
    """A request on a connection of its own, each."""

    def step() -> None:
        with connected() as each:
            each.send(REQUEST)

    return step


def pipelines() -> Callable[[], None]:
    """Requests without end on a few connections, the replies to which are read."""
    lines = [connected(wait=True) for _ in range(20)]

    def step() -> None:
        for line in lines:
            try:
                line.send(REQUEST * 100)
            except BlockingIOError:
                pass
            line.recv(1 << 17)

    return step


def never_reading() -> Callable[[], None]:
    """Requests whose replies nobody takes."""
    return on_all(200, REQUEST * 100)


def slow_bytes() -> Callable[[], None]:
    """Messages that never end, a byte at a time."""
    return on_all(500, b" ")


def on_all(most: int, data: bytes) -> Callable[[], None]:
    """The same again and again on each of ever more connections, as long as it lasts."""
    lines: list[socket.socket] = []

    def step() -> None:
        if len(lines) < most:
            lines.append(connected())
        for line in list(lines):
            try:
                line.send(data)
            except BlockingIOError:
                pass
            except OSError:
                lines.remove(line)

    return step


def large_messages() -> Callable[[], None]:
    """Messages as large as they may be, with nothing in them."""
    message = b'{"method":"' + b"x" * 16_000 + b'"}\0'

    def step() -> None:
        with connected() as each:
            each.send(message)

    return step


FLOODS = [
    connections,
    comings_and_goings,
    waiting_connections,
    requests,
    pipelines,
    never_reading,
    slow_bytes,
    large_messages,
]


def flood(kind: Callable[[], Callable[[], None]]) -> int:
    """Flood for the time; return how many steps were done."""
    step, number = kind(), 0
    end = time.monotonic() + SECONDS + 2
    while time.monotonic() < end:
        try:
            step()
        except OSError:  # the queue is full, or the broker has closed it
            continue
        number += 1
    return number


# All ways at once: a process for each.


def enough() -> None:
    """As the daemon has it as a service."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))


def flooding(act: Callable[[], None]) -> Callable[[], None]:
    """`act` again and again for some time, whatever comes of it."""

    def flood() -> None:
        enough()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            try:
                act()
            except (OSError, EOFError):
                pass

    return flood


held: list[Line] = []


def connect() -> None:
    """More connections, which say nothing, or come and go."""
    held.append(Line())
    if len(held) > 3000:
        for line in held:
            line.socket.close()
        held.clear()


def send_bytes() -> None:
    """Bytes that are no message, without end."""
    with Line() as line:
        while True:
            line.send(b"x" * 65536)


def send_slowly() -> None:
    """Many messages that never end, a byte at a time."""
    if len(held) < 500:
        held.append(Line())
    for line in held:
        line.send(b"{" if len(held) % 2 else b" ")
    time.sleep(0.01)


def never_read() -> None:
    """Long answers that nobody takes."""
    line = Line()
    held.append(line)
    line.socket.setblocking(False)
    call = encoded("org.varlink.service.GetInterfaceDescription", {"interface": "io.sockbroker"})
    while True:
        line.send(call * 50)


def request() -> None:
    """Calls as fast as they go, for what there is and what there is not."""
    with Line() as line:
        for _ in range(100):
            line.send(REQUEST + encoded("Request", {"app": "nobody"}) * 3)
            for _ in range(4):
                line.message()


def make_and_delete() -> None:
    """What costs the most to do."""
    ask("Request", app="demo")
    ask("Release", app="demo", force=True)


EVERY_WAY = [connect, send_bytes, send_slowly, never_read, request, make_and_delete]
