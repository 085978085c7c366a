"""A runtime directory is exactly what the policy wants, whatever its owner does; or it is refused.

test_confined.py runs these once more on a kernel without openat2.
"""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import own_run
import pytest
from own_run import PARENT, PRIVATE, SHARED, acl, attributes, names

from file_record import record
from sockbroker.kernel import entries
from sockbroker.kernel.directories import (
    NOBODY,
    Base,
    Entry,
    Folder,
    LimitReached,
    NoSuchDirectory,
    Obstructed,
    Wanted,
)

pytestmark = pytest.mark.root


@pytest.fixture
def folder(base: Base) -> Iterator[Folder]:
    with base.folder("chat", PARENT, adopt=False) as folder:
        yield folder


def ensure(folder: Folder, wanted: Wanted = PRIVATE, uid: int = 1000, limit: int = 10) -> str:
    return folder.ensure(uid, wanted, new_gid=100, limit=limit)


# Making.


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o711, 0o770, 0o2750, 0o2770, 0o1770, 0o3775])
def test_made_exactly(folder: Folder, run: Path, umask: int, mode: int) -> None:
    """Owner, group and mode, setgid and sticky too, are the wanted ones whatever the umask."""
    before = os.umask(umask)
    try:
        assert ensure(folder, Wanted(mode=mode, gid=4321)) == "created"
    finally:
        os.umask(before)
    assert attributes(run / "chat/1000") == (1000, 4321, f"{mode:04o}")
    assert names(run / "chat") == [".sockbroker", "1000"]


def test_group_of_a_new_one(folder: Folder, run: Path) -> None:
    """Where the policy names no group it is the caller's, and afterwards never wrong."""
    assert ensure(folder) == "created"
    assert attributes(run / "chat/1000") == (1000, 100, "0700")
    assert folder.ensure(1000, PRIVATE, new_gid=200, limit=10) == "existing"
    assert attributes(run / "chat/1000") == (1000, 100, "0700")


def test_largest_uid(folder: Folder, run: Path) -> None:
    """The largest uid there is gets its directory, and it is his."""
    assert ensure(folder, uid=2**32 - 2) == "created"
    assert attributes(run / "chat/4294967294") == (2**32 - 2, 100, "0700")


def test_no_acl_is_inherited(folder: Folder, run: Path) -> None:
    """A default ACL that an administrator gave the folder opens no new directory."""
    for name in (own_run.DEFAULT_ACL, own_run.ACCESS_ACL):
        os.setxattr(run / "chat", name, acl(user=1001, permissions=7))
    assert ensure(folder) == "created"
    assert own_run.acls(run / "chat/1000") == []
    assert attributes(run / "chat/1000") == (1000, 100, "0700")


def test_a_second_time_nothing_changes(folder: Folder, run: Path) -> None:
    """A repeated request changes nothing, not even the time of the last change."""
    ensure(folder, SHARED)
    before = record(run / "chat/1000")
    assert ensure(folder, SHARED) == "existing"
    assert record(run / "chat/1000") == before


def test_limit(folder: Folder, run: Path) -> None:
    """No more directories than the limit, deleted ones included; old ones are served."""
    ensure(folder, uid=1000, limit=2)
    ensure(folder, uid=1001, limit=2)
    folder.move_aside(1000)
    with pytest.raises(LimitReached) as caught:
        ensure(folder, uid=1002, limit=2)
    assert (caught.value.resource, caught.value.limit) == ("directories", 2)
    assert ensure(folder, uid=1001, limit=2) == "existing"
    assert len(names(run / "chat")) == 3


def test_full(run: Path) -> None:
    """On a full file system a new one is ENOSPC and leaves nothing, and old ones are served."""
    (run / "small").mkdir()
    own_run.mount("tmpfs", run / "small", "tmpfs", options="mode=0755,nr_inodes=5")
    with Base.open("/run/small") as base, base.folder("chat", PARENT, adopt=False) as folder:
        ensure(folder)
        Path(run / "small/filler").touch()
        with pytest.raises(OSError, match="No space") as caught:
            ensure(folder, uid=1001)
        assert caught.value.errno == errno.ENOSPC
        assert ensure(folder) == "existing"
        assert names(run / "small/chat") == [".sockbroker", "1000"]
        (run / "small/filler").unlink()
        assert ensure(folder, uid=1001) == "created"


def test_folder_is_gone(folder: Folder, run: Path) -> None:
    """When somebody removed the folder, that is said, and nothing is made elsewhere."""
    (run / "chat/.sockbroker").rmdir()
    (run / "chat").rmdir()
    with pytest.raises(FileNotFoundError):
        ensure(folder)
    assert folder.look(1000) is None
    assert folder.count() == 0


# Repair.


@pytest.mark.parametrize("mode", [0o000, 0o500, 0o755, 0o777, 0o3777, 0o2700, 0o6777])
@pytest.mark.parametrize("wanted", [0o700, 0o2750, 0o1770])
def test_repaired(folder: Folder, run: Path, mode: int, wanted: int) -> None:
    """Whatever mode the owner gave it, it gets the wanted one, and its contents stay."""
    ensure(folder, Wanted(mode=0o700, gid=4321))
    (run / "chat/1000/file").touch()
    own_run.run_as(1000, lambda: (run / "chat/1000").chmod(mode))
    expected = "existing" if (run / "chat/1000").stat().st_mode & 0o7777 == wanted else "repaired"
    assert ensure(folder, Wanted(mode=wanted, gid=4321)) == expected
    assert attributes(run / "chat/1000") == (1000, 4321, f"{wanted:04o}")
    assert names(run / "chat/1000") == ["file"]


def test_group_is_repaired(folder: Folder, run: Path) -> None:
    """A wrong group is set right by root, with the setgid bit kept."""
    ensure(folder, Wanted(mode=0o2750, gid=5555))
    assert ensure(folder, SHARED) == "repaired"
    assert attributes(run / "chat/1000") == (1000, 4321, "2750")


@pytest.mark.parametrize("which", [own_run.ACCESS_ACL, own_run.DEFAULT_ACL])
def test_acl_is_drift(folder: Folder, run: Path, which: str) -> None:
    """An ACL that the owner added, for access or for what is new, is found and taken away.

    Taken out: the ACL in `Folder.state`; then it is ok.
    """
    ensure(folder, SHARED)
    value = acl(user=1001, permissions=7)
    own_run.run_as(1000, lambda: os.setxattr(run / "chat/1000", which, value), groups=(4321,))
    entry = folder.look(1000)
    assert entry is not None
    assert entry.acl
    assert folder.state(entry, SHARED) == "drifted"
    assert ensure(folder, SHARED) == "repaired"
    assert own_run.acls(run / "chat/1000") == []
    assert attributes(run / "chat/1000") == (1000, 4321, "2750")


def test_other_attributes_are_the_owners(folder: Folder, run: Path) -> None:
    """Extended attributes of the user's are no ACL."""
    ensure(folder)
    try:
        os.setxattr(run / "chat/1000", "user.note", b"x")
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP  # noqa: PT017  before Linux 6.6 there are none
    assert ensure(folder) == "existing"


def test_owner_changes_it_in_a_loop(folder: Folder, run: Path) -> None:
    """While its owner changes mode and ACL all the time, nothing but his directory ever changes."""
    ensure(folder, SHARED)
    path, value = run / "chat/1000", acl(user=1001, permissions=7)

    def spoil() -> None:
        for mode in (0o777, 0o000, 0o2777, 0o1700):
            path.chmod(mode)
            os.setxattr(path, own_run.ACCESS_ACL, value)

    outcomes, rounds = set(), 0
    with own_run.looping_as(1000, spoil):
        while rounds < 500 or (outcomes == {"existing"} and rounds < 1_000_000):
            rounds += 1
            try:
                outcomes.add(ensure(folder, SHARED))
            except Obstructed as obstructed:
                outcomes.add(obstructed.reason)
            assert path.stat().st_uid == 1000
    assert outcomes != {"existing"}
    assert outcomes <= {"existing", "repaired", "is changed again and again while it is repaired"}
    ensure(folder, SHARED)
    assert (attributes(path), own_run.acls(path)) == ((1000, 4321, "2750"), [])


def test_owner_is_at_the_staged_one(folder: Folder, run: Path) -> None:
    """While its owner chmods whatever appears in the folder, each one is made or refused, whole."""
    chat = run / "chat"
    chat.chmod(0o755)  # he can read the names

    def spoil() -> None:
        for name in os.listdir(chat):
            (chat / name).chmod(0o777)

    with own_run.looping_as(1000, spoil):
        for _ in range(500):
            try:
                assert ensure(folder) in {"created", "existing", "repaired"}
            except Obstructed:
                pass
            if folder.look(1000) is not None:
                (chat / folder.move_aside(1000)).rmdir()
    assert folder.sweep(folder.names()) == []
    assert names(chat) == [".sockbroker"]


def test_somebody_else_makes_it(folder: Folder, run: Path) -> None:
    """Whoever else makes and removes it at the same time, nothing half made is left."""
    path, made_by = run / "chat/1000", set()

    def meddle() -> None:
        path.mkdir(mode=0o700)
        os.chown(path, 1000, 100)
        path.rmdir()

    with own_run.looping_as(0, meddle):
        for _ in range(2000):
            try:
                made_by.add(ensure(folder))
                path.rmdir()
            except (Obstructed, OSError):
                pass
    assert made_by <= {"created", "existing", "repaired"}
    assert names(run / "chat") in ([".sockbroker"], [".sockbroker", "1000"])


# What is not the broker's.


@pytest.mark.parametrize("kind", ["link", "link to his", "file", "fifo", "socket", "foreign"])
def test_obstructed(folder: Folder, run: Path, kind: str) -> None:
    """What is no directory, or another user's, is refused at once and stays as it is."""
    path = run / "chat/1000"
    (run / "target").mkdir(mode=0o700)
    match kind:
        case "link":
            path.symlink_to("/run/target")
        case "link to his":
            os.chown(run / "target", 1000, 100)
            path.symlink_to("/run/target")
        case "file":
            path.touch(mode=0o700)
            os.chown(path, 1000, 100)
        case "fifo":
            os.mkfifo(path)
            os.chown(path, 1000, 100)
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(path))
        case "foreign":
            path.mkdir(mode=0o777)
            os.chown(path, 1001, 100)
    before, target = record(path), record(run / "target")
    entry = folder.look(1000)
    assert entry is not None
    assert entry.obstruction is not None
    assert folder.state(entry, SHARED) == "obstructed"
    for act in (lambda: ensure(folder, SHARED), lambda: folder.move_aside(1000)):
        with pytest.raises(Obstructed) as caught:
            act()
        assert caught.value.path == "/run/chat/1000"
        assert caught.value.reason == entry.obstruction
    assert (record(path), record(run / "target")) == (before, target)


def test_bind_mount(folder: Folder, run: Path) -> None:
    """What an administrator mounted on it is not touched, not even looked at."""
    ensure(folder)
    (run / "data").mkdir(mode=0o777)
    own_run.mount("/run/data", run / "chat/1000", "", own_run.MS_BIND)
    before = record(run / "data")
    _assert_mounted(folder)
    assert record(run / "data") == before


@pytest.mark.parametrize("allow_other", [True, False])
def test_fuse_mount(folder: Folder, run: Path, *, allow_other: bool) -> None:
    """A file server of the owner's that never answers stalls nothing: it is Obstructed."""
    ensure(folder)
    with own_run.mounted_fuse(run / "chat/1000", uid=1000, allow_other=allow_other):
        own_run.within(10, lambda: _assert_mounted(folder))
    assert ensure(folder) == "existing"


def _assert_mounted(folder: Folder) -> None:
    assert folder.look(1000) == Entry(
        mode=0, gid=NOBODY, acl=False, obstruction="something is mounted on it"
    )
    for act in (lambda: ensure(folder, SHARED), lambda: folder.move_aside(1000)):
        with pytest.raises(Obstructed, match="mounted"):
            act()
    assert list(folder.uids()) == [1000]
    assert folder.count() == 1
    assert folder.sweep(folder.names()) == []


def test_mount_after_the_look(folder: Folder, run: Path) -> None:
    """What is done by descriptor reaches the directory that was looked at, past any mount."""
    ensure(folder)
    directory = entries.open_entry(folder.fileno(), "1000")
    try:
        with own_run.mounted_fuse(run / "chat/1000", uid=1000, allow_other=True):

            def change() -> None:
                entries.bring(
                    directory, was_mode=0o700, was_gid=100, acl=True, mode=0o2750, gid=4321
                )
                assert entries.look_at(directory).gid == 4321
                assert not entries.has_acl(directory)

            own_run.within(10, change)
    finally:
        os.close(directory)
    assert attributes(run / "chat/1000") == (1000, 4321, "2750")


# Moving aside and sweeping.


def test_moved_aside_and_back(folder: Folder, run: Path) -> None:
    """It leaves its name as it is, and comes back as it was, unless a new one is there."""
    ensure(folder, SHARED)
    before = (run / "chat/1000").stat()
    aside = folder.move_aside(1000)
    assert folder.look(1000) is None
    assert folder.sweep(folder.names()) == [aside]
    assert aside.split("-")[:2] == [".old", "1000"]
    folder.put_back(aside, 1000)
    assert (run / "chat/1000").stat().st_ino == before.st_ino
    assert attributes(run / "chat/1000") == (1000, 4321, "2750")
    again = folder.move_aside(1000)
    ensure(folder)
    with pytest.raises(FileExistsError):
        folder.put_back(again, 1000)


@pytest.mark.parametrize("name", ["1001", ".sockbroker", ".old-1001-0123456789abcdef", "../x", ""])
def test_only_ones_own_is_put_back(folder: Folder, run: Path, name: str) -> None:
    """Nothing but what was moved aside for that uid gets its name."""
    with pytest.raises(ValueError, match="not what was moved aside"):
        folder.put_back(name, 1000)


def test_nothing_to_move(folder: Folder) -> None:
    """Moving what is not there says so."""
    with pytest.raises(NoSuchDirectory) as caught:
        folder.move_aside(1000)
    assert (caught.value.path, caught.value.uid) == ("/run/chat/1000", 1000)


def test_sweep(folder: Folder, run: Path) -> None:
    """Staged ones go, one that its owner has filled as a released one goes; the rest stays."""
    ensure(folder)
    tag = "0123456789abcdef"
    for name in (f".new-1000-{tag}", f".new-1001-{tag}", f".old-1002-{tag}", ".new-x", "other"):
        (run / "chat" / name).mkdir()
    (run / f"chat/.new-1001-{tag}/file").touch()
    waiting = folder.sweep(folder.names())
    assert sorted(name.split("-")[1] for name in waiting) == ["1001", "1002"]
    assert names(run / "chat") == sorted([".sockbroker", "1000", ".new-x", "other", *waiting])
    assert sorted(folder.sweep(folder.names())) == sorted(waiting)


def test_sweep_past_a_mount(folder: Folder, run: Path) -> None:
    """A staged one that its owner has mounted something on stays, counts, and stops nothing."""
    tag = "0123456789abcdef"
    for uid in (1000, 1001):
        (run / f"chat/.new-{uid}-{tag}").mkdir()
    with own_run.mounted_fuse(run / f"chat/.new-1000-{tag}", uid=1000, allow_other=True):
        own_run.within(10, lambda: _assert_swept(folder))
    assert names(run / "chat") == [f".new-1000-{tag}", ".sockbroker"]
    assert folder.sweep(folder.names()) == []
    assert folder.count() == 0


def _assert_swept(folder: Folder) -> None:
    assert folder.sweep(folder.names()) == []
    assert folder.count() == 1


# Listing and counting.


def test_only_uids_are_listed(folder: Folder, run: Path) -> None:
    """A name counts as a uid only in the one way that a uid is written."""
    for name in ("0", "1000", "01000", "4294967295", "-1", "1_0", "१", "1000 ", "a"):
        (run / "chat" / name).mkdir()
    assert sorted(folder.uids()) == [0, 1000]


def test_two_lists_at_once(folder: Folder) -> None:
    """Lists that are read by turns, with changes in between, do not disturb each other."""
    for uid in range(1000, 1300):
        ensure(folder, uid=uid, limit=300)
    first, second = folder.uids(), folder.uids()
    seen = [next(first) for _ in range(100)], [next(second) for _ in range(50)]
    assert folder.count() == 300
    folder.sweep(folder.names())
    assert sorted([*seen[0], *first]) == sorted([*seen[1], *second]) == list(range(1000, 1300))


def test_unfinished_list_is_closed(folder: Folder) -> None:
    """A list that nobody reads to its end gives its descriptor back when it is closed."""
    for uid in range(1000, 1010):
        ensure(folder, uid=uid)
    before = own_run.descriptors()
    listing = folder.uids()
    next(listing)
    listing.close()
    assert own_run.descriptors() == before


def test_count_where_links_are_not_counted(run: Path) -> None:
    """Where the file system does not count a directory's links, names are counted."""
    for name in ("lower/chat/.sockbroker", "lower/chat/1000", "upper", "work", "merged"):
        (run / name).mkdir(parents=True)
    os.chown(run / "lower/chat/1000", 1000, 100)
    for name in ("lower/chat", "lower/chat/.sockbroker", "lower/chat/1000"):
        (run / name).chmod(0o700)
    options = "lowerdir=/run/lower,upperdir=/run/upper,workdir=/run/work"
    own_run.mount("overlay", run / "merged", "overlay", options=options)
    with Base.open("/run/merged") as base, base.folder("chat", PARENT, adopt=False) as folder:
        assert (run / "merged/chat").stat().st_nlink == 1
        assert ensure(folder) == "existing"
        assert ensure(folder, uid=1001) == "created"
        folder.move_aside(1001)
        (run / f"merged/chat/.new-1002-{'0' * 16}").mkdir()
        assert folder.count() == 3
        with pytest.raises(LimitReached):
            ensure(folder, uid=1003, limit=3)


def test_no_descriptor_is_left_open(folder: Folder, run: Path) -> None:
    """Whatever comes of it, no call leaves a descriptor open."""
    ensure(folder)
    ensure(folder, uid=1001)
    (run / "chat/1002").symlink_to("1000")
    before = own_run.descriptors()
    for uid in (1000, 1001, 1002, 1003):
        folder.look(uid)
        try:
            ensure(folder, SHARED, uid, 3)
            folder.move_aside(uid)
        except (Obstructed, LimitReached, NoSuchDirectory):
            pass
    folder.sweep(folder.names())
    folder.count()
    assert own_run.descriptors() == before
