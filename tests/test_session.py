"""What is known of who is at the other end of a connection."""

from __future__ import annotations

import os
import socket

from sockbroker.kernel.peercred import peer_of
from sockbroker.session import Connection


def test_groups_are_asked_for_while_the_socket_is_open() -> None:
    """And then they are not known, which a policy takes for doubt; nobody is disturbed by it.

    Seen to fail when an error is no groups.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(ours, peer_of(ours), operator=False, clean=True)
        assert connection.groups() == frozenset(os.getgroups())
        assert connection.peer == (os.getpid(), os.geteuid(), os.getegid())
    assert connection.groups() is None
