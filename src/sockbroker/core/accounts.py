"""What the user database was asked, and what it said.

Only values: `sockbroker.kernel.accounts` asks, `resolution` says what to ask and makes use of the
answers. "There is no such name" and "the database does not answer" are different answers here and
everywhere: a denial of a name that cannot be looked up must not fail open.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

_NONE: Final = MappingProxyType[Any, Any]({})


@dataclass(frozen=True, slots=True)
class Absent:
    """The database answered: there is no such user or group."""


class Unavailable(NamedTuple):
    """The database, or a part of it, did not answer, so nobody can tell."""

    reason: str


class User(NamedTuple):
    """An entry of the passwd database; `gid` is the primary group."""

    name: str
    uid: int
    gid: int


class Group(NamedTuple):
    """An entry of the group database, with the uids of its members where they were asked for."""

    name: str
    gid: int
    # Users whose primary group it is are mostly not among them: see `Accounts.primary`.
    members: frozenset[int] | Unavailable = frozenset()


class Lookups(NamedTuple):
    """What has to be looked up before a policy can be resolved."""

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    # Those of the groups above whose members matter.
    member_groups: frozenset[str] = frozenset()
    # Groups given as numbers whose members matter.
    gids: frozenset[int] = frozenset()
    # Users given as numbers whose primary group matters.
    uids: frozenset[int] = frozenset()
    # Whether the primary groups of all users that the database lists matter.
    listing: bool = False


class Accounts(NamedTuple):
    """The answers, by what was asked. What is missing was not asked, and counts as Unavailable."""

    users: Mapping[str, User | Absent | Unavailable] = _NONE
    groups: Mapping[str, Group | Absent | Unavailable] = _NONE
    gids: Mapping[int, Group | Absent | Unavailable] = _NONE
    # Every passwd entry that came to light: of `Lookups.uids`, of members, and of the listing.
    entries: Mapping[int, User | Absent | Unavailable] = _NONE
    # Uids by primary group, as far as the database lists its users.
    primary: Mapping[int, frozenset[int]] | Unavailable = _NONE

    @classmethod
    def unavailable(cls, wanted: Lookups, reason: str = "no answer in time") -> Self:
        """Answer for a database that told nothing at all."""
        unknown = Unavailable(reason)
        return cls(
            users=dict.fromkeys(wanted.users, unknown),
            groups=dict.fromkeys(wanted.groups, unknown),
            gids=dict.fromkeys(wanted.gids, unknown),
            entries=dict.fromkeys(wanted.uids, unknown),
            primary=unknown if wanted.listing else {},
        )
