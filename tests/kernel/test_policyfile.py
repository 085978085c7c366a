"""The policy file: read if nobody but root can have written it."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from own_run import ACCESS_ACL, acl

from private_world import in_private_world, needs_root
from sockbroker.core.strict_yaml import MAX_BYTES
from sockbroker.kernel.policyfile import PolicyFileError, read

TEXT = b"apps: {}\n"


def world(test: Callable[[Path], None]) -> None:
    """Run a test with a good policy in a folder of root's."""

    def run() -> None:
        folder = Path("/run/etc/policy")
        folder.mkdir(parents=True)
        file = folder / "p.yaml"
        file.write_bytes(TEXT)
        file.chmod(0o644)
        test(file)

    in_private_world(run)


def complaint(path: Path | str, *, trusted: bool = True) -> str:
    """Why it is not read."""
    with pytest.raises(PolicyFileError) as caught:
        read(str(path), trusted=trusted)
    return str(caught.value)


@needs_root
def test_roots_own_file_is_read() -> None:
    """By its absolute or relative path, and whoever may read it.

    Taken out: nothing; put in: a file that others can read is refused.
    """

    def test(file: Path) -> None:
        for mode in (0o644, 0o640, 0o600, 0o400, 0o000, 0o755):
            file.chmod(mode)
            assert read(str(file), trusted=True) == TEXT
        os.chdir(file.parent)
        assert read("p.yaml", trusted=True) == TEXT
        assert read("../policy/./p.yaml", trusted=True) == TEXT

    world(test)


@needs_root
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.chmod(0o664), "p.yaml: others than root can write it (mode 0664)"),
        (lambda file: file.chmod(0o646), "p.yaml: others than root can write it (mode 0646)"),
        (lambda file: os.chown(file, 1234, 0), "p.yaml: belongs to uid 1234"),
        (lambda file: file.parent.chmod(0o777), "/run/etc/policy: others than root can write"),
        (lambda file: file.parent.chmod(0o1777), "/run/etc/policy: others than root can write"),
        (lambda file: file.parent.chmod(0o775), "/run/etc/policy: others than root can write"),
        (lambda file: file.parent.parent.chmod(0o1777), "/run/etc: others than root can write"),
        (lambda file: os.chown(file.parent, 1234, 0), "/run/etc/policy: belongs to uid 1234"),
        (lambda file: os.chown(file.parent.parent, 1234, 0), "/run/etc: belongs to uid 1234"),
        (lambda file: file.unlink(), "p.yaml: there is no such file; write one"),
    ],
)
def test_what_others_can_have_written_is_not_read(
    spoil: Callable[[Path], None], reason: str
) -> None:
    """The file, its folder and all above, sticky or not; the text says which, and why.

    Taken out: `_check`, and that of `root_path`; with each, what it is about is read.
    """

    def test(file: Path) -> None:
        spoil(file)
        assert reason in complaint(file)

    world(test)


@needs_root
def test_an_acl_that_lets_somebody_write_is_seen() -> None:
    """Of the file and of its folder: the mask of an ACL shows as the group's bits.

    Taken out: `_check`, and that of `root_path`; with each, what it is about is read.
    """

    def test(file: Path) -> None:
        os.setxattr(file, ACCESS_ACL, acl(user=1234, permissions=6))
        assert "p.yaml: others than root can write" in complaint(file)
        os.setxattr(file.parent, ACCESS_ACL, acl(user=1234, permissions=7))
        assert "/run/etc/policy: others than root can write" in complaint(file)

    world(test)


@needs_root
def test_links_are_not_followed() -> None:
    """Neither as the file nor on the way: who may change the link chooses the file.

    Taken out: both uses of O_NOFOLLOW, of the way and of the file.
    """

    def test(file: Path) -> None:
        link = file.with_name("link.yaml")
        link.symlink_to(file)
        assert "link.yaml: a link, which is not followed; name the file itself" in complaint(link)
        Path("/run/way").symlink_to(file.parent)
        assert "/run/way" in complaint("/run/way/p.yaml")
        assert "no link" in complaint("/run/way/p.yaml")

    world(test)


@needs_root
def test_what_is_no_regular_file_is_not_read_and_stalls_nothing() -> None:
    """A fifo without a writer, a device that never ends, a folder, a socket.

    Taken out: S_ISREG, and O_NONBLOCK; without the latter it does not come to an end.
    """

    def test(file: Path) -> None:
        file.unlink()
        began = time.monotonic()
        os.mkfifo(file)
        assert "not a regular file" in complaint(file)
        file.unlink()
        os.mknod(file, 0o020644, os.makedev(1, 5))  # /dev/zero
        assert complaint(file)
        file.unlink()
        file.mkdir()
        assert "not a regular file" in complaint(file)
        assert time.monotonic() - began < 60

    world(test)


@needs_root
def test_a_file_that_is_exchanged_while_it_is_read_is_read_whole() -> None:
    """What is read is the file that was judged; a new one is read the next time.

    Taken out: that what was judged is read (the file was opened anew, to the size of the first).
    """

    def test(file: Path) -> None:
        other = file.with_name("new.yaml")
        for n in range(200):
            other.write_bytes(b"x" * (n + 1))
            other.rename(file)
            assert read(str(file), trusted=True) == b"x" * (n + 1)

    world(test)


def test_a_draft_is_read_whoever_wrote_it(tmp_path: Path) -> None:
    """Without trust only what it is counts: any user may have his own checked.

    Taken out: the look at `folder` in `_read`; then it has to be root's.
    """
    draft = tmp_path / "draft.yaml"
    draft.write_bytes(TEXT)
    draft.chmod(0o666)
    assert read(str(draft), trusted=False) == TEXT


def test_a_draft_that_is_no_file_is_told(tmp_path: Path) -> None:
    """Missing, a folder, a fifo, a link.

    Taken out: S_ISREG, and O_NOFOLLOW.
    """
    assert "there is no such file" in complaint(tmp_path / "none", trusted=False)
    assert "not a regular file" in complaint(tmp_path, trusted=False)
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in complaint(tmp_path / "fifo", trusted=False)
    (tmp_path / "link").symlink_to("none")
    assert "a link" in complaint(tmp_path / "link", trusted=False)
    assert "must be a file that can be read" in complaint(tmp_path / ("x" * 300), trusted=False)


def test_what_is_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A terabyte costs no more than the limit.

    Taken out: the limit of `_read_all`, and the one after it; without the former it does not come
    to an end.
    """
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * MAX_BYTES)
    assert len(read(str(large), trusted=False)) == MAX_BYTES
    os.truncate(large, 1 << 40)
    assert "more than 4194304 bytes" in complaint(large, trusted=False)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """Whether it was read or refused.

    Taken out: the closing in `_read`.
    """
    draft = tmp_path / "draft.yaml"
    draft.write_bytes(TEXT)
    before = len(os.listdir("/proc/self/fd"))
    for path in (draft, tmp_path, tmp_path / "none"):
        for trusted in (True, False):
            try:
                read(str(path), trusted=trusted)
            except PolicyFileError:
                pass
    assert len(os.listdir("/proc/self/fd")) == before
