"""Who is watched singly, who in a crowd, and what is left where the kernel refuses."""

from __future__ import annotations

import os
import resource
from _socket import socket as Socket
from collections.abc import Iterator

import pytest

from sockbroker.core.peer import Peer
from sockbroker.kernel.loop import READABLE, Loop
from sockbroker.session import OPERATORS, Connection
from sockbroker.shares import Shares
from sockbroker.watching import MOST_WATCHED_SINGLY, Watching

ALICE, BOB, CAROL = 1000, 1001, 1002


class Watched:
    """What is under test, and connections for it."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.shares = Shares()
        self.watching = Watching(self.loop, self.shares, lambda *_: None)
        self.connections: list[Connection] = []

    def enter(self, uid: int, number: int) -> list[Connection]:
        """Let so many in."""
        entered = []
        for _ in range(number):
            peer = Peer(pid=1, uid=max(uid, 0), gid=0)
            entered.append(Connection(Socket(), peer, uid == OPERATORS, True))
            self.shares.enter(entered[-1])
        self.connections += entered
        return entered

    def start(self, connections: list[Connection]) -> None:
        for each in connections:
            self.watching.start(each, READABLE)

    def close(self) -> None:
        for each in self.connections:
            each.socket.close()
        self.loop.close()


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.close()


def test_who_comes_while_there_are_many_is_in_the_crowd_of_his_account(watched: Watched) -> None:
    """And only he; each account has its own.

    Seen to fail where two accounts share one.
    """
    for uid in (ALICE, BOB):
        watched.start(few := watched.enter(uid, MOST_WATCHED_SINGLY))
        assert {each.watched for each in few} == {watched.loop}
        watched.start(more := watched.enter(uid, 3))
        assert len({each.watched for each in more} - {watched.loop}) == 1
    assert len(watched.loop._crowds) == 2


def test_operators_are_in_no_crowd(watched: Watched) -> None:
    """Root is promised more than others are, and does not flood himself.

    Seen to fail where they are.
    """
    watched.start(watched.enter(OPERATORS, 3 * MOST_WATCHED_SINGLY))
    assert not watched.loop._crowds


def test_who_cannot_be_watched_leaves_no_crowd(watched: Watched) -> None:
    """The kernel refuses a file, as it refuses any descriptor for want of memory.

    Seen to fail where a crowd stays into which nobody has come.
    """
    refused, *_others = watched.enter(ALICE, MOST_WATCHED_SINGLY + 1)
    with open(os.memfd_create("file"), "rb") as file:
        refused.descriptor = file.fileno()
        with pytest.raises(OSError, match="Operation not permitted"):
            watched.start([refused])
    assert not watched.loop._crowds
    assert refused.watched is None


def test_without_a_descriptor_for_a_crowd_everybody_is_watched_singly(watched: Watched) -> None:
    """But for those of one account, for whom there always is one.

    Seen to fail where they are not watched, and where the one is not kept ready.
    """
    everybody = [watched.enter(uid, MOST_WATCHED_SINGLY + 1) for uid in (ALICE, BOB, CAROL)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_one = os.open("/", os.O_PATH)
    os.close(next_one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, limits[1]))
    try:
        for each in everybody:
            watched.start(each)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(watched.loop._crowds) == 1
    for each in everybody[1:]:
        assert {connection.watched for connection in each} == {watched.loop}
