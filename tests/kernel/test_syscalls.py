"""The wrappers do what the system calls' manual pages say, and pass errors on unchanged."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockbroker.kernel.syscalls import (
    AT_EMPTY_PATH,
    AT_STATX_DONT_SYNC,
    AT_SYMLINK_NOFOLLOW,
    RENAME_NOREPLACE,
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    STATX_BASIC_STATS,
    openat2,
    renameat2,
    statx,
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_openat2_opens(tmp_path: Path, folder: int) -> None:
    """What is there is opened as asked, and the descriptor is closed on exec if that is asked."""
    (tmp_path / "file").write_text("text")
    descriptor = openat2("file", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder, resolve=RESOLVE_BENEATH)
    try:
        assert os.read(descriptor, 10) == b"text"
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_openat2_creates_with_the_mode(tmp_path: Path, folder: int) -> None:
    """The mode is handed over."""
    flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC
    os.close(openat2("new", flags, dir_fd=folder, resolve=0, mode=0o400))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize(
    ("name", "resolve", "expected"),
    [
        ("absent", 0, errno.ENOENT),
        ("link", RESOLVE_NO_SYMLINKS, errno.ELOOP),
        ("..", RESOLVE_BENEATH, errno.EXDEV),
        ("/etc", RESOLVE_BENEATH, errno.EXDEV),
        ("file/below", 0, errno.ENOTDIR),
        ("file", 1 << 40, errno.EINVAL),
    ],
)
def test_openat2_fails_as_the_kernel_says(
    tmp_path: Path, folder: int, name: str, resolve: int, expected: int
) -> None:
    """The error is the kernel's, with the name that it is about."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OSError, match=r".") as caught:
        openat2(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder, resolve=resolve)
    assert (caught.value.errno, caught.value.filename) == (expected, name)


def test_openat2_stays_on_its_mount() -> None:
    """RESOLVE_NO_XDEV refuses a mount: /proc is one."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match=r".") as caught:
            openat2("proc", os.O_PATH | os.O_CLOEXEC, dir_fd=root, resolve=RESOLVE_NO_XDEV)
    finally:
        os.close(root)
    assert caught.value.errno == errno.EXDEV


@pytest.mark.parametrize("name", ["app\0x", b"app\0x", "\0"])
def test_a_nul_is_refused(tmp_path: Path, folder: int, name: str | bytes) -> None:
    """No call gets a name that ends for the kernel before it does for us."""
    (tmp_path / "app").mkdir()
    with pytest.raises(ValueError, match="null"):
        openat2(name, os.O_PATH, dir_fd=folder, resolve=0)
    with pytest.raises(ValueError, match="null"):
        statx(name, dir_fd=folder, flags=0, mask=0)
    for old, new in ((name, b"new"), (b"app", name)):
        with pytest.raises(ValueError, match="null"):
            renameat2(old, new, old_dir_fd=folder, new_dir_fd=folder, flags=0)
    assert os.listdir(tmp_path) == ["app"]


def test_statx_tells_what_stat_tells(tmp_path: Path, folder: int) -> None:
    """Each field is the one that os.stat has under its own name."""
    (tmp_path / "directory" / "below").mkdir(parents=True)
    (tmp_path / "directory").chmod(0o2751)
    expected = (tmp_path / "directory").stat()
    status = statx("directory", dir_fd=folder, flags=AT_STATX_DONT_SYNC, mask=STATX_BASIC_STATS)
    assert (status.mode, status.uid, status.gid) == (
        expected.st_mode,
        expected.st_uid,
        expected.st_gid,
    )
    assert (status.links, status.device, status.inode) == (
        expected.st_nlink,
        expected.st_dev,
        expected.st_ino,
    )
    assert status.changed * 10**9 + status.changed_nanoseconds == expected.st_ctime_ns
    assert status.mount_root is False


def test_statx_knows_a_mount() -> None:
    """The root of a mount is told from what is below it, by name and by descriptor."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    try:
        assert statx("proc", dir_fd=root, flags=0, mask=0).mount_root is True
        assert statx("", dir_fd=proc, flags=AT_EMPTY_PATH, mask=0).mount_root is True
        assert statx("sys", dir_fd=proc, flags=0, mask=0).mount_root is False
    finally:
        os.close(root)
        os.close(proc)


def test_statx_looks_at_a_link_itself(tmp_path: Path, folder: int) -> None:
    """AT_SYMLINK_NOFOLLOW tells of the link, also of one that leads nowhere."""
    (tmp_path / "link").symlink_to("nowhere")
    status = statx("link", dir_fd=folder, flags=AT_SYMLINK_NOFOLLOW, mask=STATX_BASIC_STATS)
    assert status.inode == (tmp_path / "link").lstat().st_ino
    with pytest.raises(FileNotFoundError):
        statx("link", dir_fd=folder, flags=0, mask=STATX_BASIC_STATS)


def test_renameat2_does_not_replace(tmp_path: Path, folder: int) -> None:
    """With RENAME_NOREPLACE neither a file nor an empty directory is replaced."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    with pytest.raises(FileExistsError) as caught:
        renameat2("old", "new", old_dir_fd=folder, new_dir_fd=folder, flags=RENAME_NOREPLACE)
    assert (caught.value.filename, caught.value.filename2) == ("old", "new")
    renameat2("old", "other", old_dir_fd=folder, new_dir_fd=folder, flags=RENAME_NOREPLACE)
    assert sorted(os.listdir(tmp_path)) == ["new", "other"]


def test_names_are_bytes_to_the_kernel(tmp_path: Path, folder: int) -> None:
    """A name that is no text survives every call."""
    name = os.fsdecode(b"\xff\x1b[31m\n")
    (tmp_path / name).touch()
    renameat2(name, name + "2", old_dir_fd=folder, new_dir_fd=folder, flags=0)
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff\x1b[31m\n2"]
