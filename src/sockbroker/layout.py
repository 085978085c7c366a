"""Brings the disk to the policy: at every start, and after every reload.

Every existing directory of a known app is compared and repaired, app folders are made, and so are
the directories that the policy wants at boot.  What cannot be made is reported and stops nothing
else.  It is a generator, so that the start can run it through at once and a reload can run it in
slices between the calls of peers.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import assert_never

from sockbroker.core.escaping import escape
from sockbroker.core.names import parse_uid
from sockbroker.core.policy import App, Policy
from sockbroker.folders import Folders
from sockbroker.kernel.app_folder import Folder, Outcome, Wanted
from sockbroker.kernel.change_time import change_time
from sockbroker.kernel.directories import Base
from sockbroker.kernel.last_pass import LastPass
from sockbroker.kernel.obstacles import LimitReached, Obstructed

Dispose = Callable[[str, str], None]
"""Has what was moved aside deleted: called with the app and the dot-name."""

BETWEEN_YIELDS = 16
"""Directories of which the last pass tells that they are right: a tenth of a millisecond."""

MOST_PROBLEMS = 100
"""Problems kept one by one; the rest is counted."""


@dataclass(slots=True)
class Report:
    """What a pass came to."""

    created: int = 0
    repaired: int = 0
    right: int = 0
    orphans: frozenset[str] = frozenset()
    """App folders that are the broker's and of which the policy has no app.

    A pass begins with those that the one before has found, for where it cannot look itself.
    """
    problems: list[str] = field(default_factory=list)
    more_problems: int = 0

    def problem(self, text: str) -> None:
        if text in self.problems:  # the sweep has met it before
            return
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(text)
        else:
            self.more_problems += 1

    @property
    def seen(self) -> int:
        return self.created + self.repaired + self.right

    def all_problems(self) -> tuple[str, ...]:
        if not self.more_problems:
            return tuple(self.problems)
        return (*self.problems, f"and {self.more_problems} more of this kind")


def sweep(folders: Folders, apps: Container[str], dispose: Dispose, report: Report) -> None:
    """Clean up after a killed run, but in the folders of `apps`, which `bring` sees to.

    Only at a start, when nothing of this run is under way.
    """
    base = folders.base
    try:
        for name in base.sweep():
            report.problem(
                f"{base.path}/{escape(name)}: left by a killed run, and cannot be removed:"
                " see what is in it"
            )
        for name in base.scan():
            if name not in apps:
                _sweep_folder(base, name, dispose, report)
    except OSError as error:
        report.problem(_sentence(base.path, error))


def _sweep_folder(base: Base, name: str, dispose: Dispose, report: Report) -> None:
    try:
        folder = base.find(name)
        if folder is not None:
            with folder:
                _swept(folder, dispose, report)
    except (Obstructed, OSError) as error:
        report.problem(_sentence(f"{base.path}/{name}", error))


def bring(
    folders: Folders, policy: Policy, report: Report, dispose: Dispose | None = None
) -> Iterator[None]:
    """Bring the disk to `policy`, yielding after each directory or few; `report` fills meanwhile.

    With `dispose` this is a start: nobody is served yet, so that nobody else makes or asks for a
    folder meanwhile, and what a killed run has left is cleaned up.
    """
    orphans = set()
    try:
        for name in folders.base.scan():
            if name not in policy.apps and name not in policy.unserved:
                orphans.add(name)
            yield
        report.orphans = frozenset(orphans)
    except OSError as error:
        report.orphans |= orphans  # what was one before is not forgotten for that
        report.problem(_sentence(folders.base.path, error))
    for app in policy.apps.values():
        yield  # an app without directories is work too
        try:
            made = 0 if dispose is None else (yield from _fill(folders, app, report))
            with folders.fresh(app) as folder:
                yield from _bring_folder(folder, app, made, dispose, report)
        except (Obstructed, OSError) as error:
            report.problem(_sentence(f"{folders.base.path}/{app.name}", error))


def _fill(folders: Folders, app: App, report: Report) -> Generator[None, None, int]:
    """Make the folder with all that is wanted at boot, if it is not there; return how many."""
    before, made = report.created, 0
    for made in folders.fill(app):
        report.created = before + made
        yield
    return made


def _bring_folder(
    folder: Folder, app: App, made: int, dispose: Dispose | None, report: Report
) -> Iterator[None]:
    """`made` says how many of at_boot the folder was made with, and that it had no others."""
    last = LastPass(folder.fileno())
    began = change_time()
    existing = set()
    all_right = True
    uids = iter(() if made else _uids(folder, dispose, report))
    while some := list(islice(uids, BETWEEN_YIELDS)):
        existing.update(some)
        doubtful = last.doubtful(some, app.mode, app.gid)
        report.right += len(some) - len(doubtful)
        yield
        for uid in doubtful:
            all_right &= _ensure(folder, app, uid, None, report)
            yield
    for uid, gid in islice(app.at_boot.besides(existing), made, None):
        all_right &= _ensure(folder, app, uid, gid, report)
        yield
    if all_right and not made:  # else none was looked at since it was made, and that was remembered
        last.remember(began)


def _uids(folder: Folder, dispose: Dispose | None, report: Report) -> Iterable[int]:
    """Give what is in a folder; at a start by the one list that shows what is to be cleaned up."""
    if dispose is None:
        return folder.uids()
    names = _swept(folder, dispose, report)
    return [uid for uid in map(parse_uid, names) if uid is not None]


def _swept(folder: Folder, dispose: Dispose, report: Report) -> list[str]:
    """Clean up in a folder; return what was in it before."""
    names = folder.names()
    try:
        for left in folder.sweep(names):
            dispose(folder.app, left)
    except OSError as error:
        report.problem(_sentence(folder.path, error))
    return names


def _ensure(folder: Folder, app: App, uid: int, gid: int | None, report: Report) -> bool:
    """Tell whether it is right now; `gid` is None for one that exists, which is not made."""
    wanted = Wanted(mode=app.mode, gid=app.gid)
    outcome: Outcome | None
    try:
        if gid is None:
            outcome = folder.repair(uid, wanted)
        else:
            outcome = folder.ensure(uid, wanted, new_gid=gid, limit=app.max_directories)
    except (Obstructed, LimitReached, OSError) as error:
        report.problem(_sentence(f"{folder.path}/{uid}", error))
        return False
    if outcome == "created":
        report.created += 1
    elif outcome == "repaired":
        report.repaired += 1
    elif outcome is not None:  # else it was released meanwhile
        report.right += 1
    return True


def _sentence(path: str, error: Obstructed | LimitReached | OSError) -> str:
    match error:
        case Obstructed():
            return f"{error.path}: {error.reason}"
        case LimitReached():
            limit = f"{error.limit} {error.resource}"
            return f"{path}: the limit of {limit} is reached (max_directories)"
        case OSError():
            return f"{path}: {error.strerror}"
        case _:
            assert_never(error)
