"""Whether connect(2) would succeed, and if not, at which step of the way and why: the decision.

In go the way to a socket as it was seen, what the kernel's table says of the socket, and who wants
to connect.  Out comes the verdict.  A step that refuses decides, also behind one that could not be
judged; "can" is said only where everything was seen to let him through.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from sockbroker.core.permission import SEARCH, WRITE, Grant, Identity, Kind, access, may_follow
from sockbroker.core.way import (
    Bound,
    DeadEnd,
    End,
    Followed,
    Missing,
    NotSeen,
    Passed,
    Reached,
    Socket,
    SocketType,
    Step,
    Unbound,
    Untold,
    Way,
)

PATH_LIMIT: Final = 107
"""Of bytes in an address: sun_path of unix(7) without a path's final NUL."""

LINKS_COUNTED_ONCE: Final = 20
"""Where the kernel has to begin a walk again it goes on counting the links (fs/namei.c,
filename_lookup()), so that behind more than these it may end in ELOOP, measured.  At a protected
link it always begins again; elsewhere when a mount or a rename comes in between."""


class Cause(Enum):
    """What decides a verdict."""

    SEARCH = "search permission"
    WRITE = "write permission"
    PROTECTED_LINK = "protected link"
    LINK_ON_MOUNT = "link on a nosymfollow mount"
    MISSING = "missing"
    DEAD_END = "dead end"
    NOT_SEEN = "not seen"
    NOT_A_SOCKET = "not a socket"
    STALE = "nobody has it bound"
    NOT_LISTENING = "not listening"
    SHUT = "shut down"
    PEERED = "connected to another"
    OTHER_TYPE = "other type"
    SOCKET = "the socket"
    PATH_TOO_LONG = "path too long"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One judgement on the way: the step by number (the end is the one after the last).

    `error` is what connect(2) gives if this is the first thing that refuses; None: not known.
    """

    step: int
    cause: Cause
    allowed: bool | None
    error: str | None = None
    grant: Grant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Can he connect (None: it cannot be told), what decides, and all that was judged, in order.

    `error` is the name of the error that connect(2) gives, where that can be told.
    """

    can_connect: bool | None
    deciding: Judged | None
    error: str | None
    judged: tuple[Judged, ...]

    @property
    def refused(self) -> tuple[Judged, ...]:
        """Every judgement against him, the deciding one first."""
        return tuple(each for each in self.judged if each.allowed is False)


def links_on(steps: tuple[Step, ...]) -> int:
    """Count the links that are followed."""
    return sum(isinstance(step, Followed) for step in steps)


def judge(
    way: Way,
    socket: Socket,
    who: Identity,
    *,
    links_protected: bool | None,
    wanted: SocketType | None = None,
) -> Verdict:
    """Judge a way to a socket file; without `wanted` whatever type the socket has is right."""
    judged = []
    if len(way.written) > PATH_LIMIT:
        judged.append(Judged(step=0, cause=Cause.PATH_TOO_LONG, allowed=False, error="EINVAL"))
    for number, step in enumerate(way.steps):
        judged.append(_of_step(way, number, step, who, links_protected))
    judged += _of_end(len(way.steps), way.end, socket, who, wanted)
    return _verdict(judged)


def judge_abstract(socket: Socket, *, wanted: SocketType | None = None) -> Verdict:
    """Judge an abstract name, which has no permissions."""
    return _verdict([_of_socket(0, socket, wanted)])


def _verdict(judged: list[Judged]) -> Verdict:
    refused = next((each for each in judged if each.allowed is False), None)
    doubted = next((each for each in judged if each.allowed is not True), None)
    return Verdict(
        can_connect=False if refused else None if doubted else True,
        deciding=refused or doubted,
        error=refused.error if refused and refused is doubted else None,
        judged=tuple(judged),
    )


def _of_step(
    way: Way, number: int, step: Step, who: Identity, links_protected: bool | None
) -> Judged:
    match step:
        case Passed():
            grant = access(step.node, who, SEARCH)
            return Judged(
                step=number, cause=Cause.SEARCH, allowed=grant.allowed, error="EACCES", grant=grant
            )
        case Followed():
            follows: bool | None = True
            if step.last:
                follows = may_follow(step.node.uid, step.folder, who, protected=links_protected)
            if step.mount_forbids and follows is not False:
                return Judged(step=number, cause=Cause.LINK_ON_MOUNT, allowed=False, error="ELOOP")
            links = links_on(way.steps[: number + 1])
            return Judged(
                step=number,
                cause=Cause.PROTECTED_LINK,
                allowed=follows,
                error="EACCES" if links <= LINKS_COUNTED_ONCE else None,
            )
        case _:
            assert_never(step)


def _of_end(
    number: int, end: End, socket: Socket, who: Identity, wanted: SocketType | None
) -> list[Judged]:
    match end:
        case Missing():
            return [Judged(step=number, cause=Cause.MISSING, allowed=False, error="ENOENT")]
        case DeadEnd():
            return [Judged(step=number, cause=Cause.DEAD_END, allowed=False, error=end.kind.value)]
        case NotSeen():
            return [Judged(step=number, cause=Cause.NOT_SEEN, allowed=None)]
        case Reached():
            grant = access(end.node, who, WRITE)
            written = Judged(
                step=number, cause=Cause.WRITE, allowed=grant.allowed, error="EACCES", grant=grant
            )
            if end.node.kind is Kind.SOCKET:
                return [written, _of_socket(number, socket, wanted)]
            return [
                written,
                Judged(step=number, cause=Cause.NOT_A_SOCKET, allowed=False, error="ECONNREFUSED"),
            ]
        case _:
            assert_never(end)


def _of_socket(number: int, socket: Socket, wanted: SocketType | None) -> Judged:
    match socket:
        case Unbound():
            cause, error = Cause.STALE, "ECONNREFUSED"
        case Untold():
            return Judged(step=number, cause=Cause.SOCKET, allowed=None)
        case Bound() if wanted not in (None, socket.type):
            cause, error = Cause.OTHER_TYPE, "EPROTOTYPE"
        case Bound(type=SocketType.DGRAM):
            if not socket.peered:
                return Judged(step=number, cause=Cause.SOCKET, allowed=True)
            cause, error = Cause.PEERED, "EPERM"
        case Bound(listening=False):
            cause, error = Cause.NOT_LISTENING, "ECONNREFUSED"
        case Bound(shut=True):
            cause, error = Cause.SHUT, "ECONNREFUSED"
        case Bound():
            return Judged(step=number, cause=Cause.SOCKET, allowed=True)
        case _:
            assert_never(socket)
    return Judged(step=number, cause=cause, allowed=False, error=error)
