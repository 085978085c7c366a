"""What a pass leaves behind for the next one, on a real tmpfs as root."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import own_run
import pytest
from own_run import SHARED

from private_world import CLONE_NEWTIME, in_child, unshare
from sockbroker.core.boot_list import BootList
from sockbroker.core.policy import App, Policy, Position
from sockbroker.core.rules import Rules
from sockbroker.folders import Folders
from sockbroker.kernel.app_folder import Folder
from sockbroker.kernel.change_time import change_time
from sockbroker.kernel.directories import Base, Parent
from sockbroker.kernel.filling import fill
from sockbroker.kernel.last_pass import LastPass
from sockbroker.layout import BETWEEN_YIELDS, Report, bring

pytestmark = pytest.mark.root

MODE, GROUP = SHARED.mode, 4321

T = TypeVar("T")
SECOND = 10**9


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The daemon's."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def folder(base: Base) -> Iterator[Folder]:
    """With the directory of uid 1000 in it."""
    with base.folder("chat", Parent(mode=0o711, gid=0), adopt=False) as opened:
        opened.ensure(1000, SHARED, new_gid=0, limit=10)
        yield opened


def after(change: Path) -> int:
    """A moment after the last change of something, which has gone by."""
    while change_time() <= change.stat().st_ctime_ns:
        time.sleep(0.001)
    return change_time()


def told(folder: Folder, *, gid: int | None = GROUP, mode: int = MODE) -> bool:
    return not LastPass(folder.fileno()).doubtful([1000], mode, gid)


def test_what_has_not_changed_is_told(folder: Folder, run: Path) -> None:
    """From the moment on that was remembered; what is wanted may be something else meanwhile."""
    assert not told(folder)
    LastPass(folder.fileno()).remember(after(run / "chat/1000"))
    assert told(folder)
    assert told(folder, gid=None)
    assert not told(folder, gid=7)
    assert not told(folder, mode=0o700)
    assert LastPass(folder.fileno()).doubtful([1001], MODE, GROUP) == [1001]


def access_acl(path: Path) -> None:
    """Leaves mode and group as they are."""
    os.setxattr(path, own_run.ACCESS_ACL, own_run.acl(user=1001, permissions=5))
    path.chmod(MODE)  # the mask
    assert own_run.attributes(path) == (1000, GROUP, "2750")


def default_acl(path: Path) -> None:
    os.setxattr(path, own_run.DEFAULT_ACL, own_run.acl(user=1001, permissions=7))


def replaced(path: Path) -> None:
    """By another one, which was there long before."""
    other = path.with_name("other")
    other.mkdir()
    os.chown(other, 1000, GROUP)
    other.chmod(MODE)
    access_acl(other)
    path.rmdir()
    other.rename(path)


def mounted(path: Path) -> None:
    """A directory of the same file system, with the same owner, group and mode."""
    other = path.with_name("other")
    assert other.exists()
    own_run.mount(str(other), path, "", own_run.MS_BIND)


CHANGES: list[Callable[[Path], object]] = [
    access_acl,
    default_acl,
    replaced,
    mounted,
    lambda path: own_run.mount("tmpfs", path, "tmpfs", options=f"mode=2750,uid=1000,gid={GROUP}"),
    lambda path: path.chmod(0o2751),
    lambda path: os.chown(path, 1000, 7),
    lambda path: os.chown(path, 1001, GROUP),
    lambda path: (path.rmdir(), path.touch(0o2750), os.chown(path, 1000, GROUP)),
    lambda path: (path.rmdir(), path.symlink_to("/etc")),
    lambda path: path.rmdir(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_changed_is_not_told(
    folder: Folder, run: Path, change: Callable[[Path], object]
) -> None:
    """By its owner, by root, or by a mount.

    Seen to fail without the comparison of ctime, and without that of mounts.
    """
    path = run / "chat/1000"
    if change is mounted:
        path.with_name("other").mkdir()
        os.chown(path.with_name("other"), 1000, GROUP)
        path.with_name("other").chmod(MODE)
        after(path.with_name("other"))
    LastPass(folder.fileno()).remember(after(path))
    assert told(folder)
    change(path)
    assert not told(folder)


@pytest.mark.parametrize("change", CHANGES[4:])
def test_what_was_wrong_before_is_not_told(
    folder: Folder, run: Path, change: Callable[[Path], object]
) -> None:
    """All but an ACL is seen whenever it was changed.

    Seen to fail without each of the comparisons: owner, mode, mount.
    """
    change(run / "chat/1000")
    LastPass(folder.fileno()).remember(after(run / "chat"))
    assert not told(folder)


def test_a_change_at_the_very_moment_is_not_told(folder: Folder, run: Path) -> None:
    """The clock stands still for milliseconds, so that one may have come after the look.

    Seen to fail with <= in place of <.
    """
    changed = (run / "chat/1000").stat().st_ctime_ns
    last = LastPass(folder.fileno())
    last.remember(changed)
    assert not told(folder)
    last.remember(changed + 1)
    assert told(folder)
    last.remember(changed)  # what is known already is not forgotten
    assert told(folder)


def marked(run: Path, *, boot: int, moment: int) -> None:
    os.utime(run / "chat/.sockbroker", ns=(boot, moment))


def test_a_marker_that_no_pass_has_written_to_tells_nothing(folder: Folder, run: Path) -> None:
    """Nor one from before the clock was set, nor one from the future.

    Seen to fail without the comparison of the moment of boot, and without that with the clock.
    """
    moment = after(run / "chat/1000")
    LastPass(folder.fileno()).remember(moment)
    boot = (run / "chat/.sockbroker").stat().st_atime_ns
    assert abs(boot - (time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME))) < SECOND
    marked(run, boot=moment, moment=moment)  # as mkdir(2) leaves it
    assert not told(folder)
    for step in (-3600, -1, 1, 3600):
        marked(run, boot=boot + step * SECOND, moment=moment)
        assert not told(folder)
    marked(run, boot=boot, moment=time.time_ns() + 3600 * SECOND)
    assert not told(folder)
    marked(run, boot=boot, moment=moment)
    assert told(folder)


def test_what_a_pass_saw_before_the_clock_was_set_is_not_told(folder: Folder, run: Path) -> None:
    """Its beginning is a moment of the old clock: under the new one it may lie in the future.

    To set the clock is to give the boot another moment, which a time namespace does as well; the
    wall clock itself is the same in all of them.  Seen to fail where the moment of boot is only
    read when the marker is written.
    """
    moment = after(run / "chat/1000")
    begun = LastPass(folder.fileno())

    def end_it() -> bool:
        begun.remember(moment)
        return told(folder)

    assert not after_the_clock_was_set(end_it)
    begun.remember(moment)
    assert told(folder)


def after_the_clock_was_set(act: Callable[[], T]) -> T:
    """Run `act` where the system was booted an hour earlier; see time_namespaces(7)."""

    def enter() -> T:
        unshare(CLONE_NEWTIME)
        Path("/proc/self/timens_offsets").write_text("boottime 3600 0")
        return in_child(act)  # only children are in it

    return in_child(enter)


# The passes themselves.

APP = App(
    name="chat",
    description="",
    position=Position(1, 1),
    mode=MODE,
    gid=GROUP,
    parent_mode=0o711,
    parent_gid=0,
    max_directories=100,
    adopt=True,
    allow=Rules(),
    deny=Rules(),
    at_boot=BootList(spans=((1000, 1001),), gid=GROUP),
    deny_all=None,
)
POLICY = Policy(
    file="",
    apps={"chat": APP},
    unserved={},
    warnings=(),
    unresolved=(),
    uid_range=(1000, 60000),
    user_names={},
    group_names={},
)


def nothing_left(app: str, name: str) -> None:
    raise AssertionError((app, name))


def a_pass(*, at_start: bool = True) -> Report:
    report = Report()
    with Base.open("/run") as base:
        for _ in bring(Folders(base), POLICY, report, nothing_left if at_start else None):
            continue
    return report


def moment_of(run: Path) -> int:
    marker = (run / "chat/.sockbroker").stat()
    now = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return marker.st_mtime_ns if abs(marker.st_atime_ns - now) < SECOND else 0


@pytest.mark.parametrize("at_start", [True, False])
def test_an_acl_is_found_by_every_pass(run: Path, at_start: bool) -> None:
    """Whether it is set after a pass, or was there before the first one saw the directory.

    Seen to fail when a marker that was just made is believed.
    """
    (run / "chat").mkdir(mode=0o711)  # adopted
    (run / "chat").chmod(0o711)
    (run / "chat/1000").mkdir()
    os.chown(run / "chat/1000", 1000, GROUP)
    (run / "chat/1000").chmod(MODE)
    for _ in range(3):
        access_acl(run / "chat/1000")
        report = a_pass(at_start=at_start)
        assert (report.repaired, report.problems) == (1, [])
        assert own_run.acls(run / "chat/1000") == []
        access_acl(run / "chat/1000")  # at once, in the same tick
        assert a_pass(at_start=at_start).repaired == 1


def test_what_changes_during_a_pass_is_found_by_the_next_one(run: Path) -> None:
    """Even behind its back.

    Seen to fail when the moment is the end of the pass.
    """
    a_pass()
    with Base.open("/run") as base:
        for _ in bring(Folders(base), POLICY, Report()):
            access_acl(run / "chat/1000")
            after(run / "chat/1000")
    assert own_run.acls(run / "chat/1000") != []
    assert a_pass().repaired == 1


def test_what_comes_before_a_folder_is_read_is_looked_at(run: Path) -> None:
    """A pass vouches for everything that is there when it begins with a folder, or it is no pass.

    Seen to fail when the folder was listed before.
    """
    a_pass()
    report = Report()
    with Base.open("/run") as base:
        passing = bring(Folders(base), POLICY, report, nothing_left)
        next(passing)
        (run / "chat/1002").mkdir()
        os.chown(run / "chat/1002", 1002, GROUP)
        os.setxattr(run / "chat/1002", own_run.ACCESS_ACL, own_run.acl(user=1001, permissions=5))
        (run / "chat/1002").chmod(MODE)
        for _ in passing:
            continue
    assert (report.repaired, own_run.acls(run / "chat/1002")) == (1, [])


def test_a_folder_that_is_filled_is_remembered(run: Path) -> None:
    """From the end of its filling on, since nobody could reach it before: and not by a later pass
    from earlier on."""
    began = change_time()
    assert a_pass().created == 2
    filled = moment_of(run)
    assert began <= filled <= change_time()
    assert filled <= (run / "chat").stat().st_ctime_ns
    access_acl(run / "chat/1000")
    report = a_pass()
    assert (report.repaired, report.right) == (1, 1)


def test_what_is_done_as_soon_as_a_folder_is_there_is_found(run: Path) -> None:
    """By the next pass: the one that filled it has looked at nothing since others could reach it.

    Seen to fail where that one remembers its own beginning.
    """
    with Base.open(str(run)) as base:
        passing = bring(Folders(base), POLICY, Report(), nothing_left)
        while not (run / "chat").exists():
            next(passing)
        access_acl(run / "chat/1000")
        after(run / "chat/1000")
        for _ in passing:
            pass
    report = a_pass()
    assert (report.repaired, report.right) == (1, 1)


def test_a_pass_that_has_nothing_to_do_gives_way_all_the_same(run: Path) -> None:
    """To the peers, after some directories each time; and it counts each of them once.

    Seen to fail where it gives way only for those that are not right, and where those that are
    wanted at boot are looked at again.
    """
    many = 10 * BETWEEN_YIELDS
    listed = BootList(spans=((1000, 1000 + many - 1),), gid=GROUP)
    policy = POLICY._replace(apps={"chat": APP._replace(max_directories=many, at_boot=listed)})
    with Base.open(str(run)) as base:
        for _ in range(3):  # the first makes them, the second has to look closely
            report = Report()
            parts = len(list(bring(Folders(base), policy, report, nothing_left)))
            after(run / f"chat/{1000 + many - 1}")
    assert (report.created, report.right) == (0, many)
    assert many / BETWEEN_YIELDS <= parts < many


def test_of_many_that_were_made_at_once_each_is_told(run: Path) -> None:
    """Even of those that were made in the last tick of the clock.

    Seen to fail without the wait for the next one.
    """
    uids = range(1000, 1600)
    with Base.open(str(run)) as base:
        *_, made = fill(
            base.fileno(),
            "chat",
            parent=Parent(mode=0o711, gid=0),
            mode=0o700,
            directories=[(uid, uid) for uid in uids],
        )
        assert made == len(uids)
        with base.folder("chat", Parent(mode=0o711, gid=0), adopt=False) as folder:
            last = LastPass(folder.fileno())
            assert [uid for uid in uids if last.doubtful([uid], 0o700, uid)] == []


def test_a_pass_that_found_a_problem_is_not_remembered(run: Path) -> None:
    """What could not be made right would else be taken for right.

    Seen to fail when every pass is remembered.
    """
    a_pass(at_start=False)
    os.utime(run / "chat/.sockbroker")
    os.chown(run / "chat/1001", 7, 7)
    assert len(a_pass().problems) == 1
    assert moment_of(run) == 0
    os.chown(run / "chat/1001", 1001, 7)
    assert a_pass().problems == []
    assert moment_of(run) > 0
