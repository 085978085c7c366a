"""Whether a user may search a folder, write to a socket or follow a link: as the kernel judges it.

Values in, values out: what was looked at, who wants it, and the answer with the class that decided
it.  The rules are those of generic_permission() and may_follow_link() in the kernel's fs/namei.c
and posix_acl_permission() in fs/posix_acl.c, and not those of acl(5) where the two differ.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from sockbroker.core.acl import Acl, Entry, Tag

SEARCH: Final = 1
"""The `x` of a folder: what it takes to look a name up in it."""
WRITE: Final = 2
"""The `w` of a socket: all that connect(2) wants of it."""

_GROUP_BITS: Final = 0o070
_STICKY_FOR_ALL: Final = 0o1002


class Kind(Enum):
    """What a name stands for, as far as connecting goes."""

    FOLDER = "folder"
    LINK = "link"
    SOCKET = "socket"
    FILE = "file"
    FIFO = "fifo"
    DEVICE = "device"


class Unread(Enum):
    """An ACL that could not be read: there may be one or not."""

    UNREAD = "unread"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A thing with permissions; `mode` without its type."""

    kind: Kind
    mode: int
    uid: int
    gid: int
    acl: Acl | Unread | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whom the kernel judges: the ids for files, all groups (None: not known) and capabilities."""

    uid: int
    groups: frozenset[int] | None
    # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH.
    overrides: bool = False
    searches: bool = False
    # Ids of files that the capabilities do not reach: of those that a user namespace does not map.
    beyond: frozenset[int] = frozenset()

    def is_in(self, gid: int) -> bool | None:
        """Tell whether the group is one of his."""
        return None if self.groups is None else gid in self.groups


class Class(Enum):
    """Which of the classes of permissions decided."""

    OWNER = "owner"
    GROUP = "group"
    OTHERS = "others"
    NAMED_USER = "ACL user"
    NAMED_GROUP = "ACL group"
    CAPABILITY = "capability"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An answer: granted or not (None: cannot be told), and by which class.

    `gid` is the group of the class; `masked`: the entry grants it, the ACL's mask takes it away.
    """

    allowed: bool | None
    by: Class
    gid: int | None = None
    masked: bool = False


_UNKNOWN: Final = Grant(allowed=None, by=Class.UNKNOWN)


def access(node: Node, who: Identity, want: int) -> Grant:
    """Judge one permission, SEARCH or WRITE, on one thing."""
    grant = _by_permissions(node, who, want)
    capable = who.overrides or (want == SEARCH and node.kind is Kind.FOLDER and who.searches)
    if grant.allowed is not True and capable and not who.beyond & {node.uid, node.gid}:
        return Grant(allowed=True, by=Class.CAPABILITY)
    return grant


def _by_permissions(node: Node, who: Identity, want: int) -> Grant:
    if who.uid == node.uid:
        return Grant(allowed=bool(node.mode >> 6 & want), by=Class.OWNER)
    # Without group bits, which are the mask, the kernel does not look at the ACL at all: those whom
    # it names are others then.
    if node.mode & _GROUP_BITS and isinstance(node.acl, Acl):
        return _by_acl(node.acl, node, who, want)
    if node.mode & _GROUP_BITS and node.acl is Unread.UNREAD:
        return _UNKNOWN
    group, others = bool(node.mode >> 3 & want), bool(node.mode & want)
    member = who.is_in(node.gid)
    if member is None and group != others:
        return _UNKNOWN
    if member:
        return Grant(allowed=group, by=Class.GROUP, gid=node.gid)
    return Grant(allowed=others, by=Class.OTHERS)


def _by_acl(acl: Acl, node: Node, who: Identity, want: int) -> Grant:
    named = acl.of_user(who.uid)
    if named is not None:
        return _masked(acl, named, Class.NAMED_USER, None, want)
    refused: Grant | None = None
    for entry in acl.entries:
        if entry.tag is Tag.GROUP:
            by, gid = Class.GROUP, node.gid
        elif entry.tag is Tag.NAMED_GROUP and entry.number is not None:
            by, gid = Class.NAMED_GROUP, entry.number
        else:
            continue
        member = who.is_in(gid)
        if member is None:
            return _UNKNOWN
        if member and entry.bits & want:
            return _masked(acl, entry, by, gid, want)
        if member and refused is None:
            refused = Grant(allowed=False, by=by, gid=gid)
    if refused is not None:
        return refused
    return Grant(allowed=bool(node.mode & want), by=Class.OTHERS)


def _masked(acl: Acl, entry: Entry, by: Class, gid: int | None, want: int) -> Grant:
    mask = acl.only(Tag.MASK)
    cut = mask is not None and not mask.bits & want
    granted = bool(entry.bits & want)
    return Grant(allowed=granted and not cut, by=by, gid=gid, masked=granted and cut)


def may_follow(
    link_uid: int, folder: Node, who: Identity, *, protected: bool | None
) -> bool | None:
    """Tell whether the last link of a path may be followed, by fs.protected_symlinks of proc(5).

    No capability lifts it; `protected` is the setting, or None where it cannot be read.
    """
    sticky_for_all = folder.mode & _STICKY_FOR_ALL == _STICKY_FOR_ALL
    if not sticky_for_all or link_uid in (who.uid, folder.uid):
        return True
    return None if protected is None else not protected
