"""What would let him connect: the smallest change for each permission lacked, and whose it is.

A command that root runs on a path could be turned on another file by whoever can swap a name on the
way.  So root is named only where every folder on the way is root's and nobody else can write to it,
the sticky bit or not; elsewhere it is the owner's to run, on what is his; and where root is that
owner nobody is to run it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sockbroker.core.acl import Acl, Tag
from sockbroker.core.connecting import Cause, Judged, Verdict
from sockbroker.core.permission import (
    SEARCH,
    WRITE,
    Class,
    Grant,
    Identity,
    Node,
    access,
)
from sockbroker.core.way import Passed, Reached, Way

_OTHERS_WRITE: Final = 0o022
_ROOT: Final = 0
_NOBODY_IN_PARTICULAR: Final = -1
_WHOSE: Final = {Class.OWNER: "u", Class.GROUP: "g", Class.OTHERS: "o"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Run the command, which ends in the path of what it changes; `only_him`: for nobody else.

    `runners` are the uids that may run it; none at all: it can be said in words only.
    """

    step: int
    runners: tuple[int, ...]
    command: tuple[bytes, ...]
    only_him: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Make him a member of the group, which has the permission already."""

    step: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """He is a member of the group, which the running process does not have: begin a new one."""

    step: int
    gid: int


Mend = Change | Join | NewSession


def mends(
    way: Way,
    verdict: Verdict,
    who: Identity,
    *,
    login: Identity | None,
    private_groups: frozenset[int] = frozenset(),
) -> tuple[Mend, ...]:
    """Give what mends each permission that refuses, the deciding one first, alternatives behind.

    `login` is who he would be in a new session, where that is known.  Nobody is to join one of the
    private groups: root's, and those that are there for one user only.
    """
    found: list[Mend] = []
    mended = set()
    for judged in verdict.refused:
        thing = _thing(way, judged)
        if thing is not None and judged.grant is not None and thing.path not in mended:
            mended.add(thing.path)
            found += _mends_of(way, judged, thing, judged.grant, who, login, private_groups)
    return tuple(found)


def removal(way: Way, end: Reached) -> Change:
    """Give what removes a socket file that nobody has bound."""
    return Change(
        step=len(way.steps),
        runners=_runners(way, end),
        command=(b"rm", end.path),
        only_him=False,
    )


def _runners(way: Way, thing: Passed | Reached) -> tuple[int, ...]:
    owner = thing.node.uid
    if not roots_alone(way, thing.path):
        return () if owner == _ROOT else (owner,)
    return (_ROOT,) if owner == _ROOT else (owner, _ROOT)


def _thing(way: Way, judged: Judged) -> Passed | Reached | None:
    thing = (*way.steps, way.end)[judged.step]
    return thing if isinstance(thing, Passed | Reached) else None


def _mends_of(
    way: Way,
    judged: Judged,
    thing: Passed | Reached,
    grant: Grant,
    who: Identity,
    login: Identity | None,
    private_groups: frozenset[int],
) -> Iterator[Mend]:
    node, want = thing.node, SEARCH if judged.cause is Cause.SEARCH else WRITE
    renewed = access(node, login, want) if login is not None else grant
    if renewed.allowed and renewed.gid is not None:
        yield NewSession(step=judged.step, gid=renewed.gid)
        return
    runners = _runners(way, thing)

    def change(*command: str, only_him: bool) -> Change:
        words = (*(word.encode("ascii") for word in command), thing.path)
        return Change(step=judged.step, runners=runners, command=words, only_him=only_him)

    letter = "x" if want == SEARCH else "w"
    for_him = change("setfacl", *_entry_for(node, who, want), only_him=True)
    if grant.by is Class.OTHERS:
        group = _sharing_group(node, want, private_groups)
        if group is not None:
            yield Join(step=judged.step, gid=group)
        else:
            yield change("chmod", f"o+{letter}", only_him=False)
        yield for_him
    elif grant.by is Class.OWNER or not isinstance(node.acl, Acl):
        yield change("chmod", f"{_WHOSE[grant.by]}+{letter}", only_him=False)
    else:
        yield for_him


def roots_alone(way: Way, path: bytes) -> bool:
    """Tell whether every folder that the path is in is root's, and nobody else can write to it."""
    seen = {step.path: step.node for step in way.steps if isinstance(step, Passed)}
    folders = [path[: index or 1] for index, byte in enumerate(path) if byte == ord("/")]
    if path == b"/":
        folders = []
    return all(
        (node := seen.get(folder)) is not None
        and node.uid == _ROOT
        and not node.mode & _OTHERS_WRITE
        for folder in folders
    )


def _sharing_group(node: Node, want: int, private_groups: frozenset[int]) -> int | None:
    """Return a group whose members have the permission, and that is there to be joined."""
    named = node.acl.entries if isinstance(node.acl, Acl) else ()
    for gid in (node.gid, *(each.number for each in named if each.tag is Tag.NAMED_GROUP)):
        if gid is None or gid in private_groups:
            continue
        member = Identity(uid=_NOBODY_IN_PARTICULAR, groups=frozenset({gid}))
        grant = access(node, member, want)
        if grant.allowed and grant.by is not Class.OTHERS:
            return gid
    return None


def _entry_for(node: Node, who: Identity, want: int) -> tuple[str, ...]:
    """Give the arguments of setfacl(1) that let him, and widen nothing else where that can be."""
    if not isinstance(node.acl, Acl):
        return ("-m", f"u:{who.uid}:{_letters(want)}")
    # Without -n setfacl would widen the mask to all that the entries say, for everybody in them.
    entry, mask = node.acl.of_user(who.uid), node.acl.only(Tag.MASK)
    added = f"u:{who.uid}:{_letters(want | (entry.bits if entry else 0))}"
    if mask is None or not mask.bits & want:
        added += f",m::{_letters(want | (mask.bits if mask else 0))}"
    return ("-n", "-m", added)


def _letters(bits: int) -> str:
    return "".join(letter for letter, bit in (("r", 4), ("w", 2), ("x", 1)) if bits & bit)
