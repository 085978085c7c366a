"""Who is asking."""

import pytest

from sockbroker.core.peer import Peer


def test_a_peer_cannot_become_somebody_else() -> None:
    """What the kernel said once cannot be changed afterwards."""
    peer = Peer(uid=1000, gid=1000, pid=7, groups=frozenset({27}))
    with pytest.raises(AttributeError):
        peer.uid = 0  # type: ignore[misc]


def test_peers_are_values() -> None:
    """The same credentials are the same peer, so that they can be keys and be compared."""
    one = Peer(uid=1000, gid=1000, pid=7, groups=frozenset({27}))
    same = Peer(uid=1000, gid=1000, pid=7, groups=frozenset({27}))
    assert {one: "found"}[same] == "found"


def test_unknown_groups_are_not_no_groups() -> None:
    """A list that could not be read is something else than an empty one."""
    unknown = Peer(uid=1000, gid=1000, pid=7, groups=None)
    assert unknown != Peer(uid=1000, gid=1000, pid=7, groups=frozenset())
