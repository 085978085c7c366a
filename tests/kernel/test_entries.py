"""One entry is opened for what it is, and brought to a mode without ever being wider on the way."""

import errno
import itertools
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import own_run
import pytest
from own_run import ACCESS_ACL, DEFAULT_ACL, acl

from sockbroker.kernel.entries import (
    Owned,
    bring,
    has_acl,
    look_at,
    open_entry,
    open_list,
)

pytestmark = pytest.mark.root


@pytest.fixture
def folder(run: Path) -> Iterator[int]:
    with Owned(os.open(run, os.O_PATH | os.O_DIRECTORY)) as descriptor:
        yield descriptor


@pytest.mark.parametrize("name", ["", ".", "..", "/", "/etc", "a/b", "../run", "a/"])
def test_one_component_only(folder: int, name: str) -> None:
    """A name that could lead anywhere else is refused before the kernel sees it."""
    with pytest.raises(ValueError, match="not one component"):
        open_entry(folder, name)


def test_a_nul_is_refused(folder: int, run: Path) -> None:
    """A name with a NUL opens nothing."""
    (run / "app").mkdir()
    with pytest.raises(ValueError, match="null"):
        open_entry(folder, "app\0x")


def test_opened_for_what_it_is(folder: int, run: Path) -> None:
    """Links, fifos and devices are opened as themselves, at once, and read by nobody."""
    (run / "link").symlink_to("/etc")
    (run / "dangling").symlink_to("nowhere")
    (run / "magic").symlink_to("/proc/self/root")
    os.mkfifo(run / "fifo")
    os.mknod(run / "device", stat.S_IFCHR | 0o600, os.makedev(5, 0))

    def look() -> None:
        for name in ("link", "dangling", "magic", "fifo", "device"):
            with Owned(open_entry(folder, name)) as descriptor:
                assert look_at(descriptor).inode == (run / name).lstat().st_ino
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.read(descriptor, 1)

    own_run.within(10, look)


def test_mounts_are_not_entered(folder: int, run: Path) -> None:
    """A mount, of a directory or a file, is EXDEV, and nothing stays open."""
    (run / "directory").mkdir()
    for name in ("file", "other"):
        (run / name).touch()
    own_run.mount("tmpfs", run / "directory", "tmpfs")
    own_run.mount(str(run / "other"), run / "file", "", own_run.MS_BIND)
    before = own_run.descriptors()
    for name in ("directory", "file"):
        with pytest.raises(OSError, match=r".") as caught:
            open_entry(folder, name)
        assert caught.value.errno == errno.EXDEV
    assert own_run.descriptors() == before


def test_lists_do_not_share_their_position(folder: int, run: Path) -> None:
    """Each list of a directory begins at its beginning."""
    (run / "a").mkdir()
    for _ in range(2):
        with Owned(open_list(folder)) as listing:
            assert os.listdir(listing) == ["a"]


@pytest.mark.parametrize("which", [ACCESS_ACL, DEFAULT_ACL])
def test_acls_are_seen(folder: int, run: Path, which: str) -> None:
    """Either kind of ACL is seen, also on a directory that was opened with O_PATH."""
    (run / "it").mkdir()
    with Owned(open_entry(folder, "it")) as descriptor:
        assert not has_acl(descriptor)
        os.setxattr(run / "it", which, acl(user=1001, permissions=7))
        assert has_acl(descriptor)


MODES = (0o700, 0o750, 0o770, 0o755, 0o777, 0o1777, 0o2750, 0o3770, 0o000, 0o007)
WANTED = (0o700, 0o750, 0o2770, 0o1770, 0o755)


@pytest.mark.parametrize("gid", [50, 60])
@pytest.mark.parametrize("with_acl", [False, True])
def test_narrow_first_widen_last(run: Path, folder: int, gid: int, *, with_acl: bool) -> None:
    """Before every single step nobody has more than he had before or shall have at the end.

    Taken out: the first `set_mode` of `bring`; then a new group has what was the old one's.
    """

    def bring_each() -> None:
        steps: list[str] = []
        watched: list[tuple[int, int]] = []

        def before_step(event: str, _arguments: object) -> None:
            # Python announces a call here before it makes it: the moments a kill would leave.
            if watched and event in {"os.chmod", "os.chown", "os.removexattr"}:
                steps.append(event)
                _assert_no_wider(run / "it", *watched[0], gid, with_acl)

        sys.addaudithook(before_step)
        for was, wanted in itertools.product(MODES, WANTED):
            (run / "it").mkdir()
            os.chown(run / "it", 1000, 50)
            if with_acl:
                os.setxattr(run / "it", ACCESS_ACL, acl(user=1001, permissions=7))
            (run / "it").chmod(was)
            with Owned(open_entry(folder, "it")) as directory:
                watched.append((was, wanted))
                bring(directory, was_mode=was, was_gid=50, acl=with_acl, mode=wanted, gid=gid)
                watched.clear()
                assert own_run.attributes(run / "it") == (1000, gid, f"{wanted:04o}")
                assert not has_acl(directory)
            (run / "it").rmdir()
        assert len(steps) >= len(MODES)

    own_run.within(60, bring_each)


def _assert_no_wider(path: Path, was: int, wanted: int, gid: int, with_acl: bool) -> None:
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    what = f"{was:04o} to {wanted:04o} by way of {mode:04o}, group {status.st_gid}"
    assert status.st_uid == 1000, what
    if mode != was:
        assert not mode & ~wanted & 0o6777, what
        if mode & stat.S_IWGRP:
            assert mode & stat.S_ISVTX >= wanted & stat.S_ISVTX, what
        if own_run.acls(path):
            assert not mode & stat.S_IRWXG, f"{what}: the ACL still gives something"
    if status.st_gid != 50:
        assert status.st_gid == gid, what
        assert own_run.acls(path) == [], what
        assert not mode & ~wanted & stat.S_IRWXG, what
