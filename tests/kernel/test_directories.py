"""The base gives out the broker's own app folders, exact and safe, and never touches another's.

test_confined.py runs these once more on a kernel without openat2.
"""

import os
import subprocess
import sys
from pathlib import Path

import own_run
import pytest
from own_run import PARENT, acl, attributes, names

from file_record import record
from sockbroker.kernel.directories import (
    Base,
    BaseLocked,
    DirectoryError,
    Obstructed,
    Parent,
    Wanted,
)

pytestmark = pytest.mark.root

WANTED = Wanted(mode=0o700, gid=None)


def make(base: Base, app: str = "chat", parent: Parent = PARENT, *, adopt: bool = False) -> None:
    base.folder(app, parent, adopt=adopt).close()


def made_by_hand(path: Path, *, marker: bool, mode: int = 0o755) -> None:
    path.mkdir()
    if marker:
        (path / ".sockbroker").mkdir(mode=0o700)
        (path / ".sockbroker").chmod(0o700)
    path.chmod(mode)


# Making and repairing.


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
@pytest.mark.parametrize("mode", [0o711, 0o755, 0o750, 0o710, 0o700])
def test_made_exactly(base: Base, run: Path, umask: int, mode: int) -> None:
    """Owner, group and mode are as wanted whatever the umask, and the marker is root's alone.

    Taken out: the `set_mode` after the owner of `Base._create`; then what was made is refused.
    """
    before = os.umask(umask)
    try:
        make(base, parent=Parent(mode=mode, gid=4321))
    finally:
        os.umask(before)
    assert attributes(run / "chat") == (0, 4321, f"{mode:04o}")
    assert attributes(run / "chat/.sockbroker") == (0, 0, "0700")
    assert names(run) == ["chat"]


def test_no_acl_is_inherited(base: Base, run: Path) -> None:
    """A default ACL of the base opens no folder.

    Taken out: `remove_acls` of `Base._create`, and the look for one after it.
    """
    os.setxattr(run, own_run.DEFAULT_ACL, acl(user=1001, permissions=7))
    make(base)
    assert own_run.acls(run / "chat") == []
    assert attributes(run / "chat") == (0, 0, "0711")


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o511, 0o000, 0o1755, 0o2755])
def test_repaired(base: Base, run: Path, mode: int) -> None:
    """A mode or group that only root can have changed is set right; what is in it stays.

    Taken out: the call of `_bring_folder`.
    """
    make(base)
    (run / "chat/1000").mkdir()
    os.chown(run / "chat", 0, 55)
    (run / "chat").chmod(mode)
    make(base, parent=Parent(mode=0o750, gid=4321))
    assert attributes(run / "chat") == (0, 4321, "0750")
    assert names(run / "chat") == [".sockbroker", "1000"]


@pytest.mark.parametrize("inodes", [2, 3])
def test_full(run: Path, inodes: int) -> None:
    """On a full file system a folder is ENOSPC, and neither it nor half of it is left.

    Taken out: that `Base._create` discards what it has begun.
    """
    (run / "small").mkdir()
    options = f"mode=0755,nr_inodes={inodes}"
    own_run.mount("tmpfs", run / "small", "tmpfs", options=options)
    (run / "small/filler").touch()
    before = own_run.descriptors()
    with Base.open("/run/small") as base:
        with pytest.raises(OSError, match="No space"):
            make(base)
        assert names(run / "small") == ["filler"]
        (run / "small/filler").unlink()
        if inodes == 3:
            make(base)
    assert own_run.descriptors() == before


def test_a_second_time_nothing_changes(base: Base, run: Path) -> None:
    """A folder that is right is left alone.

    Taken out: nothing; put in: the mode is set where it is right.
    """
    make(base)
    before = record(run / "chat")
    make(base)
    assert record(run / "chat") == before


@pytest.mark.parametrize(
    "app", ["", ".", "..", "a/b", "chat\0x", "CHAT", "\uff43hat", "a" * 32, "a\n"]
)
def test_only_names_of_apps(base: Base, run: Path, app: str) -> None:
    """What is not the name of an app never becomes part of a path.

    Taken out: the look of `_check_app`.
    """
    for act in (make, Base.find, Base.retire):
        with pytest.raises(ValueError, match="not the name of an app"):
            act(base, app)
    assert names(run) == []


# What is not the broker's.


@pytest.mark.parametrize("adopt", [False, True])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("link", "a symbolic link"),
        ("file", "a file"),
        ("fifo", "a fifo"),
        ("foreign", "belongs to uid 1000"),
        ("group-writable", "0775"),
        ("sticky", "1777"),
        ("access ACL", "has an ACL"),
        ("default ACL", "has an ACL"),
        ("mount", "mounted"),
        ("marker is a file", "is not a directory of root's alone"),
        ("marker is a link", "is not a directory of root's alone"),
        ("marker is another's", "is not a directory of root's alone"),
        ("marker is open", "is not a directory of root's alone"),
        ("marker is mounted on", "is not a directory of root's alone"),
    ],
)
def test_refused(base: Base, run: Path, kind: str, reason: str, *, adopt: bool) -> None:
    """What is unsafe is refused, adopted or not, marked or not, and stays as it is.

    Taken out: `_unsafe` and the refusal of a wrong marker in `Base._existing`, and RESOLVE_NO_XDEV
    of `open_entry`; then it is taken.
    """
    chat = run / "chat"
    (run / "etc").mkdir(mode=0o755)
    match kind:
        case "link":
            chat.symlink_to("etc")
        case "file":
            chat.touch()
        case "fifo":
            os.mkfifo(chat)
        case "mount":
            chat.mkdir()
            own_run.mount("/run/etc", chat, "", own_run.MS_BIND)
        case _:
            made_by_hand(chat, marker=not kind.startswith("marker"))
    marker = chat / ".sockbroker"
    match kind:
        case "foreign":
            os.chown(chat, 1000, 0)
        case "group-writable":
            chat.chmod(0o775)
        case "sticky":
            chat.chmod(0o1777)
        case "access ACL":
            os.setxattr(chat, own_run.ACCESS_ACL, acl(user=1001, permissions=5))
            chat.chmod(0o755)  # the mask too: nothing but the ACL itself is wrong
        case "default ACL":
            os.setxattr(chat, own_run.DEFAULT_ACL, acl(user=1001, permissions=7))
        case "marker is a file":
            marker.touch(mode=0o600)
        case "marker is a link":
            marker.symlink_to("/run/etc")
        case "marker is another's":
            marker.mkdir(mode=0o700)
            os.chown(marker, 1000, 0)
        case "marker is open":
            marker.mkdir(mode=0o755)
        case "marker is mounted on":
            marker.mkdir(mode=0o700)
            own_run.mount("tmpfs", marker, "tmpfs", options="mode=0700")
    before, target, inside = record(chat), record(run / "etc"), _tree(run)
    with pytest.raises(Obstructed) as caught:
        make(base, adopt=adopt)
    assert caught.value.path == "/run/chat"
    assert reason in caught.value.reason
    assert (record(chat), record(run / "etc"), _tree(run)) == (before, target, inside)
    make(base, "other")  # the others are served


def _tree(path: Path) -> list[str]:
    return sorted(f"{root}: {folders} {files}" for root, folders, files in os.walk(path))


@pytest.mark.parametrize("empty", [False, True])
def test_unmarked(base: Base, run: Path, *, empty: bool) -> None:
    """A folder without the marker, empty or not, is another's, and adopted only if told to.

    Taken out: the refusal of a folder without a marker in `Base._existing`; then it is taken.
    """
    made_by_hand(run / "chat", marker=False)
    if not empty:
        (run / "chat/pid").touch()
    before = record(run / "chat")
    with pytest.raises(Obstructed, match="adopt"):
        make(base)
    assert record(run / "chat") == before
    assert list(base.scan()) == []
    assert base.find("chat") is None
    make(base, adopt=True)
    assert attributes(run / "chat") == (0, 0, "0711")
    assert names(run / "chat") == [".sockbroker", *([] if empty else ["pid"])]
    make(base)
    assert list(base.scan()) == ["chat"]


def test_fuse_on_a_folder(base: Base, run: Path) -> None:
    """A file server on a folder that never answers stalls neither look, list nor the other apps.

    Taken out: RESOLVE_NO_XDEV of `open_entry`; then all wait for the server.
    """
    make(base)
    with own_run.mounted_fuse(run / "chat", uid=0, allow_other=True):

        def act() -> None:
            with pytest.raises(Obstructed, match="mounted"):
                make(base)
            assert base.find("chat") is None
            assert list(base.scan()) == []
            make(base, "other")

        own_run.within(10, act)


# Finding.


def test_found_as_it_is(base: Base, run: Path) -> None:
    """Finding makes and repairs nothing.

    Taken out: that what is absent is no error of `Base.find`.
    """
    assert base.find("chat") is None
    assert names(run) == []
    make(base)
    (run / "chat").chmod(0o750)
    found = base.find("chat")
    assert found is not None
    with found:
        assert (found.path, found.app) == ("/run/chat", "chat")
        assert found.ensure(1000, WANTED, new_gid=100, limit=1) == "created"
    assert attributes(run / "chat") == (0, 0, "0750")


def test_found_but_unsafe(base: Base, run: Path) -> None:
    """One that carries the marker and is not safe any more is said to be so, not absent.

    Taken out: `_unsafe` of `Base.find`.
    """
    make(base)
    (run / "chat").chmod(0o777)
    with pytest.raises(Obstructed, match="0777"):
        base.find("chat")
    assert list(base.scan()) == ["chat"]


def test_scan(base: Base, run: Path) -> None:
    """Of all that is in the base only what is marked and spelled like an app is named.

    Taken out: the look at the name in `Base.scan`.
    """
    for app in ("chat", "b-2", "c_3"):
        make(base, app)
    made_by_hand(run / "other", marker=False)
    made_by_hand(run / "UPPER", marker=True)
    made_by_hand(run / ".sockbroker-new-x", marker=True)
    (run / "link").symlink_to("chat")
    (run / "file").touch()
    os.mkfifo(run / "fifo")
    (run / "theirs").mkdir(mode=0o700)
    os.chown(run / "theirs", 1000, 1000)
    assert sorted(base.scan()) == ["b-2", "c_3", "chat"]


def test_a_kept_folder_is_held_against_the_disk(base: Base, run: Path) -> None:
    """A folder that was kept open is used no more when the disk says otherwise.

    Taken out: device and inode of `Base.holds`.
    """
    with base.folder("chat", PARENT, adopt=False) as folder:
        assert base.holds(folder, PARENT)
        assert not base.holds(folder, Parent(mode=0o711, gid=4321))
        (run / "chat").chmod(0o755)
        assert not base.holds(folder, PARENT)
        (run / "chat").chmod(0o711)
        os.chown(run / "chat", 1000, 0)
        assert not base.holds(folder, PARENT)
        os.chown(run / "chat", 0, 0)
        assert base.holds(folder, PARENT)
        (run / "chat").rename(run / "moved")
        assert not base.holds(folder, PARENT)
        make(base)
        assert not base.holds(folder, PARENT)


def test_a_mount_on_a_kept_folder(base: Base, run: Path) -> None:
    """A folder that was kept open is used no more when something is mounted on it.

    Taken out: device, inode and mount of `Base.holds`; one of them would do.
    """
    with base.folder("chat", PARENT, adopt=False) as folder:
        own_run.mount("/run/chat", run / "chat", "", own_run.MS_BIND)
        assert not base.holds(folder, PARENT)


# Sweeping and retiring.


def test_sweep(base: Base, run: Path) -> None:
    """What a kill left in the base goes; what somebody put into it stays and is named.

    Taken out: the name of what stays, and the half made ones.
    """
    make(base)
    for name, marker in (("new-a", True), ("new-b", False), ("old-c", True), ("old-d", True)):
        made_by_hand(run / f".sockbroker-{name}", marker=marker)
    (run / ".sockbroker-old-d/file").touch()
    (run / ".sockbroker-other").mkdir()
    assert base.sweep() == [".sockbroker-old-d"]
    assert names(run) == [".sockbroker-old-d", ".sockbroker-other", "chat"]


def test_what_was_left_is_made_anew(base: Base, run: Path) -> None:
    """A half made folder of a killed run is no obstacle, even before a sweep.

    Taken out: that `Base._create` discards what is left of an earlier try.
    """
    made_by_hand(run / ".sockbroker-new-chat", marker=True)
    make(base)
    assert names(run) == ["chat"]


@pytest.mark.parametrize("entry", [None, "1000", ".old-1000-0123456789abcdef", "file"])
def test_retire(base: Base, run: Path, entry: str | None) -> None:
    """A folder is removed if nothing but the marker is in it; else it stays as it is.

    Taken out: both looks at what is in it, one behind the other.
    """
    make(base)
    if entry:
        (run / "chat" / entry).mkdir()
    assert base.retire("chat") is (entry is None)
    assert names(run) == ([] if entry is None else ["chat"])
    if entry:
        assert names(run / "chat") == sorted([".sockbroker", entry])


def test_nothing_to_retire(base: Base, run: Path) -> None:
    """What is absent or another's is not removed.

    Taken out: the look for the marker in `Base.find`.
    """
    made_by_hand(run / "chat", marker=False)
    assert not base.retire("chat")
    assert not base.retire("other")
    assert names(run) == ["chat"]


# The lock.


def test_one_broker_for_a_base(base: Base, run: Path) -> None:
    """A second broker is kept out while the first one runs, and let in as soon as it is gone.

    Taken out: the flock(2) of `Base.lock`; then there are two.
    """
    program = (
        f"import sys; sys.path.insert(0, {str(own_run.SOURCE)!r})\n"
        "from sockbroker.kernel.directories import Base\n"
        "base = Base.open('/run'); base.lock(); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(BaseLocked, match="another broker"):
            base.lock()
        other.kill()
    base.lock()
    assert attributes(run / ".sockbroker.lock") == (0, 0, "0600")
    with Base.open("/run") as second, pytest.raises(BaseLocked):
        second.lock()
    base.close()
    with Base.open("/run") as second:
        second.lock()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_nobody_else_can_take_the_lock(base: Base, run: Path, umask: int) -> None:
    """The lock file is root's alone, whatever the umask.

    Taken out: the mode of the file, at its making and after it; then others can open it.
    """
    before = os.umask(umask)
    try:
        base.lock()
    finally:
        os.umask(before)
    assert attributes(run / ".sockbroker.lock") == (0, 0, "0600")


@pytest.mark.parametrize("kind", ["readable", "another's", "link", "fifo", "directory"])
def test_a_lock_that_others_could_hold(base: Base, run: Path, kind: str) -> None:
    """A lock file that others can open, or that is none, is refused with the mend, at once.

    Taken out: the look at the file in `Base.lock`; then it is taken for good.
    """
    lock = run / ".sockbroker.lock"
    match kind:
        case "readable":
            lock.touch()
            lock.chmod(0o604)
        case "another's":
            lock.touch(mode=0o600)
            os.chown(lock, 1000, 0)
        case "link":
            (run / "file").touch(mode=0o600)
            lock.symlink_to("file")
        case "fifo":
            os.mkfifo(lock, 0o600)
        case "directory":
            lock.mkdir(mode=0o700)
    before = own_run.descriptors()

    def act() -> None:
        with pytest.raises(DirectoryError, match="remove it"):
            base.lock()
        assert own_run.descriptors() == before

    own_run.within(10, act)


def test_no_descriptor_is_left_open(base: Base, run: Path) -> None:
    """Whatever comes of it, no call leaves a descriptor open but the folder that it returns.

    Taken out: the closing in `Base._existing`.
    """
    make(base)
    made_by_hand(run / "unmarked", marker=False)
    made_by_hand(run / "wide", marker=True, mode=0o777)
    (run / "link").symlink_to("chat")
    before = own_run.descriptors()
    for app in ("chat", "unmarked", "wide", "link", "new"):
        try:
            make(base, app)
        except Obstructed:
            pass
        try:
            found = base.find(app)
        except Obstructed:
            continue
        if found is not None:
            assert own_run.descriptors() == before + 1
            found.close()
            found.close()  # twice is once
    list(base.scan())
    base.sweep()
    base.retire("chat")
    assert own_run.descriptors() == before
    with Base.open("/run") as second:
        second.lock()
    assert own_run.descriptors() == before
