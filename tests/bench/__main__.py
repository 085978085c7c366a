"""The bench: measures the broker as it ships against other programs, in turns.

It prints a table of the goals and one of the promises in time.  Absolute times mean nothing on a
machine that others use as well, so a goal is a ratio of two things measured in the same round; only
where a figure is no time, some have no reference: the memory of a connection, and wake-ups.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parent.parent))
sys.path.insert(1, str(Path(__file__).parent.parent / "daemon"))  # how its tests start a daemon

import commands
import memory
import serving
import starting
from goals import GOALS, Goal
from measuring import Effort, NotMeasured, Run, Sample, Series, in_turns, reasons
from programs import Programs
from promises import PROMISES, TIMES, Promise, Waiting
from report import Line, all_well, goals_as_text, judged, kept, promises_as_text

FAMILIES: dict[str, Callable[[Effort, Programs], AbstractContextManager[dict[str, Run]]]] = {
    "existing": serving.existing,
    "fresh": serving.fresh,
    "restore": starting.restore,
    "reading": starting.reading,
    "command": commands.command,
    "start": starting.start,
    "idle": memory.idle,
    "asleep": memory.asleep,
    "listing": commands.listing,
}

ONCE = {"asleep"}
"""A minute in which nothing happens is no shorter the second time."""


def main() -> int:
    """Measure what was asked for; returns 1 if any of it was not good enough, or not measured."""
    arguments = read_arguments()
    goals = [goal for goal in GOALS if chosen(goal.name, arguments.names)]
    promises = [promise for promise in PROMISES if chosen(promise.name, arguments.names)]
    if arguments.list or not (goals or promises):
        print("\n".join([goal.name for goal in GOALS] + [each.name for each in PROMISES]))
        return 0 if arguments.list else 2
    effort = Effort(arguments.rounds, arguments.requests)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the clients are run as users
        programs = Programs(Path(folder))
        goal_lines = measure(goals, effort, programs)
        promise_lines = time_those_who_wait(promises, programs, min(effort.rounds, TIMES))
    conditions = {
        "kernel": platform.release(),
        "processors": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "rounds": effort.rounds,
        "requests": effort.requests,
        "seconds": round(time.monotonic() - began),
    }
    tell("")
    print(", ".join(f"{name} {value}" for name, value in conditions.items()))
    if goal_lines:
        print(f"\n{goals_as_text(goal_lines)}")
    if promise_lines:
        print(f"\n{promises_as_text(promise_lines)}")
    if arguments.json is not None:
        found = {"conditions": conditions, "goals": goal_lines, "promises": promise_lines}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all_well([*goal_lines, *promise_lines]) else 1


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="sh tests/run.sh --bench", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=7, help="how often each goal is measured (%(default)s)")
    add("--requests", type=int, default=6000, help="in each round (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all figures there, of each round too")
    add("--list", action="store_true", help="print the names, and measure nothing")
    add("names", nargs="*", metavar="NAME", help="a goal or a promise, or how their names begin")
    return parser.parse_args()


def chosen(name: str, wanted: Sequence[str]) -> bool:
    """Whether it is among those that were asked for."""
    return not wanted or name.startswith(tuple(wanted))


def tell(text: str) -> None:
    """Say what is under way, where somebody looks on."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)


def measure(goals: Sequence[Goal], effort: Effort, programs: Programs) -> list[Line]:
    """Measure the series that the goals take, family by family."""
    lines = []
    for family in dict.fromkeys(goal.family for goal in goals):
        members = [goal for goal in goals if goal.family == family]
        found = measure_family(
            family, {name for goal in members for name in goal.series}, effort, programs
        )
        lines += [judged(goal, found) for goal in members]
    return sorted(lines, key=lambda line: [goal.name for goal in goals].index(line["name"]))


def measure_family(
    family: str, wanted: set[str], effort: Effort, programs: Programs
) -> dict[str, Series]:
    """Measure these series of a family in turns."""
    rounds = 1 if family in ONCE else effort.rounds

    def tell_where(text: str) -> None:
        tell(f"{family}: {text}")

    try:
        with reasons(), FAMILIES[family](effort, programs) as runs:
            needed = {name: run for name, run in runs.items() if name in wanted}
            return in_turns(needed, rounds, tell_where)
    except NotMeasured as error:
        return {name: Series([], str(error)) for name in wanted}


def time_those_who_wait(promises: Sequence[Promise], programs: Programs, times: int) -> list[Line]:
    """Time what the promises are about."""
    waiting = Waiting(programs, times)
    lines = []
    for promise in promises:
        tell(f"{promise.what}: {promise.who}")
        waits: Sample | NotMeasured
        try:
            with reasons():
                waits = waiting.of(promise)
        except NotMeasured as error:
            waits = error
        lines.append(kept(promise, waits))
    return lines


if __name__ == "__main__":
    sys.exit(main())
