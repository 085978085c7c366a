"""What each account has of the server: connections, bytes that wait, and turns.

An account is a uid, or the operators together.  Turns go around by account, one call at a time, so
nobody who is alone waits, and a crowd from one account delays only itself; places and memory are
taken from who has most.
"""

from __future__ import annotations

import itertools
from collections import deque

from sockbroker.core.varlink import MESSAGE_LIMIT
from sockbroker.session import OPERATORS, Connection

MOST_BYTES_OF_ONE = 4 * 1024 * 1024
"""Of calls and replies that wait in all connections of an account."""

MOST_BYTES = 64 * 1024 * 1024
"""Of all accounts together; beyond it a connection may have one message waiting, but no more."""

LOOKED_AT_TO_DROP = 64
"""Connections of one account among which an idle one is searched when places have run out."""


class Shares:
    """All accounts that have a connection."""

    def __init__(self) -> None:
        # The connections of each, the longest idle first.  Of accounts that have as many, who was
        # last seen longest ago loses one first.
        self._accounts: dict[int, dict[Connection, None]] = {}
        self.turns: dict[int, deque[Connection]] = {}
        """What waits for a turn: the accounts in order, and the connections of each."""
        self._waiting: dict[int, int] = {}  # bytes, of the accounts that have any
        self._bytes = 0  # of all of them
        self.connections = 0

    def enter(self, connection: Connection) -> None:
        """Count a new connection."""
        account = connection.account
        connections = self._accounts.pop(account, None)
        if connections is None:
            connections = {}
        connections[connection] = None
        self._accounts[account] = connections
        self.connections += 1

    def leave(self, connection: Connection) -> None:
        """Forget a connection; a turn that it waits for is passed over."""
        account = connection.account
        connections = self._accounts[account]
        del connections[connection]
        if not connections:
            del self._accounts[account]
        self.connections -= 1
        if connection.bytes:
            self.weigh(connection, 0)

    def connections_of(self, account: int) -> int:
        """Return how many connections an account has that has any."""
        return len(self._accounts[account])

    def heard(self, connection: Connection) -> None:
        """Note that a connection is no longer the longest idle of its account."""
        connections = self._accounts[connection.account]
        if len(connections) > 1:
            connections[connection] = connections.pop(connection)

    def weigh(self, connection: Connection, waiting: int) -> bool:
        """Note how many bytes wait in a connection; say whether it may have as many."""
        more = waiting - connection.bytes
        connection.bytes = waiting
        of_account = self._waiting.pop(connection.account, 0) + more
        if of_account:
            self._waiting[connection.account] = of_account
        self._bytes += more
        if more <= 0:
            return True
        return of_account <= MOST_BYTES_OF_ONE and (
            self._bytes <= MOST_BYTES or waiting <= MESSAGE_LIMIT
        )

    def dispensable(self) -> Connection | None:
        """Return the longest idle connection of the account with most, or else its oldest."""
        if not self._accounts:
            return None
        # Operators come last: no crowd may put them out.
        _account, connections = max(
            self._accounts.items(), key=lambda item: (item[0] != OPERATORS, len(item[1]))
        )
        # The longest idle are first; where all of many are busy, looking on is not worth the time.
        # Who waits for his first turn is not idle: he may have sent his call already.
        oldest = itertools.islice(connections, LOOKED_AT_TO_DROP)
        idle = (each for each in oldest if each.idle)
        return next(idle, None) or next(iter(connections))

    def all(self) -> list[Connection]:
        """Return every connection."""
        return list(itertools.chain.from_iterable(self._accounts.values()))

    # Turns.

    def queue(self, connection: Connection) -> None:
        """Give a connection its account's next turn, unless it waits for one."""
        if not connection.queued and not connection.closed:
            connection.queued = True
            waiting = self.turns.get(connection.account)
            if waiting is None:
                waiting = self.turns[connection.account] = deque()
            waiting.append(connection)

    def next(self) -> Connection | None:
        """Take the connection whose turn it is; None if nobody waits.

        Operators come first, then whichever account has waited longest.
        """
        while self.turns:
            account = OPERATORS if OPERATORS in self.turns else next(iter(self.turns))
            waiting = self.turns.pop(account)
            while waiting:
                connection = waiting.popleft()
                connection.queued = False
                if not connection.closed:
                    if waiting:
                        self.turns[account] = waiting  # behind all others
                    return connection
        return None
