"""The promises in time, judged exactly: how long others wait, whatever one uid does.

The tests assert the same with ten times the slack.  Who is timed here has precedence over the
processes that disturb, so that what is timed is the broker, and not how long a client waits for a
processor; the broker itself has what it always has.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import scenes
from floods import FLOODS, SECONDS
from installed import Installed
from measuring import NotMeasured, Sample
from peers import Peer, user_asks
from policies import ONE_APP
from programs import Programs
from refusing import OLDER_KERNEL
from running import ALICE, BOB, OPERATOR, private_world
from scenes import Scene
from serving import BROKER, ONE
from trees import TREES

MICROSECONDS_BETWEEN = 2000
"""Between two questions: nobody is to wait for the one who asks either."""

MOST_QUESTIONS = 100_000

TIMES = 3
"""That each scene is played."""

STATUS = '{"method":"io.sockbroker.Status","parameters":{}}'
ANOTHER, KEPT, ROOT = "another uid", "another uid, kept connection", "root"

MILLISECOND = 1000.0
"""Limits are in microseconds, as the load client has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """How long 99 of 100 answers may take, and how long all."""

    name: str
    what: str
    who: str
    p99: float | None
    most: float | None
    scene: Scene
    under: Sequence[str] = ()


def _flood(name: str, what: str, scene: Scene) -> list[Promise]:
    return [
        Promise(
            name=f"flood-{name}-{short}",
            what=what,
            who=who,
            p99=50 * MILLISECOND,
            most=most,
            scene=scene,
        )
        for short, who, most in (
            ("others", ANOTHER, 1000 * MILLISECOND),
            ("kept", KEPT, 1000 * MILLISECOND),
            ("root", ROOT, None),
        )
    ]


def _descriptors(name: str, what: str, scene: Scene, *, older: bool) -> Promise:
    return Promise(
        name=f"descriptors-{name}",
        what=f"{what}, {'older kernel' if older else 'refused at the sender'}",
        who=ANOTHER,
        p99=10 * MILLISECOND,
        most=None,
        scene=scene,
        under=OLDER_KERNEL if older else (),
    )


def _owner(name: str, what: str, scene: Scene) -> Promise:
    return Promise(
        name=f"owner-{name}",
        what=what,
        who=ANOTHER,
        p99=None,
        most=50 * MILLISECOND,
        scene=scene,
    )


PROMISES: tuple[Promise, ...] = (
    *(
        promise
        for kind in FLOODS
        for promise in _flood(
            kind.__name__.replace("_", "-"),
            f"flood: {kind.__name__.replace('_', ' ')}",
            scenes.flood(kind),
        )
    ),
    *_flood("all", "flood: in every way at once", scenes.every_flood),
    _descriptors("many", "253 descriptors a message", scenes.many_descriptors, older=False),
    _descriptors("many-older", "253 descriptors a message", scenes.many_descriptors, older=True),
    _descriptors("lingering", "sockets that linger", scenes.lingering_sockets, older=False),
    _descriptors("lingering-older", "sockets that linger", scenes.lingering_sockets, older=True),
    _descriptors("unclosed-older", "files never closed", scenes.unclosed_files, older=True),
    *(
        _owner(make.__name__, f"owner releases a {make.__name__} tree", scenes.tree(make))
        for make in TREES
    ),
    _owner("file-server", "a silent file server on a directory", scenes.file_server),
    _owner("changes", "owner changes modes in a loop", scenes.changes),
)


class Waiting:
    """Times those who wait; a scene is not played again for another of them."""

    def __init__(self, programs: Programs, times: int = TIMES) -> None:
        self._programs = programs
        self._times = times
        self._found: dict[tuple[Scene, bool], list[dict[str, Sample]]] = {}

    def of(self, promise: Promise) -> Sample:
        """How long they waited, as the middle one of the plays has it; the longest of all."""
        key = promise.scene, bool(promise.under)
        if key not in self._found:
            self._found[key] = [self._play(promise) for _ in range(self._times)]
        plays = [play[promise.who] for play in self._found[key]]
        return {
            "number": sum(play["number"] for play in plays),
            "p50": statistics.median(play["p50"] for play in plays),
            "p99": statistics.median(play["p99"] for play in plays),
            "most": max(play["most"] for play in plays),
        }

    def _play(self, promise: Promise) -> dict[str, Sample]:
        with private_world() as world, ExitStack() as stack:
            stack.callback(_end_peers)
            installed = Installed(world.own)
            log = world.own / "log"
            stack.enter_context(installed.running(ONE_APP, log, under=promise.under))
            for uid in (ALICE, BOB):
                user_asks(uid, "Request", app="demo")
            finish = promise.scene(world)
            asking = {
                ANOTHER: self._ask("-u", ALICE, BROKER, how="each", text=ONE),
                KEPT: self._ask("-u", BOB, BROKER, how="kept", text=ONE),
                ROOT: self._ask(OPERATOR, how="each", text=STATUS),
            }
            try:
                finish()
            finally:
                said = {who: process.communicate()[0] for who, process in asking.items()}
            return {who: _sample(who, text) for who, text in said.items()}

    def _ask(self, *where: object, how: str, text: str) -> subprocess.Popen[str]:
        options = ("-t", SECONDS, "-p", MICROSECONDS_BETWEEN, *where, 1, MOST_QUESTIONS, how)
        command = ["nice", "-n", "-20", self._programs.path("load"), *map(str, options), text]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _sample(who: str, text: str) -> Sample:
    try:
        sample: Sample = json.loads(text)
    except ValueError:
        raise NotMeasured(f"{who} was not served") from None
    if sample["failed"]:
        raise NotMeasured(f"{sample['failed']} questions of {who} had no answer")
    return sample


def _end_peers() -> None:
    for peer in list(Peer.running):
        peer.end()
