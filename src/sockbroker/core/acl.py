"""POSIX ACLs: the bytes that the kernel keeps of them, as values, and what a new file inherits.

The bytes are those of the attributes system.posix_acl_access and system.posix_acl_default,
include/uapi/linux/posix_acl_xattr.h; what the entries mean is in acl(5).  How the kernel judges by
them is in `permission`.
"""

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

_VERSION: Final = 2
_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")


class Tag(IntEnum):
    """Whom an entry is about; the kernel keeps them in this order."""

    OWNER = 0x01
    USER = 0x02
    GROUP = 0x04
    NAMED_GROUP = 0x08
    MASK = 0x10
    OTHER = 0x20


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; `number` is the uid or gid of a named user or group and nothing else's."""

    tag: Tag
    bits: int
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Acl:
    """The entries as the kernel keeps them."""

    entries: tuple[Entry, ...]

    def only(self, tag: Tag) -> Entry | None:
        """Return the entry of a tag that there can be one of."""
        return next((entry for entry in self.entries if entry.tag is tag), None)

    def of_user(self, uid: int) -> Entry | None:
        """Return the entry that names the user."""
        named = (entry for entry in self.entries if entry.tag is Tag.USER)
        return next((entry for entry in named if entry.number == uid), None)


def parse_acl(value: bytes) -> Acl:
    """Read the value of the attribute; ValueError if it is none."""
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise ValueError("not the length of an ACL")
    if _HEADER.unpack_from(value) != (_VERSION,):
        raise ValueError("not a version of ACLs that is known")
    return Acl(tuple(_entry(*each) for each in _ENTRY.iter_unpack(value[_HEADER.size :])))


def _entry(tag: int, bits: int, number: int) -> Entry:
    named = tag in (Tag.USER, Tag.NAMED_GROUP)
    return Entry(Tag(tag), bits & 7, number if named else None)


def inherited(default: Acl, mode: int) -> tuple[int, Acl]:
    """Return mode and ACL of what is made with this mode in a folder with that default ACL.

    The mode narrows the ACL, as posix_acl_create_masq() in fs/posix_acl.c does it; for a socket it
    is 0777 without the umask, which a default ACL does not lift: bind(2) applies it before.
    """
    masked = default.only(Tag.MASK) is not None
    shifts = {Tag.OWNER: 6, Tag.MASK: 3, Tag.OTHER: 0}
    if not masked:
        shifts[Tag.GROUP] = 3
    entries = []
    narrowed = mode & ~0o777
    for entry in default.entries:
        shift = shifts.get(entry.tag)
        if shift is not None:
            entry = replace(entry, bits=entry.bits & mode >> shift)
            narrowed |= entry.bits << shift
        entries.append(entry)
    return narrowed, Acl(tuple(entries))
