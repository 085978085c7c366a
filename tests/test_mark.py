"""The mark of a directory that is in use: who has it, how long, and what it never does."""

import fcntl
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import sockbroker
from file_record import record
from in_directory import PATH, Running, Server, in_directory, mode_of
from private_world import (
    ALICE,
    MALLORY,
    ChildFailed,
    as_user,
    in_child,
    in_private_world,
    mount_tmpfs,
    needs_root,
)
from scripted_broker import OPERATOR, ScriptedBroker, always, granted, make_directory
from sockbroker.errors import Unmarked
from sockbroker.kernel.usage import read_tables, usage_of

Directory = sockbroker.Directory

pytestmark = needs_root

MARK = f"{PATH}/.sockbroker.lock"


def in_use() -> bool | None:
    """Ask as the broker does, by the kernel's list of locks."""
    folder = os.open("/run/chat", os.O_PATH)
    try:
        return usage_of(folder, str(ALICE), ALICE, read_tables()).in_use
    finally:
        os.close(folder)


def locks() -> list[tuple[str, int]]:
    """Give kind and holder of each lock on the mark's file."""
    status = os.stat(MARK)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return [(line[3], int(line[4])) for line in lines if line[5] == place]


def test_a_directory_is_marked_until_it_is_closed() -> None:
    """By a shared lock of this process, on a file of the owner's that nobody else can open."""

    def act(directory: Directory) -> None:
        assert directory.marked
        assert locks() == [("READ", os.getpid())]
        assert in_use() is True
        status = os.lstat(MARK)
        assert (status.st_uid, status.st_mode, status.st_size) == (ALICE, 0o100600, 0)
        with sockbroker.request("chat") as again:
            assert again.marked
            assert len(locks()) == 2
        assert len(locks()) == 1
        directory.close()
        assert not directory.marked
        assert locks() == []
        assert in_use() is False

    in_directory(act)


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_the_umask_does_not_matter(umask: int) -> None:
    """The first who marks makes the file for all that follow."""

    def act(directory: Directory) -> None:
        directory.close()
        os.unlink(MARK)
        os.umask(umask)
        for _ in range(2):
            with sockbroker.request("chat") as again:
                assert again.marked
                assert mode_of(".sockbroker.lock") == 0o600

    in_directory(act)


def test_the_mark_ends_with_the_process() -> None:
    """Whatever ends it, the kernel drops the mark."""

    def world() -> None:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)))
        user = Server(lambda: sockbroker.request("chat"), uid=ALICE)
        assert in_use() is True
        user.kill()
        assert in_use() is False

    in_private_world(world)


def test_a_forked_process_goes_on_marking() -> None:
    """A worker that goes on in the directory keeps it in use after its parent has closed it."""

    def act(directory: Directory) -> None:
        reading, writing = os.pipe()
        worker = Running(lambda: (os.close(writing), os.read(reading, 1)))
        os.close(reading)
        directory.close()
        assert in_use() is True
        os.close(writing)
        worker.result()
        assert in_use() is False

    in_directory(act)


def test_no_program_inherits_anything() -> None:
    """What another program gets of all this is nothing, so it cannot climb out by it either."""

    def inherited() -> str:
        return subprocess.run(
            [sys.executable, "-I", "-c", "import os; print(os.listdir('/proc/self/fd'))"],
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    def act(directory: Directory) -> str:
        with directory.listen("s"):
            return inherited()

    assert in_directory(act) == inherited()


def unmarked(reason: str) -> float:
    """Request the directory, which works, with a warning; returns how long that took."""
    begin = time.monotonic()
    with pytest.warns(Unmarked, match=reason) as caught:
        directory = sockbroker.request("chat")
    assert not directory.marked
    assert caught[0].filename == __file__
    directory.listen("s").close()
    directory.close()
    return time.monotonic() - begin


def test_a_lock_is_never_waited_for() -> None:
    """Also if it is one's own process that holds it for itself alone."""

    def act(directory: Directory) -> float:
        directory.close()
        with open(MARK) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return unmarked("locked by another process")

    assert in_directory(act) < 4  # who waits for a lock does for 5 s


@pytest.mark.parametrize(
    "put", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc/passwd")]
)
def test_what_is_no_mark(put: Callable[[Path], object]) -> None:
    """What lies in its place is neither followed nor waited for, and stays as it is."""

    def act(directory: Directory) -> None:
        directory.close()
        os.unlink(MARK)
        put(Path(MARK))
        before = record(Path(MARK))
        unmarked("no regular file: remove it")
        assert record(Path(MARK)) == before

    in_directory(act)


def test_a_mark_with_another_name() -> None:
    """A file of the user's own that got this name too is not changed."""

    def act(directory: Directory) -> None:
        directory.close()
        Path(f"{PATH}/precious").touch(0o644)
        os.chmod(f"{PATH}/precious", 0o644)
        os.rename(f"{PATH}/precious", MARK)
        os.link(MARK, f"{PATH}/precious")
        unmarked("hard links")
        assert mode_of("precious") == 0o644

    in_directory(act)


@pytest.mark.parametrize("mode", [0o000, 0o200, 0o644, 0o666, 0o4777])
def test_a_mark_of_another_mode_is_mended(mode: int) -> None:
    """It has to be closed to others to mean anything, and open to its owner."""

    def act(directory: Directory) -> None:
        directory.close()
        os.chmod(MARK, mode)
        with sockbroker.request("chat") as again:
            assert again.marked
        assert mode_of(".sockbroker.lock") == 0o600

    in_directory(act)


def test_a_mark_of_somebody_else() -> None:
    """In a directory that others may write in, what they put there is not locked."""

    def world() -> None:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)))
        for mode in (0o600, 0o666):
            Path(MARK).touch()
            os.chown(MARK, MALLORY, MALLORY)
            os.chmod(MARK, mode)
            as_user(ALICE, lambda: unmarked("Permission denied|owned by uid"))
            os.unlink(MARK)

    in_private_world(world)


def test_who_may_read_the_directory_cannot_spoil_the_mark() -> None:
    """A lock on the directory itself is anybody's, and therefore says nothing."""

    def world() -> None:
        make_directory("chat", ALICE, 0o755)
        ScriptedBroker(always(granted("chat", ALICE)))

        def lock() -> int:
            descriptor = os.open(PATH, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return descriptor

        stranger = Server(lock, uid=MALLORY)
        assert in_use() is False

        def act() -> None:
            with sockbroker.request("chat") as directory:
                assert directory.marked

        as_user(ALICE, act)
        stranger.kill()

    in_private_world(world)


def test_a_directory_without_room_for_a_mark() -> None:
    """Full, or read-only: it is granted all the same, with a warning."""

    def world() -> None:
        make_directory("chat", ALICE)
        mount_tmpfs(PATH, f"mode=0700,uid={ALICE},nr_inodes=1")
        ScriptedBroker(always(granted("chat", ALICE)))

        def act() -> None:
            with pytest.warns(Unmarked, match="No space left"):
                sockbroker.request("chat").close()
            os.chmod(PATH, 0o500)
            with pytest.warns(Unmarked, match="Permission denied"):
                sockbroker.request("chat").close()

        as_user(ALICE, act)

    in_private_world(world)


def test_who_takes_warnings_for_errors_keeps_no_descriptor() -> None:
    """With python -W error the request fails, and nothing of it stays open."""

    def act(directory: Directory) -> None:
        directory.close()
        os.unlink(MARK)
        os.mkdir(MARK)
        before = os.listdir("/proc/self/fd")
        warnings.simplefilter("error")
        with pytest.raises(sockbroker.Error):
            sockbroker.request("chat")
        assert os.listdir("/proc/self/fd") == before

    in_directory(act)


def test_an_operator_marks_nothing_of_a_users() -> None:
    """A file of root's in the place of the user's mark would take that from him."""

    def world() -> None:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)), target=OPERATOR)
        with sockbroker.request("chat", user=ALICE) as directory:
            assert not directory.marked
        assert os.listdir(PATH) == []

    in_private_world(world)


def test_a_mark_can_be_removed_while_it_is_held() -> None:
    """Who marks after that marks on a new file, and not on the one that has no name any more."""

    def act(directory: Directory) -> None:
        os.unlink(MARK)
        with sockbroker.request("chat"):
            assert len(locks()) == 1
            assert in_use() is True

    in_directory(act)


def test_systemd_tmpfiles_passes_a_marked_directory_over() -> None:
    """The program itself, told to remove everything there: nothing while it is in use."""

    def world() -> list[list[str]]:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)))
        rules = Path("/run/rules.conf")
        rules.write_text("e /run/chat - - - 0\n")

        def clean() -> list[str]:
            subprocess.run(["systemd-tmpfiles", "--clean", rules], check=True)
            return sorted(os.listdir(PATH)) if os.path.exists(PATH) else []

        def start() -> Directory:
            directory = sockbroker.request("chat")
            Path(f"{PATH}/old").touch()
            return directory

        user = Server(start, uid=ALICE)
        seen = [clean()]
        user.kill()
        return [*seen, clean()]

    assert in_private_world(world) == [[".sockbroker.lock", "old"], []]


def test_children_that_fail_tell_it() -> None:
    """The helper that all this rests on does not swallow what a child raises."""

    def fail() -> None:
        raise ValueError("told")

    with pytest.raises((ValueError, ChildFailed), match="told"):
        in_child(fail)
    with pytest.raises(AssertionError, match="told"):
        Running(fail).result()
