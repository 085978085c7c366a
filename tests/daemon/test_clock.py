"""The clock of the machine jumps by ten years, there and back: nobody is late for that, or let in.

No namespace has a time of day of its own, so the daemon alone is told another one (libfaketime);
the monotonic clock goes on as it is, as it does when somebody sets the time.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from peers import REQUEST, Line, granted, refused, user_asks
from running import ALICE, BOB, MALLORY, MS_BIND, RUN, World, mount

pytestmark = pytest.mark.root

POLICY = f"apps: {{demo: {{allow: {{users: [0, {ALICE}, {BOB}]}}, mode: '0700'}}}}"

SECONDS_FOR_A_MESSAGE = 10.0

JUMPS = ("+3650d", "-3650d", "+0d")


def preloaded() -> str:
    """The library, wherever this machine's architecture has it."""
    (found,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return str(found)


def test_the_clock_jumps(world: World) -> None:
    """Deadlines and limits hold by the time that passes, whatever the time is said to be.

    Seen to fail with the deadlines by time.time(), and with the limit of log lines by it.
    """
    # The daemon clears its environment, so the library looks for what it is to say in /etc.
    etc = world.own / "etc"
    subprocess.run(["cp", "-a", "/etc", etc], check=True)
    mount(str(etc), Path("/etc"), flags=MS_BIND)
    clock = Path("/etc/faketimerc")
    clock.write_text("+0d")
    daemon = world.start(
        POLICY,
        environment={
            "LD_PRELOAD": preloaded(),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        },
    )
    for number in range(100):
        user_asks(MALLORY, "Request", app=f"a{number}")
    told = len(daemon.log("denied"))
    assert told < 100
    with ExitStack() as stack:
        kept, half, silent = (stack.enter_context(Line()) for _ in range(3))
        kept.send(REQUEST)
        granted(kept.reply())
        half.send(REQUEST[:20])
        began = time.monotonic()
        for year, jump in enumerate(JUMPS):
            clock.write_text(jump)
            uid = ALICE if year % 2 else BOB
            assert granted(user_asks(uid, "Request", app="demo"))[1] in {"created", "existing"}
            (RUN / f"demo/{uid}").chmod(0o755)
            assert granted(user_asks(uid, "Request", app="demo"))[1] == "repaired"
            refused(user_asks(MALLORY, "Request", app="demo"))
            kept.send(REQUEST)
            assert granted(kept.reply())[1] == "existing"
        assert time.monotonic() - began < SECONDS_FOR_A_MESSAGE
        half.send(REQUEST[20:])  # still in time
        granted(half.reply())
        assert silent.closed()
        assert time.monotonic() - began > SECONDS_FOR_A_MESSAGE - 1
        kept.send(REQUEST)
        granted(kept.reply())
    years = {int(line["time"][:4]) for line in daemon.log("repaired")}
    assert max(years) - min(years) in {19, 20}  # it did see the jumps
    assert len(daemon.log("denied")) == told
    assert daemon.log("fault") == []
    daemon.end()
