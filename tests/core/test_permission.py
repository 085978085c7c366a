"""Who may search a folder, write to a socket and follow a link, case by case.

That the kernel judges the same is tested with random trees, by test_why_agreement.py.
"""

import pytest

from sockbroker.core.acl import Acl, Entry, Tag
from sockbroker.core.permission import (
    SEARCH,
    WRITE,
    Class,
    Grant,
    Identity,
    Kind,
    Node,
    Unread,
    access,
    may_follow,
)

OWNER, MEMBER, OTHER = 1000, 1001, 1002
GROUP, TEAM, GUESTS = 500, 501, 502

ALICE = Identity(uid=OWNER, groups=frozenset({OWNER}))
BOB = Identity(uid=MEMBER, groups=frozenset({MEMBER, GROUP}))
CAROL = Identity(uid=OTHER, groups=frozenset({OTHER, TEAM}))
UNKNOWN_GROUPS = Identity(uid=OTHER, groups=None)


def folder(mode: int, acl: Acl | Unread | None = None) -> Node:
    """Give a folder of alice's and of the group's."""
    return Node(kind=Kind.FOLDER, mode=mode, uid=OWNER, gid=GROUP, acl=acl)


def socket(mode: int, acl: Acl | Unread | None = None) -> Node:
    """Give a socket of alice's and of the group's."""
    return Node(kind=Kind.SOCKET, mode=mode, uid=OWNER, gid=GROUP, acl=acl)


def acl(*named: Entry, owner: int = 7, group: int = 0, mask: int | None = 7, other: int = 0) -> Acl:
    """Give an ACL in the kernel's order."""
    users = [entry for entry in named if entry.tag is Tag.USER]
    groups = [entry for entry in named if entry.tag is Tag.NAMED_GROUP]
    masks = [] if mask is None else [Entry(Tag.MASK, mask)]
    return Acl(
        (
            Entry(Tag.OWNER, owner),
            *users,
            Entry(Tag.GROUP, group),
            *groups,
            *masks,
            Entry(Tag.OTHER, other),
        )
    )


def yes(by: Class, gid: int | None = None) -> Grant:
    return Grant(allowed=True, by=by, gid=gid)


def no(by: Class, gid: int | None = None, *, masked: bool = False) -> Grant:
    return Grant(allowed=False, by=by, gid=gid, masked=masked)


UNKNOWN = Grant(allowed=None, by=Class.UNKNOWN)


@pytest.mark.parametrize(
    ("mode", "who", "grant"),
    [
        (0o100, ALICE, yes(Class.OWNER)),
        (0o677, ALICE, no(Class.OWNER)),  # the owner is nothing else
        (0o010, BOB, yes(Class.GROUP, GROUP)),
        (0o701, BOB, no(Class.GROUP, GROUP)),  # nor is the group
        (0o001, CAROL, yes(Class.OTHERS)),
        (0o770, CAROL, no(Class.OTHERS)),
        (0o711, UNKNOWN_GROUPS, yes(Class.OTHERS)),  # whether he is in the group or not
        (0o700, UNKNOWN_GROUPS, no(Class.OTHERS)),
        (0o710, UNKNOWN_GROUPS, UNKNOWN),
        (0o701, UNKNOWN_GROUPS, UNKNOWN),
    ],
)
def test_searching_by_mode(mode: int, who: Identity, grant: Grant) -> None:
    """Exactly one class counts: the first that he is in."""
    assert access(folder(mode), who, SEARCH) == grant


@pytest.mark.parametrize(
    ("mode", "who", "grant"),
    [
        (0o200, ALICE, yes(Class.OWNER)),
        (0o577, ALICE, no(Class.OWNER)),
        (0o755, BOB, no(Class.GROUP, GROUP)),
        (0o755, CAROL, no(Class.OTHERS)),
        (0o722, CAROL, yes(Class.OTHERS)),
        (0o444, CAROL, no(Class.OTHERS)),
    ],
)
def test_writing_by_mode(mode: int, who: Identity, grant: Grant) -> None:
    """A socket wants w and nothing else."""
    assert access(socket(mode), who, WRITE) == grant


NAMED = Entry(Tag.USER, 7, OTHER)
TEAMS = Entry(Tag.NAMED_GROUP, 7, TEAM)


@pytest.mark.parametrize(
    ("mode", "of", "who", "grant"),
    [
        (0o670, acl(Entry(Tag.USER, 7, OWNER)), ALICE, no(Class.OWNER)),
        (0o770, acl(NAMED), CAROL, yes(Class.NAMED_USER)),
        (0o760, acl(NAMED, mask=6), CAROL, no(Class.NAMED_USER, masked=True)),
        (0o771, acl(Entry(Tag.USER, 6, OTHER), other=1), CAROL, no(Class.NAMED_USER)),
        (0o770, acl(NAMED, mask=None), CAROL, yes(Class.NAMED_USER)),
        (0o770, acl(TEAMS), CAROL, yes(Class.NAMED_GROUP, TEAM)),
        (0o760, acl(TEAMS, mask=6), CAROL, no(Class.NAMED_GROUP, TEAM, masked=True)),
        (0o771, acl(Entry(Tag.NAMED_GROUP, 6, TEAM), other=1), CAROL, no(Class.NAMED_GROUP, TEAM)),
        (0o770, acl(TEAMS, group=1), BOB, yes(Class.GROUP, GROUP)),
        (0o771, acl(TEAMS, other=1), BOB, no(Class.GROUP, GROUP)),
        (0o771, acl(Entry(Tag.NAMED_GROUP, 0, GUESTS), other=1), CAROL, yes(Class.OTHERS)),
        (0o770, acl(Entry(Tag.NAMED_GROUP, 7, GUESTS)), CAROL, no(Class.OTHERS)),
        # Without group bits the kernel does not look at the ACL: he is one of the others.
        (0o701, acl(NAMED, mask=0), CAROL, yes(Class.OTHERS)),
        (0o700, acl(NAMED, mask=0), CAROL, no(Class.OTHERS)),
        (0o701, acl(mask=0), BOB, no(Class.GROUP, GROUP)),
        (0o770, acl(TEAMS), UNKNOWN_GROUPS, UNKNOWN),
        (0o770, acl(NAMED), UNKNOWN_GROUPS, yes(Class.NAMED_USER)),
        (0o770, Unread.UNREAD, CAROL, UNKNOWN),
        (0o770, Unread.UNREAD, ALICE, yes(Class.OWNER)),
        (0o707, Unread.UNREAD, CAROL, yes(Class.OTHERS)),
    ],
)
def test_searching_by_acl(mode: int, of: Acl | Unread, who: Identity, grant: Grant) -> None:
    """Named user, then any group of his that has it, each through the mask; then the others."""
    assert access(folder(mode, of), who, SEARCH) == grant


def test_one_group_that_has_it_is_enough() -> None:
    """Where several entries are about groups of his, none of them takes it away from another."""
    both = Identity(uid=OTHER, groups=frozenset({TEAM, GUESTS}))
    entries = (Entry(Tag.NAMED_GROUP, 0, TEAM), Entry(Tag.NAMED_GROUP, 1, GUESTS))
    assert access(folder(0o770, acl(*entries)), both, SEARCH) == yes(Class.NAMED_GROUP, GUESTS)
    # And where none has it, the first is named.
    entries = (Entry(Tag.NAMED_GROUP, 0, TEAM), Entry(Tag.NAMED_GROUP, 0, GUESTS))
    assert access(folder(0o770, acl(*entries)), both, SEARCH) == no(Class.NAMED_GROUP, TEAM)


@pytest.mark.parametrize(
    ("node", "want", "overrides", "searches", "by"),
    [
        (folder(0), SEARCH, True, False, Class.CAPABILITY),
        (folder(0), SEARCH, False, True, Class.CAPABILITY),
        (folder(0), SEARCH, False, False, Class.OTHERS),
        (folder(0o777), SEARCH, True, True, Class.OTHERS),
        (socket(0), WRITE, True, False, Class.CAPABILITY),
        (socket(0), WRITE, False, True, Class.OTHERS),
        (folder(0o770, Unread.UNREAD), SEARCH, True, False, Class.CAPABILITY),
    ],
)
def test_capabilities(node: Node, want: int, overrides: bool, searches: bool, by: Class) -> None:
    """They count where the permissions refuse, and CAP_DAC_READ_SEARCH never for writing."""
    who = Identity(uid=0, groups=frozenset({0}), overrides=overrides, searches=searches)
    assert access(node, who, want).by is by


def test_capabilities_of_a_user_namespace() -> None:
    """They do not reach what belongs to ids that the namespace does not map."""
    who = Identity(uid=0, groups=frozenset({0}), overrides=True, beyond=frozenset({65534}))
    assert access(folder(0), who, SEARCH).allowed is True
    foreign = Node(kind=Kind.FOLDER, mode=0o700, uid=65534, gid=GROUP)
    assert access(foreign, who, SEARCH).allowed is False


@pytest.mark.parametrize(
    ("mode", "link", "protected", "follows"),
    [
        (0o1777, MEMBER, True, False),
        (0o1777, MEMBER, False, True),
        (0o1777, MEMBER, None, None),
        (0o1777, OTHER, True, True),  # his own
        (0o1777, OWNER, True, True),  # of the folder's owner
        (0o0777, MEMBER, True, True),  # not sticky
        (0o1775, MEMBER, True, True),  # not for all
        (0o0777, MEMBER, None, True),
    ],
)
def test_following_links(
    mode: int, link: int, protected: bool | None, follows: bool | None
) -> None:
    """As fs.protected_symlinks says, if it is set."""
    assert may_follow(link, folder(mode), CAROL, protected=protected) is follows


def test_no_capability_lets_a_link_be_followed() -> None:
    """Root is protected by this too: it is for his sake."""
    root = Identity(uid=0, groups=frozenset({0}), overrides=True, searches=True)
    assert may_follow(MEMBER, folder(0o1777), root, protected=True) is False
