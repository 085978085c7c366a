"""The quick look at many directories tells what the thorough looks tell, whatever their owners do.

Each arrangement is judged by both, with real sockets, locks, mounts, ACLs and file systems.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import own_run
import pytest
import test_usage
from own_run import ACCESS_ACL, DEFAULT_ACL, acl
from test_usage import Arrange, bound, filled, holding, shared

from private_world import ALICE, MALLORY, in_private_world, mount_tmpfs
from sockbroker.kernel import survey, usage
from sockbroker.kernel.app_folder import Folder
from sockbroker.kernel.change_time import change_time, next_tick
from sockbroker.kernel.last_pass import LastPass
from sockbroker.kernel.survey import Sight, Survey
from sockbroker.kernel.syscalls import TMPFS_MAGIC, file_system_type
from sockbroker.kernel.usage import UNKNOWN, UNUSED, Tables, read_tables, usage_of

pytestmark = pytest.mark.root

T = TypeVar("T")

DIRECTORY = Path(f"/run/chat/{ALICE}")


def chat() -> Folder:
    """Open the folder."""
    descriptor = os.open("/run/chat", os.O_PATH | os.O_CLOEXEC)
    return Folder(descriptor, "/run/chat", "chat")


def arranged(arrange: Arrange, act: Callable[[], T], *, passed: str = "never") -> T:
    """Arrange something in a runtime directory of alice's, and do something in that world.

    `passed` says whether a pass has gone over the folder, before it was so or since.
    """

    def world() -> T:
        Path("/run/chat/.sockbroker").mkdir(parents=True, mode=0o700)
        DIRECTORY.mkdir(mode=0o700)
        os.chown(DIRECTORY, ALICE, ALICE)
        if passed == "before":
            remember_a_pass()
        kept = arrange(DIRECTORY)
        if passed == "since":
            remember_a_pass()
        done = act()
        del kept
        return done

    return in_private_world(world)


def remember_a_pass() -> None:
    """Note that no directory of the folder has an ACL."""
    next_tick()
    with chat() as folder:
        LastPass(folder.fileno()).remember(change_time())


def surveyed() -> Sight | None:
    """Take the quick look."""
    with chat() as folder:
        return Survey(folder, read_tables()).look(ALICE)


def both() -> tuple[Sight | None, Sight | None]:
    """Take the quick look and the thorough ones."""
    with chat() as folder:
        tables = read_tables()
        entry = folder.look(ALICE)
        if entry is None:
            return Survey(folder, tables).look(ALICE), None
        used = usage_of(folder.fileno(), str(ALICE), ALICE, tables)
        thorough = Sight(*entry, used)
        return Survey(folder, tables).look(ALICE), thorough


def with_acl(name: str) -> Arrange:
    def arrange(directory: Path) -> object:
        os.setxattr(directory, name, acl(user=MALLORY, permissions=7))
        return None

    return arrange


def many_attributes(directory: Path) -> object:
    """More names than the kernel lists for anybody, and an ACL among them."""
    for number in range(300):
        os.setxattr(directory, f"trusted.{number:0>240}", b"")
    os.setxattr(directory, ACCESS_ACL, acl(user=MALLORY, permissions=7))
    with pytest.raises(OSError, match="too long"):
        os.listxattr(directory)
    return None


def another_attribute(directory: Path) -> object:
    try:
        os.setxattr(directory, "user.note", b"x")
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP  # noqa: PT017  before Linux 6.6 there are none
    return None


def another_mode(directory: Path) -> object:
    directory.chmod(0o2751)
    return None


def somebody_elses(directory: Path) -> object:
    os.chown(directory, MALLORY, MALLORY)
    return None


def bind_mounted(directory: Path) -> object:
    """The same file system, the same owner, and yet a mount."""
    elsewhere = Path("/run/elsewhere")
    elsewhere.mkdir(mode=0o700)
    os.chown(elsewhere, ALICE, ALICE)
    own_run.mount(str(elsewhere), directory, "", own_run.MS_BIND)
    return None


def tmpfs_mounted(directory: Path) -> object:
    mount_tmpfs(str(directory), f"uid={ALICE},gid={ALICE},mode=0700")
    return None


def away(directory: Path) -> object:
    directory.rmdir()
    return None


def replaced(make: Callable[[Path], object]) -> Arrange:
    def arrange(directory: Path) -> object:
        directory.rmdir()
        kept = make(directory)
        os.chown(directory, ALICE, ALICE, follow_symlinks=False)
        return kept

    return arrange


ACLS: list[Arrange] = [with_acl(ACCESS_ACL), with_acl(DEFAULT_ACL), many_attributes]
OTHERS: list[Arrange] = [
    test_usage.nothing,
    test_usage.listener,
    test_usage.dead,
    test_usage.dead_and_live,
    test_usage.deleted,
    test_usage.other_kinds,
    test_usage.subdirectory,
    test_usage.in_another_network_namespace,
    test_usage.entry_mounted_on,
    holding(shared),
    holding(shared, mode=0o604),
    filled(1),
    filled(usage.MOST_ENTRIES + 1),
    another_attribute,
    another_mode,
    somebody_elses,
    bind_mounted,
    tmpfs_mounted,
    away,
    replaced(Path.touch),
    replaced(lambda path: path.write_bytes(bytes(survey._EMPTY))),
    replaced(os.mkfifo),
    replaced(lambda path: path.symlink_to("/run")),
    replaced(bound),
]


@pytest.mark.parametrize(
    ("arrange", "passed"),
    [(each, passed) for each in [*OTHERS, *ACLS] for passed in ("never", "before")]
    + [(each, "since") for each in OTHERS],
)
def test_it_tells_what_the_thorough_looks_tell(arrange: Arrange, passed: str) -> None:
    """Seen to fail for a mount, an owner, an ACL or a kind that the quick look takes for usual.

    That is, without the line that tells it: of MOUNT_ROOT, of the owner, of S_ISDIR, of either name
    of an ACL, of the list of attributes that does not fit, of a change since the last pass.
    """
    quick, thorough = arranged(arrange, both, passed=passed)
    assert quick == thorough


def test_what_has_not_changed_since_the_last_pass_is_not_opened_at_all() -> None:
    """Seen to fail without the look by name."""

    def world() -> tuple[Sight | None, list[object]]:
        opened = []

        def note(event: str, arguments: tuple[object, ...]) -> None:
            if event == "open":
                opened.append(arguments[0])

        with chat() as folder:
            quick = Survey(folder, read_tables())
            sys.addaudithook(note)  # which ends with this process
            return quick.look(ALICE), opened.copy()

    unused = Sight(0o700, ALICE, False, None, UNUSED)
    assert arranged(test_usage.nothing, world, passed="since") == (unused, [])
    assert arranged(test_usage.nothing, world) == (unused, [str(ALICE)])


class _Opened(NamedTuple):
    sight: Sight | None
    opened: int


def counting() -> _Opened:
    """Take the quick look, and count how often the directory is opened to be read."""
    read = []
    really = usage.open_list

    def open_list(directory: int, name: str = ".") -> int:
        read.append(name)
        return really(directory, name)

    usage.open_list = open_list
    try:
        return _Opened(surveyed(), len(read))
    finally:
        usage.open_list = really


def test_an_empty_directory_is_not_opened() -> None:
    """On tmpfs its size tells; one with an entry, or that had one, is what it is now."""

    def left_empty(directory: Path) -> object:
        (directory / "file").touch()
        (directory / "file").rename(directory / "other")
        (directory / "other").unlink()
        return None

    unused = Sight(0o700, ALICE, False, None, UNUSED)
    assert arranged(test_usage.nothing, counting) == (unused, 0)
    assert arranged(left_empty, counting) == (unused, 0)
    assert arranged(filled(1), counting) == (unused, 1)


def test_elsewhere_the_size_tells_nothing() -> None:
    """Seen to fail where the type of the file system is not asked for."""

    def world() -> tuple[bool, _Opened]:
        with chat() as folder:
            on_tmpfs = file_system_type(folder.fileno()) == TMPFS_MAGIC
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(survey, "TMPFS_MAGIC", 0)
            return on_tmpfs, counting()

    on_tmpfs, found = arranged(test_usage.nothing, world)
    assert on_tmpfs
    assert found == (Sight(0o700, ALICE, False, None, UNUSED), 1)


def test_a_folder_in_which_entries_do_not_show_tells_nothing() -> None:
    """Should a kernel ever give all directories of tmpfs one size, nothing is called unused for it.

    Seen to fail where the size of the folder is not held against that of an empty one.
    """

    def world() -> _Opened:
        with chat() as folder:
            raw = survey.raw_statx(b"", folder.fileno(), survey.BY_DESCRIPTOR)
            size = survey.glance_at(raw).size
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(survey, "_EMPTY", size)
            return counting()

    found = arranged(filled(2), world)
    assert found == (Sight(0o700, ALICE, False, None, UNUSED), 1)


@pytest.mark.parametrize("allow_other", [True, False])
def test_a_file_server_that_never_answers(allow_other: bool) -> None:
    """It is not asked: the directory is told as one that something is mounted on, at once.

    Seen to hang where the mount is not looked for before the attributes.
    """

    def world() -> object:
        with own_run.mounted_fuse(DIRECTORY, uid=ALICE, allow_other=allow_other):
            own_run.within(60, looks_mounted_on)
        return None

    arranged(test_usage.nothing, world)


def looks_mounted_on() -> None:
    sight = surveyed()
    assert sight is not None
    assert sight.obstruction == "something is mounted on it"
    assert sight.usage == UNKNOWN


def test_without_tables_nothing_is_known() -> None:
    """Where the kernel does not show its tables, an empty directory too."""

    def world() -> Sight | None:
        with chat() as folder:
            return Survey(folder, None).look(ALICE)

    sight = arranged(test_usage.nothing, world)
    assert sight == Sight(0o700, ALICE, False, None, UNKNOWN)


def test_no_descriptor_is_left() -> None:
    """Whatever is looked at, and also where the look ends in an exception."""

    def world() -> bool:
        with chat() as folder:
            tables = Tables(bound=frozenset(), locked=frozenset())
            quick = Survey(folder, tables)
            before = os.listdir("/proc/self/fd")
            quick.look(ALICE)
            quick.look(MALLORY)
            return os.listdir("/proc/self/fd") == before

    for arrange in (test_usage.nothing, filled(3), somebody_elses, bind_mounted):
        assert arranged(arrange, world)
