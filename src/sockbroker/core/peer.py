"""Who is asking, as the kernel attests it.

A `Peer` is made once for each connection, from the credentials of its socket, and never from
anything in a message. What it may have is decided in `decision`.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias


class Peer(NamedTuple):
    """One process at the other end of a connection, as it was when it connected."""

    # For the log and for refusing 0 (a process that our pid namespace cannot see). Never an
    # argument of a decision about who somebody is: pids are given out again.
    pid: int
    uid: int
    gid: int


Groups: TypeAlias = frozenset[int] | None
"""The supplementary groups of a peer; its gid is not among them unless it was added.

None: they could not be read, so no group can allow and no denied group can be ruled out.
"""

AskGroups: TypeAlias = Callable[[], Groups]
"""Finds them out: a peer may have a thousand, and most rules name no group."""
