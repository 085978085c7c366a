"""Loads the policy, in the background where it can block, and keeps at names that do not resolve.

Reading and checking the text of a large policy take long, and a look-up may take until its
deadline; so a worker does all of it, and the loop never waits.  Names that could not be looked up
are asked for again later.
"""

from __future__ import annotations

from collections.abc import Callable

from sockbroker.complaints import sentence
from sockbroker.core.policy import Document, Policy, PolicyError
from sockbroker.core.policy_reader import read_policy
from sockbroker.core.resolution import lookups, resolve
from sockbroker.kernel import accounts, policyfile
from sockbroker.kernel.loop import Loop, Timer
from sockbroker.kernel.policyfile import PolicyFileError
from sockbroker.kernel.worker import Outcome, Worker

SECONDS_FOR_LOOKUPS = 5.0
"""What a user database may take before its names count as unavailable; sssd's own time-out is 6."""

SECONDS_BEFORE_RETRY = 2.0
"""Before the first retry of names that did not resolve; doubled each time up to the next."""

MOST_SECONDS_BEFORE_RETRY = 60.0


def problems_of(error: Exception) -> tuple[str, ...]:
    """Return the problems of a policy that is not taken, one sentence each."""
    if isinstance(error, PolicyError):
        return error.problems
    if isinstance(error, PolicyFileError):
        return (str(error),)
    if isinstance(error, OSError):
        return (sentence("looking up the names of the policy", error),)
    # A fault of ours must not cost the policy in force, nor the daemon.
    return (f"fault while loading, please report it: {type(error).__name__}: {error}",)


Loaded = tuple[Document, Policy]


def read(path: str) -> Document:
    """Read and check the policy's text; raises PolicyError or PolicyFileError."""
    return read_policy(policyfile.read(path, trusted=True), path)


def look_up(document: Document) -> Policy:
    """Look its names up and resolve it; blocks, but never for good.  Raises PolicyError."""
    known = accounts.look_up(lookups(document), deadline_seconds=SECONDS_FOR_LOOKUPS)
    return resolve(document, known, accounts.login_defs_range())


class Loader:
    """Loads again while peers are served; tells the outcome by two calls in the loop."""

    def __init__(
        self,
        path: str,
        loop: Loop,
        worker: Worker,
        *,
        loaded: Callable[[Policy], None],
        failed: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._path = path
        self._loop = loop
        self._worker = worker
        self._loaded = loaded
        self._failed = failed
        self._unresolved: Document | None = None  # the one in force, while names in it have no id
        self._job = 0  # counts; what an earlier job comes to is dropped
        self._retry: Timer | None = None
        self._delay = SECONDS_BEFORE_RETRY

    def keep(self, document: Document, policy: Policy) -> None:
        """Take note of what is in force, so that names which do not resolve are tried again."""
        self._unresolved = document if policy.unresolved else None
        self._plan_retry()

    def reload(self) -> None:
        """Read the file again; `loaded` or `failed` is called once it is known."""
        self._delay = SECONDS_BEFORE_RETRY

        def load() -> Loaded:
            document = read(self._path)
            return document, look_up(document)

        self._submit(load)

    def _submit(self, job: Callable[[], Loaded]) -> None:
        self._forget_retry()
        self._job += 1
        number = self._job

        def done(outcome: Outcome[Loaded]) -> None:
            if number != self._job:
                return  # a newer one is under way
            try:
                document, policy = outcome.value()
            except Exception as error:
                self._plan_retry()  # for the policy that stays in force
                self._failed(problems_of(error))
                return
            self.keep(document, policy)
            self._loaded(policy)

        self._worker.submit(job, done)

    def _plan_retry(self) -> None:
        document = self._unresolved
        if document is not None:
            self._retry = self._loop.call_later(
                self._delay, lambda: self._submit(lambda: (document, look_up(document)))
            )
            self._delay = min(self._delay * 2, MOST_SECONDS_BEFORE_RETRY)

    def _forget_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
