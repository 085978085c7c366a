"""How long a start takes: with a small policy, with many directories, and reading a large policy.

A start ends when the broker says READY=1; that it reads its policy is seen from outside, by when it
opens the file.  The interpreter's start, and what the daemon imports before that, are not part of
what is compared with systemd-tmpfiles, except where it says so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import policies
from installed import Installed
from measuring import Effort, NotMeasured, Run, Sample, middle
from programs import Programs
from running import RUN, World, private_world

MANY, VERY_MANY = 10_000, 100_000
ENTRIES = 10_000
STARTS = 5
"""Of what takes milliseconds, in each round."""

READING = """\
import gc, json, sys, time
import yaml
from sockbroker.core.policy_reader import read_policy
which, file = sys.argv[1:]
text = open(file, "rb").read()
before = time.perf_counter()
if which == "ours":
    read_policy(text, file)
else:
    yaml.load(text, yaml.CSafeLoader)
print(json.dumps({"whole": 1e6 * (time.perf_counter() - before)}))
"""
"""In a process of its own each: the memory that one leaves behind is not the other's to search."""


Offered = AbstractContextManager[dict[str, Run]]


class _Starts:
    """What starts in a world of its own."""

    def __init__(self, programs: Programs, world: World) -> None:
        self._programs = programs
        self._world = world
        self._installed = Installed(world.own)
        self._policy = world.own / "starting.yaml"

    def once(self, policy: str) -> Sample:
        """Start the daemon and end it; its times in microseconds, and its memory in KiB."""
        self._policy.write_text(policy)
        options = ("-r", "-f", self._policy)
        command = (self._installed.daemon, "--policy", self._policy)
        (sample,), log = self._programs.figures_and_errors("launch", *options, *command)
        lines = map(json.loads, log.splitlines())
        (seconds,) = [line["seconds"] for line in lines if line["event"] == "set up"]
        return sample | {"loop": 1e6 * seconds}

    def small(self) -> Sample:
        """The middle one of some starts with a small policy."""
        return middle([self.once(policies.ONE_APP) for _ in range(STARTS)])

    def python(self) -> Sample:
        """The interpreter alone."""
        command = (sys.executable, "-I", "-c", "pass")
        return middle(self._programs.figures("launch", "-n", STARTS, *command))

    def directories(self, policy: str, number: int) -> Sample:
        """Two starts: the first makes all directories, and the second finds them."""
        remove(RUN / "demo")
        first, again = self.once(policy), self.once(policy)
        made = sum(1 for _ in (RUN / "demo").iterdir()) - 1
        if made != number:
            raise NotMeasured(f"{made} directories are there and not {number}")
        remove(RUN / "demo")
        sample: Sample = {}
        for which, one in (("first", first), ("again", again)):
            sample |= {f"{which} {name}": value for name, value in one.items()}
            sample[f"{which} each"] = one["since"] / number
            sample[f"{which} memory"] = one["peak"] / number
        return sample

    def grouped(self, number: int) -> Sample:
        """The same for the members of a group, who are in the user database meanwhile."""
        people, group = policies.accounts_of(number)
        with added(self._world.own / "passwd", people), added(self._world.own / "group", group):
            return self.directories(policies.as_group(number), number)

    def tmpfiles(self, number: int) -> Sample:
        """What systemd-tmpfiles takes for the same."""
        if shutil.which("systemd-tmpfiles") is None:
            raise NotMeasured("systemd-tmpfiles is not installed: the package systemd")
        remove(RUN / "tmpfiles")
        file = self._world.own / "bench.conf"
        file.write_text(policies.tmpfiles(number))
        command = ("-n", 2, "systemd-tmpfiles", "--create", file)
        first, again = self._programs.figures("launch", *command)
        remove(RUN / "tmpfiles")
        return {"first whole": first["whole"], "again whole": again["whole"]}

    def in_c(self, number: int) -> Sample:
        """What the same directories take in C, without a start, a policy or a look at the rest."""
        folder = RUN / "layout"
        remove(folder)
        folder.mkdir(mode=0o711)
        arguments = (folder, policies.FIRST_UID, number, policies.GROUP)
        first, again = (self._programs.figures("layout", *arguments)[0] for _ in range(2))
        remove(folder)
        return {"first whole": first["whole"], "again whole": again["whole"]}

    def reading(self, which: str) -> Sample:
        """Read a large policy, as the broker does or with yaml alone."""
        file = self._world.own / "large.yaml"
        if not file.exists():
            file.write_text(policies.entries(ENTRIES))
        command = [sys.executable, "-I", "-c", READING, which, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))


def remove(folder: Path) -> None:
    """Have nothing there."""
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def added(file: Path, text: str) -> Iterator[None]:
    """While entered, the file has these lines too."""
    before = file.read_text()
    file.write_text(before + text)
    try:
        yield
    finally:
        file.write_text(before)


@contextmanager
def _started(
    programs: Programs, runs: Callable[[_Starts], dict[str, Run]]
) -> Iterator[dict[str, Run]]:
    with private_world() as world:
        yield runs(_Starts(programs, world))


def start(_effort: Effort, programs: Programs) -> Offered:
    """A start with a small policy."""
    return _started(programs, lambda it: {"ours": it.small, "python": it.python})


def restore(_effort: Effort, programs: Programs) -> Offered:
    """Starts that make or find many directories."""
    lists = policies.one_by_one(MANY)
    ranges, larger = policies.as_range(MANY), policies.as_range(VERY_MANY)
    larger_lists = policies.one_by_one(VERY_MANY)
    return _started(
        programs,
        lambda it: {
            "one by one": lambda: it.directories(lists, MANY),
            "tmpfiles": lambda: it.tmpfiles(MANY),
            "range": lambda: it.directories(ranges, MANY),
            "group": lambda: it.grouped(MANY),
            "C": lambda: it.in_c(MANY),
            "large range": lambda: it.directories(larger, VERY_MANY),
            "large one by one": lambda: it.directories(larger_lists, VERY_MANY),
        },
    )


def reading(_effort: Effort, programs: Programs) -> Offered:
    """Reading a policy of many entries."""
    return _started(
        programs,
        lambda it: {"ours": lambda: it.reading("ours"), "yaml": lambda: it.reading("yaml")},
    )
