"""Turns go around by account, and who has most gives up first.

Said at each test: what was taken out of the program to see it fail.
"""

from __future__ import annotations

import socket
from _socket import socket as Socket
from collections.abc import Callable, Iterator

import pytest

from sockbroker.core.peer import Peer
from sockbroker.core.varlink import MESSAGE_LIMIT
from sockbroker.session import Connection
from sockbroker.shares import MOST_BYTES, MOST_BYTES_OF_ONE, Shares

Enter = Callable[[int], Connection]

OPERATOR = 0
ALICE = 1001
BOB = 1002
MALLORY = 1003


@pytest.fixture
def shares() -> Shares:
    return Shares()


@pytest.fixture
def enter(shares: Shares) -> Iterator[Enter]:
    ends: list[socket.socket] = []

    def connect(uid: int) -> Connection:
        ours, theirs = socket.socketpair()
        ends.extend((ours, theirs))
        peer = Peer(pid=1, uid=uid, gid=uid)
        plain: Socket = ours
        connection = Connection(plain, peer, operator=uid == OPERATOR, clean=True)
        shares.enter(connection)
        return connection

    yield connect
    for end in ends:
        end.close()


def test_turns_go_around(shares: Shares, enter: Enter) -> None:
    """A crowd of one account and one of another: the one has the second turn.

    Seen to fail with all in one queue.
    """
    crowd = [enter(MALLORY) for _ in range(5)]
    alone = enter(ALICE)
    for connection in (*crowd, alone):
        shares.queue(connection)
    assert [shares.next() for _ in range(6)] == [crowd[0], alone, *crowd[1:]]
    assert shares.next() is None
    assert not shares.turns


def test_operators_come_first(shares: Shares, enter: Enter) -> None:
    """Whoever waits, an operator has the next turn.  Seen to fail without the look for them."""
    for uid in (MALLORY, ALICE, OPERATOR):
        shares.queue(enter(uid))
    taken = shares.next()
    assert taken is not None
    assert taken.operator


def test_one_turn_at_a_time(shares: Shares, enter: Enter) -> None:
    """A connection that waits already gets no second turn.  Seen to fail without `queued`."""
    connection = enter(ALICE)
    shares.queue(connection)
    shares.queue(connection)
    assert [shares.next(), shares.next()] == [connection, None]


def test_who_has_gone_has_no_turn(shares: Shares, enter: Enter) -> None:
    """Turns of connections that were closed are passed over, and so is an account without any.

    Seen to fail without the look at `closed`.
    """
    gone, behind, stays = enter(MALLORY), enter(MALLORY), enter(ALICE)
    for connection in (gone, behind, stays):
        shares.queue(connection)
    for connection in (gone, stays):
        connection.closed = True
        shares.leave(connection)
    back = enter(ALICE)
    shares.queue(back)
    assert [shares.next() for _ in range(3)] == [behind, back, None]
    assert shares.connections == 2


def test_the_crowd_gives_up_its_longest_idle(shares: Shares, enter: Enter) -> None:
    """Places are taken from the account with most, and there from who was heard longest ago.

    Seen to fail without `heard`, and with the smallest account instead.
    """
    crowd = [enter(MALLORY) for _ in range(3)]
    enter(ALICE)
    for connection in crowd:
        connection.begun = True
    shares.heard(crowd[0])
    assert shares.dispensable() is crowd[1]


def test_operators_give_up_last(shares: Shares, enter: Enter) -> None:
    """However many operators there are, a user's place is taken.  Seen to fail by size alone."""
    for _ in range(5):
        enter(OPERATOR)
    user = enter(ALICE)
    assert shares.dispensable() is user


def test_of_equals_the_one_seen_longest_ago(shares: Shares, enter: Enter) -> None:
    """Thousands of uids with one connection each push out one another, not who has just come.

    Seen to fail when an account kept its place however often it came.
    """
    first = enter(ALICE)
    second = enter(MALLORY)
    again = enter(ALICE)
    first.closed = True
    shares.leave(first)
    assert shares.dispensable() is second
    assert shares.all() == [second, again]


def test_bytes_of_one_account(shares: Shares, enter: Enter) -> None:
    """An account has its share in all its connections together, and gets it back.

    Seen to fail with the bytes of one connection compared.
    """
    connections = [enter(MALLORY) for _ in range(5)]
    quarter = MOST_BYTES_OF_ONE // 4
    assert all(shares.weigh(each, quarter) for each in connections[:4])
    assert not shares.weigh(connections[4], 1)
    connections[4].closed = True
    shares.leave(connections[4])
    assert shares.weigh(connections[0], 0)
    assert shares.weigh(connections[1], quarter)
    assert shares.weigh(enter(ALICE), quarter)


def test_bytes_of_all(shares: Shares, enter: Enter) -> None:
    """When everybody's bytes are used up, one message a connection may wait still, and no more.

    Seen to fail without the limit of all.
    """
    for uid in range(2000, 2000 + MOST_BYTES // MOST_BYTES_OF_ONE):
        assert shares.weigh(enter(uid), MOST_BYTES_OF_ONE)
    late = enter(BOB)
    assert shares.weigh(late, MESSAGE_LIMIT)
    assert not shares.weigh(late, MESSAGE_LIMIT + 1)
