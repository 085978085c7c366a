"""One user who floods the broker in every way at once: the others are served as ever.

Promised: what one uid does cannot delay another uid's request by more than a second, nor 99 of 100
of root's on the operator socket by more than 50 ms.  Asserted with ten times that, because the
floods, those who are timed and this process share two processors with the daemon.  Said at each
test: what was taken out of the program to see it fail.
"""

from __future__ import annotations

import os
import time

import pytest
from asking import Asking, usual
from floods import EVERY_WAY, enough, flooding
from peers import (
    DENIED,
    REQUEST,
    Line,
    Peer,
    granted,
    in_user_namespace,
    operator_asks,
    refused,
    user_asks,
)
from running import ALICE, BOB, MALLORY, World, eventually

pytestmark = pytest.mark.root

POLICY = "apps: {demo: {allow: {everyone: true}}, nobody: {}}"
PROMISED, PROMISED_TO_ROOT = 1.0, 0.05
SLACK = 10


def test_every_flood_at_once(world: World) -> None:
    """Connections, bytes, slow bytes, answers not taken, calls: another waits for none of them.

    Taken out: MSG_DONTWAIT of `Server._send`; then who does not read stops them all.
    """
    daemon = world.start(POLICY, before=enough)
    user_asks(BOB, "Request", app="demo")
    descriptors, resident = daemon.descriptors(), daemon.resident()
    asking = Asking(ALICE)
    operator = Asking(0, lambda: operator_asks("Status"))
    floods = [Peer(MALLORY, flooding(act)) for act in EVERY_WAY]
    for each in floods:
        each.result()
    waits, of_operator = asking.stop(), operator.stop()
    assert len(waits) > 3
    assert max(waits) < PROMISED * SLACK
    assert usual(of_operator) < PROMISED_TO_ROOT * SLACK
    counters = operator_asks("Status")["parameters"]["counters"]
    assert counters["connectionsAccepted"] > 100 * len(EVERY_WAY)
    eventually("closed", lambda: daemon.descriptors() <= descriptors)
    assert daemon.resident() - resident < 80 * 1024  # 4,096 connections, and a share of bytes
    assert daemon.log("fault") == []
    assert len(daemon.log()) < 500  # nor does he fill the log
    assert granted(user_asks(BOB, "Request", app="demo"))[1] == "existing"
    daemon.end()


def test_a_crowd_of_uids(world: World) -> None:
    """A user with thousands of uids keeps a connection of each: nobody is put out or kept waiting.

    Taken out: that places which run out are taken from the uid with most, the longest idle first
    (the newest was turned away); then alice is not served.
    """
    daemon = world.start(POLICY, before=enough)
    user_asks(BOB, "Request", app="demo")
    asking = Asking(ALICE)

    def crowd() -> int:
        enough()
        lines = []
        for uid in range(1, 5001):
            os.setresuid(-1, uid, -1)
            lines.append(Line())
            lines[-1].send(REQUEST)
            os.setresuid(-1, 0, -1)
        time.sleep(1)
        denied = 0
        for line in lines:
            try:
                denied += refused(line.reply()) == DENIED
            except (OSError, EOFError):
                pass
        return denied

    assert in_user_namespace(MALLORY, crowd, subordinate=5000) > 4000
    waits = asking.stop()
    assert max(waits) < PROMISED * SLACK
    before = time.monotonic()
    counters = operator_asks("Status")["parameters"]["counters"]
    assert time.monotonic() - before < PROMISED_TO_ROOT * SLACK
    assert counters["connectionsAccepted"] >= 5000
    daemon.end()
