"""Who is asking, as the kernel attests it.

A `Peer` is made once for each connection, from the credentials of its socket, and never from
anything in a message. What it may have is decided in `decision`.
"""

from typing import NamedTuple


class Peer(NamedTuple):
    """One process at the other end of a connection, as it was when it connected."""

    uid: int
    gid: int
    # For the log and for refusing 0 (a process that our pid namespace cannot see). Never an
    # argument of a decision about who somebody is: pids are given out again.
    pid: int
    # Supplementary groups; the gid above is not among them unless it was added. None: the kernel's
    # list could not be read, so no group can allow and no denied group can be ruled out.
    groups: frozenset[int] | None
