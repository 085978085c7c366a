"""How fast requests are answered: existing directories and fresh ones, one client and many.

One client and the server share a CPU, so that what is timed is their work and not how the machine
wakes an idle CPU; many clients have another CPU than the server.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

from installed import Installed
from measuring import Effort, Run, Sample
from policies import APPS, FIRST_UID, ONE_APP, many_apps, many_directories
from programs import Programs
from references import bus, reference, userdbd, usual_server
from running import ALICE, RUN, Daemon, World, private_world

CLIENT = ALICE
CROWD = 64

SERVER_CPU = min(os.sched_getaffinity(0))
OTHER_CPU = max(os.sched_getaffinity(0))

BROKER, MANY_APPS = "sockbroker", "bench-many-apps"
REFERENCE, USUAL = "bench-reference", "bench-usual"


def _computed(pid: int) -> int:
    """Nanoseconds that its threads have had a processor."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


def call(app: str) -> str:
    """A Request as text."""
    request = {"method": "io.sockbroker.Request", "parameters": {"app": app}}
    return json.dumps(request, separators=(",", ":"))


ONE = call("demo")
DISTINCT = call("app-%m").replace(",", ",%b", 1)
UNKNOWN = '{"method":"io.systemd.UserDatabase.Nothing","parameters":{}}'
"""What systemd-userdbd answers with an error at once: the least that its Varlink costs."""


class _Existing:
    """The servers that have a directory of the client already, each started when it is wanted."""

    def __init__(self, effort: Effort, programs: Programs, world: World, stack: ExitStack) -> None:
        self._effort = effort
        self._programs = programs
        self._world = world
        self._stack = stack

    @cached_property
    def _installed(self) -> Installed:
        return Installed(self._world.own)

    @cached_property
    def _daemon(self) -> Daemon:
        log = self._world.own / "log"
        return self._stack.enter_context(self._installed.running(ONE_APP, log, cpu=SERVER_CPU))

    @property
    def broker(self) -> str:
        assert self._daemon.pid
        return BROKER

    @cached_property
    def with_many_apps(self) -> str:
        options = ("--base", "/run/many", "--control-name", MANY_APPS)
        Path("/run/many").mkdir()
        log = self._world.own / "many-apps"
        running = self._installed.running(many_apps(), log, *options, cpu=SERVER_CPU)
        self._stack.enter_context(running)
        return MANY_APPS

    @cached_property
    def _folder(self) -> Path:
        folder = self._world.own / "existing"
        folder.mkdir()
        own = folder / str(CLIENT)
        own.mkdir(mode=0o700)
        os.chown(own, CLIENT, CLIENT)
        return folder

    @cached_property
    def reference(self) -> str:
        self._stack.enter_context(
            reference(self._programs, REFERENCE, "existing", self._folder, SERVER_CPU)
        )
        return REFERENCE

    @cached_property
    def _usual(self) -> int:
        return self._stack.enter_context(usual_server(USUAL, self._folder, SERVER_CPU))

    @cached_property
    def userdbd(self) -> str:
        return self._stack.enter_context(userdbd(SERVER_CPU))

    @cached_property
    def bus(self) -> str:
        return self._stack.enter_context(bus(self._world.own, SERVER_CPU))

    def load(self, address: str, how: str, text: str, *more: object, crowd: int = 1) -> Sample:
        cpu = SERVER_CPU if crowd == 1 else OTHER_CPU
        requests = self._effort.requests * (2 if crowd > 1 else 1)
        options = ("-c", cpu, "-u", CLIENT, *more)
        (sample,) = self._programs.figures("load", *options, address, crowd, requests, how, text)
        return sample

    def ask_bus(self, how: str) -> Sample:
        path = self.bus
        options = ("-c", SERVER_CPU, "-u", CLIENT)
        requests = self._effort.requests // 2
        (sample,) = self._programs.figures("bus", *options, path, requests, how)
        return sample

    def computed(self, pid: int, address: str) -> Sample:
        """How long the server computes for a request."""
        before = _computed(pid)
        sample = self.load(address, "each", ONE)
        asked = sample["number"] * 1.1  # with those that do not count
        return {"each": (_computed(pid) - before) / 1000 / asked}

    def runs(self) -> dict[str, Run]:
        runs: dict[str, Run] = {}
        for how in ("each", "kept"):

            def ours(how: str = how) -> Sample:
                return self.load(self.broker, how, ONE)

            def theirs(how: str = how) -> Sample:
                return self.load(self.reference, how, ONE)

            def distinct(how: str = how) -> Sample:
                return self.load(self.with_many_apps, how, DISTINCT, "-m", APPS)

            def of_userdbd(how: str = how) -> Sample:
                return self.load(self.userdbd, how, UNKNOWN, "-e")

            def of_bus(how: str = how) -> Sample:
                return self.ask_bus(how)

            runs |= {
                f"ours {how}": ours,
                f"C {how}": theirs,
                f"distinct {how}": distinct,
                f"userdbd {how}": of_userdbd,
                f"bus {how}": of_bus,
            }
        runs["ours crowd"] = lambda: self.load(self.broker, "each", ONE, crowd=CROWD)
        runs["C crowd"] = lambda: self.load(self.reference, "each", ONE, crowd=CROWD)
        runs["ours computing"] = lambda: self.computed(self._daemon.pid, BROKER)
        runs["asyncio computing"] = lambda: self.computed(self._usual, USUAL)
        return runs


@contextmanager
def existing(effort: Effort, programs: Programs) -> Iterator[dict[str, Run]]:
    """Directories that are there already."""
    with private_world() as world, ExitStack() as stack:
        yield _Existing(effort, programs, world, stack).runs()


@contextmanager
def fresh(effort: Effort, programs: Programs) -> Iterator[dict[str, Run]]:
    """Directories that are not there yet: every connection is another user's."""
    most = effort.requests * 2
    requests = {1: effort.requests // 2, CROWD: effort.requests}
    with private_world() as world, ExitStack() as stack:
        log = world.own / "log"
        installed = Installed(world.own)
        stack.enter_context(installed.running(many_directories(most), log, cpu=SERVER_CPU))
        theirs = RUN / "reference"
        stack.enter_context(reference(programs, REFERENCE, "fresh", theirs, SERVER_CPU))

        def load(name: str, folder: Path, crowd: int) -> Sample:
            _empty(folder)
            cpu = SERVER_CPU if crowd == 1 else OTHER_CPU
            options = ("-c", cpu, "-u", f"{FIRST_UID}:{most}")
            arguments = (name, crowd, requests[crowd], "each", ONE)
            (sample,) = programs.figures("load", *options, *arguments)
            _empty(folder)
            return sample

        yield {
            "ours one": lambda: load(BROKER, RUN / "demo", 1),
            "C one": lambda: load(REFERENCE, theirs, 1),
            "ours crowd": lambda: load(BROKER, RUN / "demo", CROWD),
            "C crowd": lambda: load(REFERENCE, theirs, CROWD),
        }


def _empty(folder: Path) -> None:
    """Remove all directories of users, as nobody but root could: the disk is the record."""
    for entry in folder.iterdir():
        if entry.name.isdecimal():
            entry.rmdir()
