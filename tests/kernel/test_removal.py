"""What was moved aside is deleted whatever its owner made of it, and nothing else is touched.

test_confined.py runs these once more on a kernel without openat2.
"""

import ctypes
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import own_run
import pytest
from own_run import PARENT, PRIVATE, acl, names, never

from file_record import record
from sockbroker.confinement import KEPT
from sockbroker.kernel.capabilities import keep
from sockbroker.kernel.directories import Base, Folder
from sockbroker.kernel.removal import Parked, Removed, Stopped, remove

pytestmark = pytest.mark.root

FILES = 100_000
DEPTH = 20_000
RENAME_EXCHANGE = 2  # include/uapi/linux/fs.h

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def folder(base: Base) -> Iterator[Folder]:
    with base.folder("chat", PARENT, adopt=False) as folder:
        folder.ensure(1000, PRIVATE, new_gid=1000, limit=10)
        yield folder


def fill(act: Callable[[], None]) -> None:
    """Run `act` as the owner, in his directory."""

    def there() -> None:
        os.chdir("/run/chat/1000")
        act()

    own_run.run_as(1000, there)


def delete(folder: Folder, stop: Callable[[], bool] = never) -> Removed | Parked | Stopped:
    """Move the directory aside and delete it."""
    return remove(folder.fileno(), folder.move_aside(1000), stop=stop)


def assert_gone(folder: Folder, run: Path) -> None:
    assert delete(folder) == Removed()
    assert names(run / "chat") == [".sockbroker"]


def test_empty(folder: Folder, run: Path) -> None:
    """An empty directory is gone."""
    assert_gone(folder, run)


def test_a_second_time(folder: Folder) -> None:
    """What is gone already is Removed."""
    name = folder.move_aside(1000)
    assert [remove(folder.fileno(), name, stop=never) for _ in range(2)] == [Removed()] * 2


def test_every_kind_of_entry(folder: Folder, run: Path) -> None:
    """Files, links, fifos, sockets and strange names go at once, and nothing of it is opened."""
    (run / "outside").mkdir()
    (run / "outside/file").write_text("stays")

    def make() -> None:
        os.symlink("/run/outside", "link")
        os.symlink("nowhere", "dangling")
        os.mkfifo("fifo")
        socket.socket(socket.AF_UNIX).bind("socket")
        for name in (b"\xff\xfe", b"\x1b[31m\n", b"-rf", b" ", b"n" * 255, "१".encode()):
            os.mkdir(name)
            Path(os.fsdecode(name), "file").touch()
        Path("setuid").touch(mode=0o700)
        os.chmod("setuid", 0o4755)

    fill(make)
    own_run.within(30, lambda: assert_gone(folder, run))
    assert (run / "outside/file").read_text() == "stays"


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o500, 0o1777, 0o2777, 0o6777])
def test_modes(folder: Folder, run: Path, mode: int) -> None:
    """No mode of his keeps a directory from being deleted, at any depth.

    Taken out: what `_take_over` changes; then what is locked stays.
    """

    def make() -> None:
        os.makedirs("a/b/c")
        Path("a/b/c/file").touch()
        for path in ("a/b/c", "a/b", "a", "."):
            os.chmod(path, mode)

    def as_the_daemon() -> None:
        keep(KEPT)  # as all of root nothing could keep it
        assert_gone(folder, run)

    fill(make)
    own_run.within(30, as_the_daemon)


def test_acls(folder: Folder, run: Path) -> None:
    """ACLs, for access and for what is new, keep nothing."""

    def make() -> None:
        os.makedirs("a/b")
        for name in (own_run.ACCESS_ACL, own_run.DEFAULT_ACL):
            for path in (".", "a", "a/b"):
                os.setxattr(path, name, acl(user=1001, permissions=7))

    fill(make)
    assert_gone(folder, run)


def test_what_others_left_in_it(folder: Folder, run: Path) -> None:
    """Files and directories of other users that lie in it go as well."""
    (run / "chat/1000").chmod(0o1777)

    def make() -> None:
        os.makedirs("/run/chat/1000/theirs/below", mode=0o700)
        Path("/run/chat/1000/theirs/below/file").touch()

    own_run.run_as(1001, make)
    assert_gone(folder, run)


def test_hard_links_are_only_names(folder: Folder, run: Path) -> None:
    """A file that has a name elsewhere keeps owner, mode and contents, whosever it is.

    Taken out: that `_delete_leaf` changes nothing before it unlinks (it set a mode); then the file
    has that.
    """
    (run / "roots").write_text("stays")
    (run / "roots").chmod(0o666)
    os.link(run / "roots", run / "chat/1000/link")
    os.makedirs(run / "chat/1000/a/b")
    os.link(run / "roots", run / "chat/1000/a/b/link")
    assert_gone(folder, run)
    assert own_run.attributes(run / "roots") == (0, 0, "0666")
    assert ((run / "roots").read_text(), (run / "roots").stat().st_nlink) == ("stays", 1)


def test_deep(folder: Folder, run: Path) -> None:
    """A tree of 20,000 levels goes, with a handful of descriptors and no recursion."""

    def make() -> None:
        for _ in range(DEPTH):
            os.mkdir("d", 0o700)
            os.chdir("d")

    fill(make)
    before, most = own_run.descriptors(), 0
    asked = 0

    def stop() -> bool:
        nonlocal most, asked
        asked += 1
        if asked % 100 == 0:
            most = max(most, own_run.descriptors())
        return False

    assert delete(folder, stop) == Removed()
    assert names(run / "chat") == [".sockbroker"]
    assert asked >= DEPTH
    assert most <= before + 7
    assert own_run.descriptors() == before


def test_many(folder: Folder, run: Path) -> None:
    """A directory of 100,000 entries goes."""

    def make() -> None:
        for number in range(FILES):
            os.mknod(f"{number}", stat.S_IFREG | 0o600)

    fill(make)
    assert_gone(folder, run)


def test_wide_and_deep(folder: Folder, run: Path) -> None:
    """A tree with something in each of many directories goes."""

    def make() -> None:
        for a in range(20):
            for b in range(20):
                os.makedirs(f"{a}/{b}/c")
                for path in (f"{a}/{b}/file", f"{a}/{b}/c/file"):
                    Path(path).touch()

    fill(make)
    assert_gone(folder, run)


def test_refilled_while_it_is_deleted(folder: Folder, run: Path) -> None:
    """An owner who is in it, has it open and fills it as fast as he can does not keep it."""
    for _ in range(20):
        fill(lambda: os.makedirs("a/b/c"))
        number = 0

        def refill() -> None:
            nonlocal number
            number += 1
            if number == 1:
                os.chdir("/run/chat/1000/a")
            os.makedirs(f"x{number}/y")
            Path(f"b/c/z{number}").touch()
            os.chmod(".", 0o777)

        with own_run.looping_as(1000, refill):
            for _ in range(3000):  # until he is at it
                if (run / "chat/1000/a/b/c/z10").exists():
                    break
                time.sleep(0.01)
            end = time.monotonic() + 60
            assert delete(folder, lambda: time.monotonic() > end) == Removed()  # noqa: B023
        folder.ensure(1000, PRIVATE, new_gid=1000, limit=10)


def test_exchanged_while_it_is_deleted(folder: Folder, run: Path) -> None:
    """An owner who swaps directories and links in a loop gets nothing outside changed."""
    outside = run / "outside"
    outside.mkdir(mode=0o751)
    (outside / "below").mkdir()
    (outside / "below/file").touch()
    before = record(outside), record(outside / "below")
    for _ in range(50):

        def make() -> None:
            os.makedirs("a/d/below")
            Path("a/d/below/file").touch()
            os.symlink("/run/outside", "a/link")

        fill(make)
        inside = os.open(run / "chat/1000/a", os.O_PATH)

        def exchange() -> int:
            return _libc.renameat2(inside, b"d", inside, b"link", RENAME_EXCHANGE)  # noqa: B023

        assert exchange() == 0
        with own_run.looping_as(1000, exchange):
            assert delete(folder) == Removed()
        os.close(inside)
        folder.ensure(1000, PRIVATE, new_gid=1000, limit=10)
    assert (record(outside), record(outside / "below")) == before
    assert names(outside / "below") == ["file"]


@pytest.mark.parametrize("allow_other", [True, False])
@pytest.mark.parametrize("where", ["a", "a/b/c", "."])
def test_fuse_in_it(folder: Folder, run: Path, where: str, *, allow_other: bool) -> None:
    """A server that never answers is parked; all else goes, and it when the mount is gone."""
    fill(lambda: os.makedirs("a/b/c"))
    fill(lambda: Path("a/file").touch() if where == "a/b/c" else Path("file").touch())
    name = folder.move_aside(1000)
    target = run / "chat" / name / where
    with own_run.mounted_fuse(target, uid=1000, allow_other=allow_other):

        def act() -> None:
            for _ in range(2):
                assert remove(folder.fileno(), name, stop=never) == Parked(
                    "something is mounted on or in it"
                )

        own_run.within(10, act)
        assert folder.sweep(folder.names()) == [name]
    assert remove(folder.fileno(), name, stop=never) == Removed()


def test_bind_mounts_in_it(folder: Folder, run: Path) -> None:
    """What an administrator mounted below it, a directory or a file, keeps all that it has."""
    fill(lambda: os.makedirs("a/mounted"))
    fill(lambda: Path("a/file").touch())
    fill(lambda: Path("gone").touch())
    (run / "data").mkdir()
    (run / "data/precious").write_text("stays")
    own_run.mount("/run/data", run / "chat/1000/a/mounted", "", own_run.MS_BIND)
    own_run.mount("/run/data/precious", run / "chat/1000/a/file", "", own_run.MS_BIND)
    before = record(run / "data"), record(run / "data/precious")
    assert delete(folder) == Parked("something is mounted on or in it")
    assert (record(run / "data"), record(run / "data/precious")) == before
    (left,) = folder.sweep(folder.names())
    found = [name for _, folders, files in os.walk(run / "chat" / left) for name in folders + files]
    assert "gone" not in found
    assert "precious" in found


@pytest.mark.parametrize("at", [3, 4, 10, 50])
def test_stopped_and_gone_on_with(folder: Folder, run: Path, at: int) -> None:
    """It ends when it is told to, wherever it is, and the next call goes on."""

    def make() -> None:
        for a in range(5):
            for b in range(5):
                os.makedirs(f"{a}/{b}/c/d")

    fill(make)
    name = folder.move_aside(1000)
    rounds = 0
    while True:
        asked = 0

        def stop() -> bool:
            nonlocal asked
            asked += 1
            return asked > at

        result = remove(folder.fileno(), name, stop=stop)
        if result != Stopped():
            break
        rounds += 1
        assert rounds < 1000
    assert result == Removed()
    assert rounds > 0
    assert names(run / "chat") == [".sockbroker"]


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_only_directories(folder: Folder, run: Path, kind: str) -> None:
    """What is no directory was not moved aside by the broker, and is left alone."""
    path = run / "chat/.old-1000-0123456789abcdef"
    match kind:
        case "file":
            path.touch()
        case "link":
            path.symlink_to("/run/chat/1000")
        case "fifo":
            os.mkfifo(path)
    before = record(path)
    result = remove(folder.fileno(), path.name, stop=never)
    assert isinstance(result, Parked)
    assert "not a directory" in result.reason
    assert record(path) == before
    assert (run / "chat/1000").stat().st_uid == 1000


def test_two_at_once(folder: Folder, run: Path) -> None:
    """Two runs of one deletion do not disturb each other."""
    fill(lambda: os.makedirs("/".join("abcdefgh")))
    name = folder.move_aside(1000)
    inner: list[object] = []

    def stop() -> bool:
        if len(inner) < 3:
            inner.append(None)
            inner[-1] = remove(folder.fileno(), name, stop=never)
        return False

    assert remove(folder.fileno(), name, stop=stop) == Removed()
    assert inner[0] == Removed()
    assert names(run / "chat") == [".sockbroker"]
