"""The way to a socket, as it was seen: each folder, each link, what is at the end, who listens.

Only values: `sockbroker.kernel.path_walk` looks, `connecting` judges.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

from sockbroker.core.acl import Acl
from sockbroker.core.permission import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A folder in which the next name is looked up; `path` is its own, without links."""

    path: bytes
    node: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A symbolic link in `folder`; `last`: nothing comes after it."""

    path: bytes
    node: Node
    target: bytes
    folder: Node
    last: bool
    # The mount has the option nosymfollow.
    mount_forbids: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """The thing that the path leads to; where it is, as the table of sockets would say it."""

    path: bytes
    node: Node
    device: int
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Nothing has the name; `last`: it was the one to connect to, and in `folder`.

    `default_acl` is what the folder would give to a new socket.
    """

    path: bytes
    folder: Node
    last: bool
    default_acl: Acl | None = None


class Dead(Enum):
    """How a way ends that leads nowhere, whoever takes it; with the error of connect(2)."""

    NOT_A_FOLDER = "ENOTDIR"
    TOO_MANY_LINKS = "ELOOP"
    NAME_TOO_LONG = "ENAMETOOLONG"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadEnd:
    """The way leads nowhere."""

    path: bytes
    kind: Dead
    node: Node | None = None


class Blind(Enum):
    """Why somebody who looks cannot look further."""

    FORBIDDEN = "forbidden"
    STALLING = "stalling mount"
    ELSEWHERE = "depends on the process"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSeen:
    """The way goes on where this command cannot or must not look."""

    path: bytes
    kind: Blind
    detail: str = ""


Step = Passed | Followed
End = Reached | Missing | DeadEnd | NotSeen


class SocketType(IntEnum):
    """The types that a Unix socket can have, by their numbers."""

    STREAM = 1
    DGRAM = 2
    SEQPACKET = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A socket that is bound, by the kernel's table.

    `shut`: it takes nothing any more; `peered`: connected to one peer, which for a datagram socket
    means that it takes from nobody else.  A queue is full when more wait than `backlog`.
    """

    type: SocketType
    listening: bool
    shut: bool = False
    peered: bool = False
    waiting: int = 0
    backlog: int = 0
    here: bool = True

    @property
    def full(self) -> bool:
        """Tell whether who connects now has to wait."""
        return self.listening and self.waiting > self.backlog


@dataclass(frozen=True, slots=True)
class Unbound:
    """No socket is bound to it, in any network namespace."""


@dataclass(frozen=True, slots=True)
class Untold:
    """Whether a socket is bound to it cannot be told; the text says why."""

    reason: str


Socket = Bound | Unbound | Untold


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The way to a socket file; `written` is the path as connect(2) is given it."""

    written: bytes
    steps: tuple[Step, ...]
    end: End
