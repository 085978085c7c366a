"""Has the kernel answer system calls of a running daemon with errors, by strace's injection.

The calls of an operation are found by tracing it first.  Then it is run once for each of them and
each error number, on a daemon that goes on running, and is judged: what it answered, what can be
seen on disk, and whether the daemon is as it was.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from peers import Line, Peer, Reply, connect_as, encoded
from running import RUN, Daemon, World, many_at_once

ERRORS = (
    *("ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENFILE", "EIO"),
    *("ENOMEM", "EINTR", "EACCES", "EPERM", "ENOSYS"),
)

ON_FILES = "%file,%desc"

NOT_ON_FILES = frozenset({"epoll_wait", "epoll_ctl", "poll", "mmap", "munmap"})
"""What strace counts among calls on descriptors, and no file system answers."""

NOT_INJECTED = frozenset({"close"})
"""The kernel closes a descriptor whatever it answers; an injected error would leave it open."""

SECONDS_TO_ANSWER = 8.0
"""Less than any deadline of the daemon's, so that an answer by one of these counts as a hang."""

ATTEMPTS = 3
"""At having a call fail, where the daemon need not come to it each time."""

MOST_FAILURES = 20
"""After which a process tries no more: each may take until a time-out."""

CALL = re.compile(r"(\d+) +(\w+)\(")


@dataclass(frozen=True, slots=True)
class Site:
    """The call that fails: the `number`th of its name, in the daemon's thread of that index."""

    operation: str
    thread: int
    name: str
    number: int
    for_good: bool = False
    """Whether all later ones fail as well."""


class Subject:
    """A base of its own with a daemon that faults are tried on; each case has a uid of its own."""

    def __init__(self, world: World, name: str, first_uid: int) -> None:
        self.world = world
        self.base = RUN / name
        self.name = name
        self.uid = first_uid
        self.base.mkdir(mode=0o755)
        self.traced = world.own / f"{name}.strace"
        self.descriptors = 0
        self._read = 0
        self.daemon = self.start()

    def start(self) -> Daemon:
        """Start a daemon on what there is on disk."""
        self.daemon = self.world.start(None, "--base", str(self.base), "--control-name", self.name)
        self._read = 0
        return self.daemon

    def connect(self, uid: int) -> Line:
        """Connect as a user, or as an operator; see `connect_as`."""
        line = connect_as(uid, self.name, self.base)
        line.socket.settimeout(SECONDS_TO_ANSWER)
        return line

    def ask(self, uid: int, method: str, /, **parameters: object) -> Reply:
        """One call."""
        with self.connect(uid) as line:
            return line.call(method, **parameters)

    def ask_all(self, uid: int, method: str, **parameters: object) -> list[Reply]:
        """One call with `more`."""
        with self.connect(uid) as line:
            line.send(encoded(method, parameters, more=True))
            replies = [line.reply()]
            while replies[-1].get("continues"):
                replies.append(line.reply())
            return replies

    def threads(self) -> list[int]:
        """Its threads, the loop's first and the others in the order of their beginning.

        That is how the kernel lists them; their numbers may begin again at 1 between two of them.
        """
        return [int(thread) for thread in os.listdir(f"/proc/{self.daemon.pid}/task")]

    def settle(self) -> None:
        """Take the number of descriptors for the one that has to be there after each case.

        That is the least of a tenth of a second: the last connection may not be closed yet.
        """
        self.descriptors = self.daemon.descriptors()
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            self.descriptors = min(self.descriptors, self.daemon.descriptors())
            time.sleep(0.001)

    def fresh_log(self) -> str:
        """What it has written since the last time this was asked."""
        with self.daemon.log_file.open() as file:
            file.seek(self._read)
            text = file.read()
            self._read = file.tell()
        return text

    @contextmanager
    def tracing(self, thread: int, *arguments: str) -> Iterator[None]:
        """Have strace look at a thread while the block runs."""
        tracer = subprocess.Popen(
            ["strace", "-qq", "-o", str(self.traced), *arguments, "-p", str(thread)],
            stderr=subprocess.DEVNULL,
        )
        status = Path(f"/proc/{self.daemon.pid}/task/{thread}/status")
        mark = f"TracerPid:\t{tracer.pid}\n"
        try:
            soon("traced", lambda: mark in status.read_text())
            yield
        finally:
            end_tracing(tracer)


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that the daemon does, and how to tell that it did it right."""

    name: str
    prepare: Callable[[Subject], None]
    act: Callable[[Subject], None]
    """Runs it with a fault in it, and asserts what holds at once."""
    after: Callable[[Subject], None]
    """Runs it without one, and asserts that all is as it should be."""
    calls: str = ON_FILES
    for_good: bool = True
    """Whether it can still be answered when a call fails each time."""
    threads: tuple[int, ...] | None = None
    """Those whose calls are this operation's; None: all."""
    races: bool = False
    """Whether some of its calls depend on who is faster, so that not each can be made to fail."""


def end_tracing(tracer: subprocess.Popen[bytes]) -> None:
    """Have strace let go: what comes just before it waits is noted, and noticed at the next."""
    while tracer.poll() is None:
        tracer.terminate()
        with suppress(subprocess.TimeoutExpired):
            tracer.wait(1)


def soon(what: str, look: Callable[[], object]) -> None:
    """Wait for it as `eventually` does, but look a thousand times a second."""
    end = time.monotonic() + SECONDS_TO_ANSWER
    while not look():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.001)


def sites_of(subject: Subject, operation: Operation) -> list[Site]:
    """Trace the operation, without a fault, and name each call that it makes."""
    operation.prepare(subject)
    threads = {thread: index for index, thread in enumerate(subject.threads())}
    with subject.tracing(subject.daemon.pid, "-f", "-e", f"trace={operation.calls}"):
        operation.act(subject)
    operation.after(subject)
    seen: Counter[tuple[int, str]] = Counter()
    for line in subject.traced.read_text(errors="replace").splitlines():
        found = CALL.match(line)
        index = None if found is None else threads.get(int(found[1]))
        if found is None or index is None or found[2] in NOT_INJECTED:
            continue
        if operation.calls == ON_FILES and found[2] in NOT_ON_FILES:
            continue  # strace cannot be told what not to trace of a set
        if operation.threads is None or index in operation.threads:
            seen[index, found[2]] += 1
    return [
        Site(operation.name, index, name, number, for_good)
        for (index, name), count in seen.items()
        for number, for_good in [
            *((each, False) for each in range(1, count + 1)),
            *([(1, True)] if operation.for_good else []),
        ]
    ]


def try_one(subject: Subject, operation: Operation, site: Site, error: str) -> bool:
    """Have one call fail once, or for good; tell whether it came to that."""
    subject.uid += 1
    operation.prepare(subject)
    when = f"{site.number}{'+' if site.for_good else ''}"
    inject = f"inject={site.name}:error={error}:when={when}"
    with subject.tracing(subject.threads()[site.thread], "-e", f"trace={site.name}", "-e", inject):
        operation.act(subject)
    injected = "(INJECTED)" in subject.traced.read_text(errors="replace")
    assert subject.daemon.process.poll() is None, "the daemon is dead"
    operation.after(subject)
    log = subject.fresh_log()
    assert '"event": "fault"' not in log, log
    soon("descriptors closed", lambda: subject.daemon.descriptors() <= subject.descriptors)
    return injected


@dataclass(slots=True)
class Result:
    """What came of the cases: how often each was tried and survived, and what did not."""

    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    survived: Counter[tuple[str, str]] = field(default_factory=Counter)
    injected: set[Site] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """Take over what another process has tried."""
        self.tried += other.tried
        self.survived += other.survived
        self.injected |= other.injected
        self.failures += other.failures


def try_all(
    world: World,
    operations: Sequence[Operation],
    ready: Callable[[Subject], None],
    judge: Callable[[Subject], None],
) -> Result:
    """Try each error at each site, in as many processes as there are processors.

    `ready` brings a subject to the state in which all operations begin, and `judge` looks at it
    after all of them.
    """
    by_name = {operation.name: operation for operation in operations}
    first = Subject(world, "first", 10_000)
    ready(first)
    sites = []
    for operation in operations:
        first.uid += 1
        found = sites_of(first, operation)
        assert found, f"{operation.name}: strace saw no system call"
        sites.extend(found)
    first.daemon.end()
    cases = [
        (site, error)
        for site in sites
        for error in ERRORS
        if not (site.for_good and error == "EINTR")  # no signal comes at each call for ever
    ]
    processes = many_at_once()

    def some(number: int) -> Result:
        result = Result()
        world.log_prefix = f"{number}-"
        subject = Subject(world, f"base{number}", 20_000 + 10_000 * number)
        try:
            ready(subject)
            for site, error in cases[number::processes]:
                try_a_case(subject, by_name[site.operation], site, error, result)
                if len(result.failures) >= MOST_FAILURES:
                    return result
                if subject.daemon.process.poll() is not None:
                    subject.start()
                    ready(subject)
            if not result.failures:  # which would tell the same once more
                judge(subject)
            subject.daemon.end()
        finally:
            world.end()
        return result

    whole = Result()
    for worker in [Peer(0, lambda n=number: some(n), seconds=900) for number in range(processes)]:
        whole.add(worker.result())
    left_out = {site for site in sites if not by_name[site.operation].races}
    left_out -= whole.injected
    assert whole.failures or not left_out, f"never injected: {left_out}"
    return whole


def try_a_case(
    subject: Subject, operation: Operation, site: Site, error: str, result: Result
) -> None:
    """Try it until it came to that, and note what came of it; a daemon that failed is killed."""
    try:
        # What another thread does first may change how many calls there are.
        if not any(try_one(subject, operation, site, error) for _ in range(ATTEMPTS)):
            return
    except Exception as problem:
        result.failures.append(f"{error} at {site}: {problem!r}"[:2000])
        subject.daemon.kill()
    else:
        result.survived[site.operation, error] += 1
    result.tried[site.operation, error] += 1
    result.injected.add(site)


def table(result: Result) -> str:
    """Operation by fault: how often survived, of how often tried."""
    lines = ["", f"{'survived/tried':<22}" + "".join(f"{error:>9}" for error in ERRORS)]
    for operation in dict.fromkeys(operation for operation, _error in result.tried):
        cells = [
            f"{result.survived[operation, error]}/{result.tried[operation, error]}"
            for error in ERRORS
        ]
        lines.append(f"{operation:<22}" + "".join(f"{cell:>9}" for cell in cells))
    survived, tried = result.survived.total(), result.tried.total()
    return "\n".join([*lines, f"{survived} of {tried} faults survived"])
