"""The file of a socket: whether one is bound to it, and removing no other than it."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockbroker.kernel.bound_inode import bound_inode
from sockbroker.kernel.socket_file import FileIdentity, is_bound, open_file, remove

STREAM, DATAGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a folder of this test's own, which is where relative paths begin."""
    here = Path.cwd()
    os.chdir(tmp_path)
    descriptor = os.open(tmp_path, os.O_PATH)
    yield descriptor
    os.close(descriptor)
    os.chdir(here)


def bound(folder: int, name: str) -> bool | None:
    """Tell whether a socket is bound to the file of that name."""
    descriptor = open_file(folder, name)
    try:
        return is_bound(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("kind", [STREAM, DATAGRAM, SEQPACKET])
def test_a_bound_socket_is_told_from_a_dead_one(folder: int, kind: int) -> None:
    """Listening or not, with a full queue or an empty one; and by what was never a socket too."""
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind("s")
        assert bound(folder, "s") is True
        os.rename("s", "t")
        assert bound(folder, "t") is True
        if kind != DATAGRAM:
            server.listen(0)
            assert bound(folder, "t") is True
            with socket.socket(socket.AF_UNIX, kind) as client:
                client.connect("t")
                assert bound(folder, "t") is True
    assert bound(folder, "t") is False


def test_a_connection_that_outlives_its_listener_is_no_sign_of_life(folder: int) -> None:
    """It has the listener's file, and nobody can ever connect to it."""
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        client.connect("s")
        connection, _ = server.accept()
        with connection:
            server.close()
            assert bound(folder, "s") is False


@pytest.mark.parametrize("kind", [STREAM, DATAGRAM, SEQPACKET])
def test_the_file_that_a_socket_is_bound_to(folder: int, kind: int) -> None:
    """Is known by its inode, wherever it was moved, also when it has no name any more."""
    with socket.socket(socket.AF_UNIX, kind) as server:
        assert bound_inode(server.fileno()) is None
        server.bind("s")
        inode = os.lstat("s").st_ino & 0xFFFFFFFF
        assert bound_inode(server.fileno()) == inode
        os.unlink("s")
        assert bound_inode(server.fileno()) == inode
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind("\0sockbroker test")
        assert bound_inode(server.fileno()) is None


def test_what_is_no_unix_socket_is_bound_to_nothing() -> None:
    """The kernel says that it has none of that number."""
    with open("/dev/null") as file, pytest.raises(OSError, match="No such file"):
        bound_inode(file.fileno())


def test_a_name_is_removed_from_its_own_file_only(folder: int) -> None:
    """What has the name since keeps it, and nothing else is left."""
    Path("s").touch()
    descriptor = open_file(folder, "s")
    file = FileIdentity.of(descriptor)
    os.rename("s", "t")
    assert remove(folder, "s", file) is False
    Path("s").mkdir()
    assert remove(folder, "s", file) is False
    assert remove(folder, "t", file) is True
    assert os.listdir() == ["s"]
    os.close(descriptor)


def test_a_name_that_changes_hands_in_the_middle(folder: int) -> None:
    """A file that takes the name between a look and the removal has it afterwards."""
    rounds = 3000
    dead: list[FileIdentity] = []
    start, end = threading.Barrier(2), threading.Barrier(2)

    def take_away() -> None:
        for _ in range(rounds):
            start.wait(60)
            remove(folder, "s", dead[-1])
            end.wait(60)

    remover = threading.Thread(target=take_away)
    remover.start()
    random.seed(3)
    for number in range(rounds):
        Path("s").touch()
        descriptor = open_file(folder, "s")
        dead[:] = [FileIdentity.of(descriptor)]
        Path("live").write_text(str(number))
        start.wait(60)
        for _ in range(random.randrange(100)):
            pass
        os.rename("live", "s")
        end.wait(60)
        assert os.listdir() == ["s"]
        assert Path("s").read_text() == str(number)
        os.unlink("s")
        os.close(descriptor)
    remover.join()
