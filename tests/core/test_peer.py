"""Who is asking."""

import pytest

from sockbroker.core.peer import Peer


def test_a_peer_cannot_become_somebody_else() -> None:
    """What the kernel said once cannot be changed afterwards."""
    peer = Peer(pid=7, uid=1000, gid=1000)
    with pytest.raises(AttributeError):
        peer.uid = 0  # type: ignore[misc]


def test_peers_are_values() -> None:
    """The same credentials are the same peer, so that they can be keys and be compared."""
    one = Peer(pid=7, uid=1000, gid=1000)
    same = Peer(pid=7, uid=1000, gid=1000)
    assert {one: "found"}[same] == "found"
