"""Killed at any file system call, the daemon leaves nothing wrong, and its successor mends it.

Each case runs once to learn which calls it makes, and then once for each of them, killed there by
strace's injection: before the call, so that every state between two is met.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from injecting import ATTEMPTS, end_tracing
from leftovers import ACL, left_by_another_kill
from peers import Line, Peer, as_user
from running import (
    ALICE,
    CHAT,
    RUN,
    Daemon,
    World,
    eventually,
    layout,
    many_at_once,
    state,
    tree,
)

pytestmark = pytest.mark.root

POLICY = f"""\
apps:
  chat:
    allow: {{users: [alice, 2000]}}
    at_boot: {{users: [2000]}}
    mode: "2750"
    group: {CHAT}
"""

EXACT = layout({"chat": {f"{uid}": (uid, CHAT, "2750") for uid in (ALICE, 2000)}})
WITHOUT_ALICE = layout({"chat": {"2000": (2000, CHAT, "2750")}})

CALL = re.compile(r"(\d+) +(\w+)\(")

KILLED_AT = (
    "mkdirat,openat2,statx,getxattr,removexattr,chmod,fchmodat,fchmod,chown,fchownat,fchown,"
    "renameat2,renameat,unlinkat,unlink,rmdir,getdents64,flock,sendto"
)
"""What sees or changes the disk, and the reply; all else ends no state that anybody could see."""

Case = tuple[str, int]
"""A system call, and how many of its name there are up to it."""


class Subject:
    """A base of its own, with the daemon that is to be killed."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.base = RUN / name
        self.log = world.own / f"{name}.strace"
        self.base.mkdir(mode=0o755)
        self.daemon: Daemon | None = None

    @property
    def arguments(self) -> list[str]:
        return ["--base", str(self.base), "--control-name", self.name]

    @property
    def chat(self) -> Path:
        return self.base / "chat"

    def running(self) -> Daemon:
        """The daemon, started if there is none."""
        if self.daemon is None or self.daemon.process.poll() is not None:
            self.daemon = self.world.start(None, *self.arguments)
        return self.daemon

    def ask(self, method: str) -> dict[str, object] | None:
        """A call of alice's; None if the daemon ends before it answers."""

        def call() -> dict[str, object] | None:
            with Line(b"\0" + self.name.encode()) as line:
                try:
                    return line.call(method, app="chat")
                except (EOFError, BrokenPipeError):
                    return None

        return as_user(ALICE, call)

    def trace(self, thread: int, *arguments: str) -> subprocess.Popen[bytes]:
        """Have strace look at one thread of the running daemon, and wait until it does."""
        tracer = subprocess.Popen(
            ["strace", "-qq", "-o", str(self.log), *arguments, "-p", str(thread)],
            stderr=subprocess.DEVNULL,
        )
        status = Path(f"/proc/{self.running().pid}/task/{thread}/status")
        eventually("traced", lambda: f"TracerPid:\t{tracer.pid}\n" in status.read_text())
        return tracer


def cases_of(log: Path, thread: int) -> list[Case]:
    """The calls of one thread in a trace by `strace -f`, or in one of a single thread."""
    seen: Counter[str] = Counter()
    cases = []
    for line in log.read_text(errors="replace").splitlines():
        found = CALL.match(line) or CALL.match(f"{thread} {line}")
        if found is not None and int(found[1]) == thread:
            seen[found[2]] += 1
            cases.append((found[2], seen[found[2]]))
    return cases


def side_by_side(
    world: World, cases: Sequence[Case], kill: Callable[[Subject, Case], None]
) -> Counter[str]:
    """Go through the cases in as many processes as there are processors; count the calls killed."""
    processes = many_at_once()

    def some(number: int) -> None:
        subject = Subject(world, f"base{number}")
        world.log_prefix = f"{number}-"
        try:
            for case in cases[number::processes]:
                try:
                    kill(subject, case)
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    raise AssertionError(
                        f"killed at {case[0]} number {case[1]}: {error}"
                    ) from error
        finally:
            world.end()

    workers = [Peer(0, lambda n=number: some(n), seconds=600) for number in range(processes)]
    for worker in workers:
        worker.result()
    return Counter(name for name, _ in cases)


def killed_while_serving(
    world: World,
    prepare: Callable[[Subject], None],
    method: str,
    judge: Callable[[Subject], None],
    *,
    worker: int | None = None,
) -> Counter[str]:
    """Kill the loop's thread, or that of one of the workers, at each call of serving alice."""

    def ready(subject: Subject) -> int:
        """Prepare the disk; return the thread that is to be killed."""
        tasks = f"/proc/{subject.running().pid}/task"
        before = set(os.listdir(tasks))
        if worker is not None:  # its thread begins with the first release
            assert subject.ask("Request")
            assert subject.ask("Release") == {}
            eventually("deleted", lambda: gone(subject))
        # In the order in which they began, which is the kernel's; their numbers start over.
        threads = [int(thread) for thread in os.listdir(tasks) if thread not in before]
        prepare(subject)
        return subject.running().pid if worker is None else threads[worker]

    def came_to(subject: Subject, case: Case) -> bool:
        thread = ready(subject)
        name, number = case
        inject = f"inject={name}:signal=KILL:when={number}"
        tracer = subject.trace(thread, "-e", f"trace={name}", "-e", inject)
        daemon = subject.running()
        subject.ask(method)
        try:
            assert daemon.ended(10) == -9
        except subprocess.TimeoutExpired:
            end_tracing(tracer)
            mended(subject)
            return False
        tracer.wait()
        return True

    def kill(subject: Subject, case: Case) -> None:
        # A machine that stands still for a moment may change how many calls there are.
        assert any(came_to(subject, case) for _ in range(ATTEMPTS)), "it never came to that call"
        judge(subject)
        mended(subject)
        if worker is not None:  # what this one has mended may have been a worker's first work
            subject.running().kill()

    first = Subject(world, "first")
    thread = ready(first)
    tracer = first.trace(thread, "-e", f"trace={KILLED_AT}")
    assert first.ask(method) is not None
    eventually("deleted", lambda: method != "Release" or gone(first))
    first.running().kill()
    tracer.wait()
    return side_by_side(world, cases_of(first.log, thread), kill)


def gone(subject: Subject) -> bool:
    """Whether nothing of alice's is left."""
    return tree(subject.base) == WITHOUT_ALICE


def mended(subject: Subject) -> None:
    """Start again: what was half done is gone or done, and the next request makes it exact."""
    subject.running()
    eventually("mended", lambda: tree(subject.base) in (EXACT, WITHOUT_ALICE))
    reply = subject.ask("Request")
    assert reply is not None
    assert "error" not in reply, reply
    assert tree(subject.base) == EXACT
    assert sorted(os.listdir(subject.base)) == [".sockbroker.lock", "chat", "sockbroker"]
    for name in (f"{ALICE}", "2000"):
        assert os.listxattr(subject.chat / name) == []


def exact_or_absent(subject: Subject) -> None:
    """Whatever has a runtime directory's name is what the policy says, and so is the folder."""
    if subject.chat.exists():
        assert state(subject.chat) == (0, 0, "0711")
        assert state(subject.chat / ".sockbroker") == (0, 0, "0700")
        for uid in (ALICE, 2000):
            if (subject.chat / f"{uid}").exists():
                assert state(subject.chat / f"{uid}") == (uid, CHAT, "2750")


def no_folder(subject: Subject) -> None:
    """An administrator has removed the whole folder."""
    shutil.rmtree(subject.chat, ignore_errors=True)


def test_a_creation(world: World) -> None:
    """Folder and directory are complete or not there, and the next start has all of it exact.

    Taken out: the name under which `Folder._create` makes it (it was the last one); then half made
    ones are seen.
    """
    world.write(POLICY)
    killed = killed_while_serving(world, no_folder, "Request", exact_or_absent)
    assert killed["mkdirat"] == 3
    assert killed["renameat2"] == 2
    assert {"openat2", "chmod", "chown", "statx", "sendto"} <= set(killed)


def spoiled(subject: Subject) -> None:
    """An owner has done what he can to his directory."""
    path = subject.chat / f"{ALICE}"
    if not path.exists():
        assert subject.ask("Request")
    os.chown(path, ALICE, 99)
    for name in ("access", "default"):
        os.setxattr(path, f"system.posix_acl_{name}", ACL)
    path.chmod(0o1777)


def not_wider(subject: Subject) -> None:
    """As the owner had it, or on the way to what the policy says, and not wider than both."""
    status = (subject.chat / f"{ALICE}").lstat()
    mode = stat.S_IMODE(status.st_mode)
    assert status.st_uid == ALICE
    assert mode == 0o1777 or not mode & ~(0o2750 | stat.S_ISVTX), f"{mode:o}"
    acls = os.listxattr(subject.chat / f"{ALICE}")
    if mode != 0o1777:
        assert not ("system.posix_acl_access" in acls and mode & 0o070)
    if status.st_gid != 99:
        assert status.st_gid == CHAT
        assert mode != 0o1777
        assert acls == []


def test_a_repair(world: World) -> None:
    """On the way from what the owner made of it to the policy nothing is wider than both.

    Taken out: that `entries.bring` narrows first (it set the wanted mode at once); then the ACL
    gives what it had not.
    """
    world.write(POLICY)
    killed = killed_while_serving(world, spoiled, "Request", not_wider)
    assert killed["chmod"] == 2
    assert killed["chown"] == 1
    assert killed["removexattr"] == 2


def filled(subject: Subject) -> None:
    """A directory with something in it."""
    assert subject.ask("Request")
    path = subject.chat / f"{ALICE}"
    if not (path / "a").exists():
        (path / "a/b").mkdir(parents=True)
        (path / "a/b/file").touch()
        (path / "link").symlink_to("/etc")
        for name in ("a", "a/b"):
            os.chown(path / name, ALICE, ALICE)
        (path / "a/b").chmod(0o500)


def whole_or_gone(subject: Subject) -> None:
    """At its name the directory is as it was, with all that was in it."""
    exact_or_absent(subject)
    path = subject.chat / f"{ALICE}"
    if path.exists():
        assert sorted(os.listdir(path)) == ["a", "link"]
        assert os.listdir(path / "a/b") == ["file"]


def test_a_release(world: World) -> None:
    """A directory that is released is at its name whole, or it is gone.

    Taken out: that it is moved aside before it is deleted (`move_aside` emptied it); then half of
    it is seen.
    """
    world.write(POLICY)
    killed = killed_while_serving(world, filled, "Release", whole_or_gone)
    assert killed["renameat2"] == 1


@pytest.mark.parametrize("worker", [0, 1], ids=["who-looks-at-use", "who-deletes"])
def test_a_deletion(world: World, worker: int) -> None:
    """A deletion that is cut short is never seen at the name, and goes on at the next start.

    Taken out: what `Folder.sweep` names; then it is not gone on with.
    """
    world.write(POLICY)
    killed = killed_while_serving(world, filled, "Release", whole_or_gone, worker=worker)
    if worker == 1:
        assert killed["unlinkat"] >= 5
        assert {"chown", "chmod", "getdents64", "openat2"} <= set(killed)


def killed_while_starting(
    world: World, prepare: Callable[[Subject], None], judge: Callable[[Subject], None]
) -> Counter[str]:
    """Kill the loop's thread at each call of a start on the disk as it was prepared."""

    def under(subject: Subject, *arguments: str) -> list[str]:
        return ["strace", "-D", "-f", "-qq", "-o", str(subject.log), *arguments]

    def kill(subject: Subject, case: Case) -> None:
        shutil.rmtree(subject.base)
        subject.base.mkdir(mode=0o755)
        prepare(subject)
        name, number = case
        inject = ["-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}"]
        daemon = world.begin(*subject.arguments, under=under(subject, *inject))
        assert daemon.ended() == -9, "was not killed"
        judge(subject)
        mended(subject)
        subject.running().kill()

    first = Subject(world, "first")
    prepare(first)
    traced = under(first, "-e", f"trace={KILLED_AT}")
    daemon = world.start(None, *first.arguments, under=traced)
    thread = daemon.pid
    daemon.kill()
    ended = re.compile(rf"^{thread} +\+\+\+ killed", re.MULTILINE)
    eventually("traced", lambda: ended.search(first.log.read_text()))
    cases = [case for case in cases_of(first.log, thread) if case[0] != "getdents64"]
    return side_by_side(world, cases, kill)


def nothing(subject: Subject) -> None:
    """A fresh machine."""


def test_a_first_start(world: World) -> None:
    """Whatever a start has made when it is killed is complete, and the next one makes the rest.

    Taken out: the name under which `Folder._create` makes it (it was the last one); then half made
    ones are seen.
    """
    world.write(POLICY)
    killed = killed_while_starting(world, nothing, exact_or_absent)
    assert killed["mkdirat"] >= 4
    assert killed["renameat2"] == 1  # of the folder, with all that is in it


def test_a_start_that_mends(world: World) -> None:
    """A start that cleans up after a kill can be killed as well.

    Taken out: that `entries.bring` narrows first (it set the wanted mode at once); then the ACL
    gives what it had not.
    """
    world.write(POLICY)
    killed = killed_while_starting(
        world, lambda subject: left_by_another_kill(subject.base), not_wider
    )
    assert killed["unlinkat"] >= 4
    assert killed["chmod"] >= 3
