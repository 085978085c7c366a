"""Killed at any system call, the broker leaves nothing wrong to see, and the next start mends it.

Each case runs once to learn which system calls the work makes, and then once for each of them,
killed there by strace's injection: before the call, so that every state between two is met.
"""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import own_run
import pytest
from own_run import PARENT, SHARED, acl, acls, attributes, names

from sockbroker.kernel.directories import Base

pytestmark = pytest.mark.root

PROGRAM = Path(__file__).with_name("broken_off.py")
CALL = re.compile(r"(?:\d+ +)?(\w+)\(")

# What the interpreter does beside the work, and what ends no state that anybody could see.
HARMLESS = {"read", "write", "lseek", "mmap", "ioctl", "fcntl", "faccessat2", "faccessat", "access"}


def traced(arguments: list[str], base: Path, work: str) -> int:
    """Run the work under strace; return how it ended."""
    program = [sys.executable, "-S", "-B", "-E", str(PROGRAM), str(own_run.SOURCE), str(base), work]
    ended = subprocess.run(
        ["strace", "-qq", *arguments, *program],
        check=False,
        env={"PYTHONHASHSEED": "0", "PATH": os.environ["PATH"]},
        stderr=subprocess.PIPE,
    )
    assert ended.returncode in {0, -signal.SIGKILL, 128 + signal.SIGKILL}, ended.stderr.decode()
    return ended.returncode


def calls_of(base: Path, log: Path, work: str) -> list[tuple[str, int]]:
    """Name each system call that the work makes, and say how many of its name came before it."""
    assert traced(["-o", str(log), "-e", "trace=%file,%desc"], base, work) == 0
    seen: Counter[str] = Counter()
    calls, within = [], False
    for line in log.read_text(errors="replace").splitlines():
        found = CALL.match(line)
        if found is None:
            continue
        seen[found[1]] += 1
        if "/begin of the work" in line:
            within = True
        elif "/end of the work" in line:
            within = False
        elif within and found[1] not in HARMLESS:
            calls.append((found[1], seen[found[1]]))
    return calls


def kill_at_each(
    run: Path,
    log: Path,
    work: str,
    prepare: Callable[[Path], None],
    judge: Callable[[Path], None],
) -> Counter[str]:
    """Do the work, killed at each of its calls, on a base of its own each time; judge what is left.

    Then a start has to make it all exact.  Returns how often each system call was the last one.
    """

    def one(number: int, call: tuple[str, int]) -> str:
        base = run / f"base{number}"
        _new_base(base, prepare)
        name, occurrence = call
        inject = ["-o", "/dev/null", "-e", f"trace={name}", "-e"]
        inject += [f"inject={name}:signal=KILL:when={occurrence}"]
        assert traced(inject, base, work) != 0, f"was not killed at {call}"
        try:
            judge(base)
        except AssertionError as error:
            raise AssertionError(f"killed at {name} number {occurrence}: {error}") from error
        return name

    _new_base(run / "first", prepare)
    calls = calls_of(run / "first", log, work)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        killed = Counter(pool.map(one, range(len(calls)), calls))
    for number in range(len(calls)):
        _assert_mended(run / f"base{number}")
    return killed


def _new_base(base: Path, prepare: Callable[[Path], None]) -> None:
    base.mkdir(mode=0o755)
    prepare(base)


def _assert_mended(base: Path) -> None:
    own_run.recover(base, "chat", 1000, SHARED)
    assert names(base) == [".sockbroker.lock", "chat"]
    assert names(base / "chat") == [".sockbroker", "1000"]
    assert attributes(base / "chat") == (0, 0, "0711")
    assert attributes(base / "chat/.sockbroker") == (0, 0, "0700")
    assert attributes(base / "chat/1000") == (1000, 4321, "2750")
    assert acls(base / "chat/1000") == []


def _assert_folder_exact_or_absent(base: Path) -> None:
    if (base / "chat").exists():
        assert attributes(base / "chat") == (0, 0, "0711")
        assert attributes(base / "chat/.sockbroker") == (0, 0, "0700")


def _assert_exact_or_absent(base: Path) -> None:
    _assert_folder_exact_or_absent(base)
    if (base / "chat/1000").exists():
        assert attributes(base / "chat/1000") == (1000, 4321, "2750")


def nothing(base: Path) -> None:
    """The base as it is on a fresh machine."""


def made(base: Path) -> None:
    """The base with a directory that has something in it."""
    with Base.open(str(base)) as opened, opened.folder("chat", PARENT, adopt=False) as folder:
        folder.ensure(1000, SHARED, new_gid=1000, limit=10)
    below = base / "chat/1000/a/b"
    below.mkdir(parents=True)
    for path in (base / "chat/1000/a", below):
        os.chown(path, 1000, 1000)
        path.chmod(0o500)
    (below / "file").touch()
    (base / "chat/1000/link").symlink_to("/etc")


def test_creation(run: Path, tmp_path: Path) -> None:
    """Folder and directory are complete or not there.

    Taken out: the name under which `Folder._create` makes it (it was the last one); then half made
    ones are seen.
    """
    killed = kill_at_each(run, tmp_path / "log", "start", nothing, _assert_exact_or_absent)
    assert killed["mkdirat"] == 3
    assert killed["renameat2"] == 2
    assert {"openat2", "chmod", "chown", "statx", "listxattr", "flock"} <= set(killed)


def test_repair(run: Path, tmp_path: Path) -> None:
    """On the way from what an owner made of it to what is wanted nothing is wider than either.

    Taken out: the first `set_mode` of `entries.bring`; then the group gets what was the old one's.
    """

    def spoiled(base: Path) -> None:
        made(base)
        path = base / "chat/1000"
        os.chown(path, 1000, 99)
        for name in (own_run.ACCESS_ACL, own_run.DEFAULT_ACL):
            os.setxattr(path, name, acl(user=1001, permissions=7))
        path.chmod(0o1777)

    def judge(base: Path) -> None:
        _assert_folder_exact_or_absent(base)
        path = base / "chat/1000"
        uid, gid, text = attributes(path)
        mode, has_access = int(text, 8), own_run.ACCESS_ACL in acls(path)
        assert uid == 1000
        if mode != 0o1777:
            assert not mode & ~0o3750, text  # sticky takes rights away
            assert not (has_access and mode & 0o070), "the ACL still gives something"
        if gid != 99:
            assert gid == 4321
            assert mode != 0o1777
            assert acls(path) == []

    killed = kill_at_each(run, tmp_path / "log", "start", spoiled, judge)
    assert killed["chmod"] == 2
    assert killed["chown"] == 1
    assert killed["removexattr"] == 2


def test_folder_repair(run: Path, tmp_path: Path) -> None:
    """A folder that is brought to another mode and group is never wider than before or wanted.

    Taken out: the first `set_mode` of `entries.bring`; then it is wider than both.
    """

    def spoiled(base: Path) -> None:
        made(base)
        os.chown(base / "chat", 0, 99)
        (base / "chat").chmod(0o750)

    def judge(base: Path) -> None:
        _, gid, text = attributes(base / "chat")
        mode = int(text, 8)
        assert mode == 0o750 or not mode & ~0o711, text
        assert gid == 99 or not mode & ~0o711, text

    killed = kill_at_each(run, tmp_path / "log", "start", spoiled, judge)
    assert killed["chmod"] == 2


def test_adoption(run: Path, tmp_path: Path) -> None:
    """A folder that is being adopted keeps what is in it.

    Taken out: that `entries.bring` begins with what both modes have (it began with none); then the
    folder is closed for a moment.
    """

    def other(base: Path) -> None:
        (base / "chat").mkdir(mode=0o755)
        (base / "chat/1000").mkdir()
        os.chown(base / "chat/1000", 1000, 99)

    def judge(base: Path) -> None:
        assert attributes(base / "chat")[2] in {"0755", "0711"}
        assert (base / "chat/1000").stat().st_uid == 1000
        if not (base / "chat/.sockbroker").exists():
            (base / "chat/.sockbroker").mkdir(mode=0o700)  # so that the mending need not adopt

    killed = kill_at_each(run, tmp_path / "log", "start", other, judge)
    assert killed["mkdirat"] == 1


def test_release(run: Path, tmp_path: Path) -> None:
    """A directory that is being deleted is at its name whole, or not at all.

    Taken out: that it is moved aside before it is deleted (`move_aside` emptied it); then half of
    it is seen.
    """

    def judge(base: Path) -> None:
        _assert_exact_or_absent(base)
        if (base / "chat/1000").exists():
            assert names(base / "chat/1000") == ["a", "link"]
            assert names(base / "chat/1000/a/b") == ["file"]

    killed = kill_at_each(run, tmp_path / "log", "release", made, judge)
    assert killed["unlinkat"] >= 10
    assert killed["renameat2"] >= 1
    assert {"chown", "chmod", "getdents64", "openat2"} <= set(killed)


def test_sweeping_itself_is_killed(run: Path, tmp_path: Path) -> None:
    """A start that cleans up after a kill can be killed as well.

    Taken out: what `Folder.sweep` names; then it is not gone on with.
    """
    tag = "0123456789abcdef"

    def left(base: Path) -> None:
        made(base)
        chat = base / "chat"
        chat.joinpath("1000").rename(chat / f".old-1000-{tag}")
        for name in (f".new-1000-{tag}", f".new-1001-{tag}"):
            (chat / name).mkdir(mode=0o700)
        (chat / f".new-1001-{tag}/file").touch()
        (base / ".sockbroker-new-chat/.sockbroker").mkdir(parents=True, mode=0o700)
        (base / ".sockbroker-old-other/.sockbroker").mkdir(parents=True, mode=0o700)

    killed = kill_at_each(run, tmp_path / "log", "start", left, _assert_exact_or_absent)
    assert killed["unlinkat"] >= 15
    assert killed["renameat2"] >= 2


def test_retirement(run: Path, tmp_path: Path) -> None:
    """A folder that is being removed is at its name with its marker, or not at all.

    Taken out: that `Base.retire` moves the folder aside first; then there is one without a marker.
    """

    def empty(base: Path) -> None:
        with Base.open(str(base)) as opened:
            opened.folder("chat", PARENT, adopt=False).close()

    killed = kill_at_each(run, tmp_path / "log", "retire", empty, _assert_folder_exact_or_absent)
    assert killed["renameat2"] == 1
    assert killed["unlinkat"] >= 2
