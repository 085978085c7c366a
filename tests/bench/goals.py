"""The goals, as a table: what is measured, against what, and what is good enough.

A goal is what the project has set itself.  `must` is what it had set itself before there was a
broker, by what prototypes had shown; where there was none of them, it is missing.  Neither is a
promise to users; those are in `promises`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Figure(NamedTuple):
    """One figure of one series of a family of measurements."""

    series: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A line of the table; without a reference the figure itself is judged."""

    name: str
    family: str
    what: str
    against: str
    ours: Figure
    reference: Figure | None
    unit: str
    goal: float | None = None
    must: float | None = None
    at_least: bool = False

    @property
    def series(self) -> list[str]:
        """The series that it takes."""
        return [figure.series for figure in (self.ours, self.reference) if figure is not None]

    def reached(self, found: float, limit: float | None) -> bool | None:
        """Whether what was found is as good as that; None where there is no limit."""
        if limit is None:
            return None
        return found >= limit if self.at_least else found <= limit


def _existing(
    name: str,
    what: str,
    ours: Figure,
    reference: Figure,
    *,
    goal: float,
    must: float | None = None,
    against: str = "C, same job",
    unit: str = "us",
    at_least: bool = False,
) -> Goal:
    return Goal(
        name=name,
        family="existing",
        what=what,
        against=against,
        ours=ours,
        reference=reference,
        unit=unit,
        goal=goal,
        must=must,
        at_least=at_least,
    )


def _restore(
    name: str,
    what: str,
    series: str,
    time: str,
    *,
    goal: float | None = None,
    must: float | None = None,
) -> Goal:
    return Goal(
        name=name,
        family="restore",
        what=what,
        against="systemd-tmpfiles --create",
        ours=Figure(series, time),
        reference=Figure("tmpfiles", f"{time.split()[0]} whole"),
        unit="us",
        goal=goal,
        must=must,
    )


def _loop(which: str, against: str, goal: float, must: float) -> Goal:
    return Goal(
        name=f"loop-{which}",
        family="restore",
        what=f"the loop over 10,000 alone, {which}",
        against=against,
        ours=Figure("range", f"{which} loop"),
        reference=Figure("C", f"{which} whole"),
        unit="us",
        goal=goal,
        must=must,
    )


def _growth(name: str, what: str, series: str, figure: str, unit: str) -> Goal:
    return Goal(
        name=name,
        family="restore",
        what=what,
        against="10,000 directories",
        ours=Figure(f"large {series}", figure),
        reference=Figure(series, figure),
        unit=unit,
        goal=1.1,
    )


EACH, KEPT = "existing, a connection each", "existing, kept connection"
MANY = "10,000 directories at start"

GOALS: tuple[Goal, ...] = (
    _existing(
        "existing-p50", f"{EACH}: p50", Figure("ours each", "p50"), Figure("C each", "p50"),
        goal=1.3, must=1.8,
    ),
    _existing(
        "existing-p99", f"{EACH}: p99", Figure("ours each", "p99"), Figure("C each", "p99"),
        goal=1.6, must=2.5,
    ),
    _existing(
        "existing-crowd", "the same, 64 clients: requests a second",
        Figure("ours crowd", "rate"), Figure("C crowd", "rate"),
        goal=0.6, must=0.4, at_least=True, unit="/s",
    ),
    _existing(
        "kept-p50", f"{KEPT}: p50", Figure("ours kept", "p50"), Figure("C kept", "p50"),
        goal=1.3, must=1.8,
    ),
    _existing(
        "computing", "computing time of a request", Figure("ours computing", "each"),
        Figure("asyncio computing", "each"), against="asyncio, same job", goal=0.25, must=0.5,
    ),
    Goal(
        name="fresh-p50", family="fresh", what="fresh, a connection each: p50",
        against="C, same staged sequence", ours=Figure("ours one", "p50"),
        reference=Figure("C one", "p50"), unit="us", goal=1.5, must=1.8,
    ),
    Goal(
        name="fresh-crowd", family="fresh", what="the same, 64 clients: p50",
        against="C, same staged sequence", ours=Figure("ours crowd", "p50"),
        reference=Figure("C crowd", "p50"), unit="us", goal=2.2, must=2.5,
    ),
    _existing(
        "userdbd-each", f"{EACH}: p50", Figure("ours each", "p50"), Figure("userdbd each", "p50"),
        against="systemd-userdbd, empty reply", goal=0.9, must=1.5,
    ),
    _existing(
        "userdbd-kept", f"{KEPT}: p50", Figure("ours kept", "p50"), Figure("userdbd kept", "p50"),
        against="systemd-userdbd, empty reply", goal=0.9, must=1.5,
    ),
    _existing(
        "bus-each", f"{EACH}: p50", Figure("ours each", "p50"), Figure("bus each", "p50"),
        against="dbus-daemon, GetId", goal=0.2, must=0.35,
    ),
    _existing(
        "bus-kept", f"{KEPT}: p50", Figure("ours kept", "p50"), Figure("bus kept", "p50"),
        against="dbus-daemon, GetId", goal=0.5, must=0.8,
    ),
    _existing(
        "distinct-each", "200 apps, no call like another, each: p50",
        Figure("distinct each", "p50"), Figure("ours each", "p50"), against="one app", goal=1.3,
    ),
    _existing(
        "distinct-kept", "200 apps, no call like another, kept: p50",
        Figure("distinct kept", "p50"), Figure("ours kept", "p50"), against="one app", goal=1.3,
    ),
    _restore(
        "listed-first", f"{MANY}, listed, first", "one by one", "first since", goal=0.6
    ),
    _restore(
        "listed-again", f"{MANY}, listed, again", "one by one", "again since", goal=0.5
    ),
    _restore("range-first", f"{MANY}, a range, first", "range", "first since", goal=0.4),
    _restore("range-again", f"{MANY}, a range, again", "range", "again since", goal=0.2),
    _restore("group-first", f"{MANY}, a group, first", "group", "first since", goal=0.4),
    _restore("group-again", f"{MANY}, a group, again", "group", "again since", goal=0.2),
    _restore("whole-listed-first", "listed, first, with Python's start", "one by one",
             "first whole", must=1.0),
    _restore("whole-listed-again", "listed, again, with Python's start", "one by one",
             "again whole", must=1.0),
    _restore("whole-range-first", "a range, first, with Python's start", "range", "first whole",
             must=1.0),
    _restore("whole-range-again", "a range, again, with Python's start", "range", "again whole",
             must=1.0),
    _loop("first", "C, not staged", goal=1.3, must=1.8),
    _loop("again", "C, one fstatat each", goal=2.5, must=4.0),
    _growth("growth-first", "100,000 (range): time of each, first", "range", "first each", "us"),
    _growth("growth-again", "100,000 (range): time of each, again", "range", "again each", "us"),
    _growth("growth-memory", "100,000 (range): memory of each", "range", "again memory", "KiB"),
    _growth("growth-listed-first", "100,000 (listed): time of each, first", "one by one",
            "first each", "us"),
    _growth("growth-listed-again", "100,000 (listed): time of each, again", "one by one",
            "again each", "us"),
    _growth("growth-listed-memory", "100,000 (listed): memory of each", "one by one",
            "again memory", "KiB"),
    Goal(
        name="policy", family="reading", what="policy of 10,000 entries: read and checked",
        against="yaml.CSafeLoader alone", ours=Figure("ours", "whole"),
        reference=Figure("yaml", "whole"), unit="us", goal=0.3, must=0.5,
    ),
    Goal(
        name="request-command", family="command", what="sockbrokerctl request, whole process",
        against="systemctl --version", ours=Figure("request", "whole"),
        reference=Figure("systemctl", "whole"), unit="us", goal=3.5, must=6.0,
    ),
    Goal(
        name="request-sudo", family="command", what="the same",
        against="sudo -n install -d", ours=Figure("request", "whole"),
        reference=Figure("sudo", "whole"), unit="us",
    ),
    Goal(
        name="start", family="start", what="start to ready, small policy",
        against="python3 -I -c pass", ours=Figure("ours", "whole"),
        reference=Figure("python", "whole"), unit="us", goal=9.0, must=6.0,
    ),
    Goal(
        name="memory", family="idle", what="idle memory (RSS)", against="python3 -I",
        ours=Figure("ours", "KiB"), reference=Figure("python", "KiB"), unit="KiB", goal=3.0,
        must=2.2,
    ),
    Goal(
        name="connection", family="idle", what="memory of each idle connection (4,000)", against="",
        ours=Figure("connections", "KiB"), reference=None, unit="KiB", goal=1.0, must=2.0,
    ),
    Goal(
        name="wake-ups", family="asleep", what="wake-ups a minute with nobody there", against="",
        ours=Figure("ours", "number"), reference=None, unit="", goal=0.0, must=1.0,
    ),
    Goal(
        name="list-command", family="listing", what="sockbrokerctl list, 10,000, whole process",
        against="C walk with fstatat", ours=Figure("command", "whole"),
        reference=Figure("walk", "whole"), unit="us", goal=10.0,
    ),
    Goal(
        name="list-call", family="listing", what="List of 10,000, the call alone",
        against="C walk with fstatat", ours=Figure("call", "whole"),
        reference=Figure("walk", "whole"), unit="us", goal=10.0,
    ),
)  # fmt: skip
