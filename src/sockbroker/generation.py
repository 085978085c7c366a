"""The policy in force, and how the next one takes its place.

A reload reads, resolves, swaps the policy in one assignment, brings the disk to it in slices
between the calls of peers, and only then answers.  One reload runs at a time; those that ask
meanwhile share the next one.  A bad policy changes nothing but what status says.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator

from sockbroker.core.policy import Document, Policy
from sockbroker.folders import Folders
from sockbroker.kernel.loop import Loop
from sockbroker.kernel.worker import Worker
from sockbroker.layout import Dispose, Report, bring, sweep
from sockbroker.loading import Loader
from sockbroker.logs import Logger

SECONDS_OF_A_SLICE = 0.002
"""Of bringing the disk to a policy, between two rounds of calls."""

Done = Callable[[tuple[str, ...] | None], None]
"""Told the outcome of a reload: the problems of the policy that was not taken, or None."""


class Generation:
    """Holds the policy in force; `number` counts the policies that have been."""

    def __init__(
        self,
        path: str,
        document: Document,
        policy: Policy,
        *,
        folders: Folders,
        loop: Loop,
        worker: Worker,
        log: Logger,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called whenever state or problems may be others than before."""
        self.policy = policy
        self.number = 1
        self.error: tuple[str, ...] = ()
        """Why the newest policy on disk is not the one in force; empty: it is."""
        self.report = Report()
        self._folders = folders
        self._loop = loop
        self._log = log
        self._changed = changed
        self._pass: Iterator[None] | None = None
        self._next_report = Report()
        self._served: list[Done] = []
        self._waiting: list[Done] = []
        self._running = False
        self._loading = False  # the file is read for who asked; else names are looked up again
        self._loader = Loader(path, loop, worker, loaded=self._install, failed=self._refuse)
        self._loader.keep(document, policy)
        gc.freeze()  # collecting over a large, lasting policy would hold up the loop

    def set_up(self, report: Report, dispose: Dispose) -> Iterator[None]:
        """Clean up and bring the disk to the policy at the start; the caller runs it through."""
        sweep(self._folders, self.policy.apps, dispose, report)
        yield from bring(self._folders, self.policy, report, dispose)
        self.report = report

    def reload(self, done: Done) -> None:
        """Load the policy again; `done` is told once the disk is brought to it, or what is bad."""
        self._waiting.append(done)
        if not self._running:
            self._start()

    def _start(self) -> None:
        self._running = self._loading = True
        self._served, self._waiting = self._waiting, []
        self._loader.reload()

    def _refuse(self, problems: tuple[str, ...]) -> None:
        if not self._loading:  # of names looked up again: nobody asked, the policy in force stays
            self._log.error("names not taken", problems=list(problems[:20]))
            return
        self._loading = False
        self.error = problems
        self._log.error("policy not taken", problems=list(problems[:20]), count=len(problems))
        self._finish(problems)

    def _install(self, policy: Policy) -> None:
        asked, self._loading = self._loading, False
        if asked:
            self.error = ()
        if policy != self.policy or asked:
            self.policy = policy
            self.number += 1
            self._folders.keep(policy.apps)
            self._next_report = Report(orphans=self.report.orphans)
            self._pass = bring(self._folders, policy, self._next_report)
            gc.collect()  # or what is garbage now would be kept for good, at each reload anew
            gc.freeze()  # no cycles in it: the old one is freed by its references
            self._slice(self._pass)

    def _slice(self, running: Iterator[None]) -> None:
        """Go on with a pass, unless a newer policy has begun one of its own."""
        if running is not self._pass:
            return
        end = time.monotonic() + SECONDS_OF_A_SLICE
        try:
            for _ in running:
                if time.monotonic() >= end:
                    self._loop.call_later(0, lambda: self._slice(running))
                    return
        except OSError as error:  # no descriptor left, or the folder went while it was read
            self._next_report.problem(f"the disk was not brought to the policy: {error.strerror}")
        self._pass = None
        self.report = self._next_report
        self._log.info(
            "policy in force",
            generation=self.number,
            created=self.report.created,
            repaired=self.report.repaired,
            problems=list(self.problems()[:20]),
        )
        if self._loading:  # who asked meanwhile is answered when his reload is through
            self._changed()
        else:
            self._finish(None)

    def _finish(self, problems: tuple[str, ...] | None) -> None:
        self._running = False
        served, self._served = self._served, []
        self._changed()
        for done in served:
            done(problems)
        if self._waiting and not self._running:
            self._start()

    def problems(self) -> tuple[str, ...]:
        """Return what the policy in force could not have, one sentence each."""
        return (*self.policy.warnings, *self.report.all_problems())

    @property
    def folders(self) -> set[str]:
        """Return the names of all app folders that may be there."""
        orphans = self.report.orphans | self._next_report.orphans
        return {*self.policy.apps, *self.policy.unserved, *orphans}

    @property
    def complete(self) -> bool:
        """Whether every app and name of the policy could be set up."""
        return not (self.policy.unresolved or self.report.problems)
