"""Whom an app's `allow`, `deny` and `at_boot` mean on this machine: uids and gids.

Made by `resolution`; `decision` asks the rules, and each knows its line in the policy. A rule for
one uid is found by one look into a dict however many there are; a range stays two numbers.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import filterfalse
from math import inf
from types import MappingProxyType
from typing import Final, NamedTuple

from sockbroker.core.spans import Spans, count, ids, merged, of_ids

# The group of a directory for a uid that has no passwd entry, if the policy names none: nobody's,
# and so nothing that anyone could rely on.
NO_GROUP: Final = 65534

_NONE: Final = MappingProxyType[int, int]({})


class RangeRule(NamedTuple):
    """The uids from first to last, both included, and the line that names them."""

    first: int
    last: int
    line: int


class Rules(NamedTuple):
    """The resolved form of one `allow` or `deny`."""

    # The line of the word `allow` or `deny`; None where it is not written.
    line: int | None = None
    users: Mapping[int, int] = _NONE
    # Ascending and disjoint: see `disjoint`.
    ranges: tuple[RangeRule, ...] = ()
    groups: Mapping[int, int] = _NONE
    # Uids that the database counts to one of the groups. They deny; they never allow a peer, whose
    # groups the kernel attests. (For `allow` they are there only to judge `at_boot`.)
    members: Mapping[int, int] = _NONE
    everyone: RangeRule | None = None

    def line_for_user(self, uid: int) -> int | None:
        """Return the line that names `uid` among the users, by itself or in a range."""
        line = self.users.get(uid)
        if line is not None or not self.ranges:
            return line
        index = bisect_right(self.ranges, (uid, inf)) - 1  # the last that begins no later
        if index >= 0 and uid <= self.ranges[index].last:
            return self.ranges[index].line
        return None

    def line_for_groups(self, gids: frozenset[int]) -> int | None:
        """Return the first line that names one of `gids`."""
        return min((self.groups[gid] for gid in self.groups.keys() & gids), default=None)

    def line_for_everyone(self, uid: int) -> int | None:
        """Return the line that says `everyone: true` if that means `uid` too."""
        if self.everyone is not None and self.everyone.first <= uid <= self.everyone.last:
            return self.everyone.line
        return None

    def spans(self) -> Spans:
        """Return all uids that these rules name, with the members of groups."""
        everyone = () if self.everyone is None else (self.everyone[:2],)
        singles = of_ids(self.users.keys() | self.members.keys())
        return merged([*singles, *(rule[:2] for rule in self.ranges), *everyone])


def disjoint(rules: Iterable[RangeRule]) -> tuple[RangeRule, ...]:
    """Bring ranges into an order that can be searched: where they overlap one of them is cut."""
    result: list[RangeRule] = []
    end = -1
    for first, last, line in sorted(rules):
        if last > end:
            result.append(RangeRule(max(first, end + 1), last, line))
            end = last
    return tuple(result)


@dataclass(frozen=True, slots=True, kw_only=True)
class BootList:
    """Uids that get a directory at every start, each with the group of that directory."""

    spans: Spans = ()
    # The group that the policy names, for all of them.
    gid: int | None = None
    # Else the primary group of each, as far as it is known.
    gids: Mapping[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return count(self.spans)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (uid, gid), by ascending uid."""
        return self.besides(frozenset())

    def besides(self, uids: AbstractSet[int]) -> Iterator[tuple[int, int]]:
        """Yield the same without these uids, which may be nearly all of them."""
        for uid in filterfalse(uids.__contains__, ids(self.spans)):
            yield uid, self.gid if self.gid is not None else self.gids.get(uid, NO_GROUP)
