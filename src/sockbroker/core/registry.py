"""Finds the ids of a policy's names in what the user database said, and keeps account of the rest.

`resolution` uses one `Registry` for a whole policy. Every entry is reported at its own place; what
a missing name means for its app is decided by the caller, who says so in a `Consequence`.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

from sockbroker.core.accounts import Absent, Accounts, Group, Unavailable, User
from sockbroker.core.names import is_user_id
from sockbroker.core.policy import GroupEntry, Position, Problems, UserEntry

_NOT_ASKED = Unavailable("it was not looked up")


class Consequence(NamedTuple):
    """What happens as long as a name has no id, in words, by why it has none."""

    absent: str
    unavailable: str

    @classmethod
    def of(cls, text: str) -> Self:
        """Make one that is the same in both cases."""
        return cls(text, text)


class Registry:
    """The answers of the user database, and the lists of what was wrong with them."""

    def __init__(self, accounts: Accounts) -> None:
        # What makes the policy unusable, and what an administrator should see but need not mend.
        self.problems = Problems()
        self.warnings = Problems()
        # What to look up again, like "user 'alice'"; why is among the warnings.
        self.unresolved: dict[str, None] = {}
        self._accounts = accounts
        self._users = _every_user(accounts)
        self._uids_by_gid: dict[int, set[int]] = {}
        for user in self._users.values():
            self._uids_by_gid.setdefault(user.gid, set()).add(user.uid)

    def user_names(self) -> dict[int, str]:
        """Return the name of each uid that came to light, if it can be shown."""
        return {uid: user.name for uid, user in self._users.items() if user.name.isprintable()}

    def primary_gids(self) -> dict[int, int]:
        """Return the primary group of each uid that came to light."""
        return {uid: user.gid for uid, user in self._users.items()}

    def group_names(self) -> dict[int, str]:
        """Return the name of each gid that came to light, if it can be shown."""
        answers = (*self._accounts.groups.values(), *self._accounts.gids.values())
        groups = [answer for answer in answers if isinstance(answer, Group)]
        return {0: "root"} | {one.gid: one.name for one in groups if one.name.isprintable()}

    def uid(self, entry: UserEntry, consequence: Consequence) -> int | Absent | Unavailable:
        """Return the uid of a user's name; report it if there is none."""
        answer = self._accounts.users.get(f"{entry.name}", _NOT_ASKED)
        if isinstance(answer, User):
            return self._judge(entry, "user", answer.uid)
        self._report(entry.position, f"user {entry.name!r}", answer, consequence)
        return answer

    def group(self, entry: GroupEntry, consequence: Consequence) -> int | Absent | Unavailable:
        """Return the gid of a group; report it if there is none."""
        if entry.name is None:
            return entry.gid
        answer = self._accounts.groups.get(entry.name, _NOT_ASKED)
        if isinstance(answer, Group):
            return self._judge(entry, "group", answer.gid)
        self._report(entry.position, f"group {entry.name!r}", answer, consequence)
        return answer

    def members(
        self, entry: GroupEntry, gid: int, consequence: Consequence
    ) -> frozenset[int] | Unavailable:
        """Return the uids that the database counts to a group; report it if it does not answer."""
        answer: Group | Absent | Unavailable
        if entry.name is not None:
            answer = self._accounts.groups.get(entry.name, _NOT_ASKED)
        else:
            answer = self._accounts.gids.get(gid, _NOT_ASKED)
        primary = self._accounts.primary
        parts = (
            answer.members if isinstance(answer, Group) else answer,
            primary if isinstance(primary, Unavailable) else primary.get(gid, frozenset[int]()),
        )
        uids = set(self._uids_by_gid.get(gid, ()))
        for part in parts:
            if isinstance(part, Unavailable):
                what = f"members of group {entry.name or gid!r}"
                self._report(entry.position, what, part, consequence)
                return part
            if not isinstance(part, Absent):
                uids |= part
        return frozenset(filter(is_user_id, uids))

    def knows_group_of(self, entry: UserEntry, consequence: Consequence) -> bool:
        """Tell whether the primary group of a uid, or its lack, is known; report it if not."""
        answer = self._accounts.entries.get(entry.first, _NOT_ASKED)
        if isinstance(answer, Unavailable):
            self._report(entry.position, f"uid {entry.first}", answer, consequence)
            return False
        return True

    def knows_all_groups(self, position: Position, consequence: Consequence) -> bool:
        """Tell whether the primary groups of all users are known; report it if not."""
        if isinstance(self._accounts.primary, Unavailable):
            self._report(position, "primary groups", self._accounts.primary, consequence)
            return False
        return True

    def _judge(self, entry: UserEntry | GroupEntry, kind: str, number: int) -> int | Absent:
        """Return the id of a name unless no such name may have it, which is a problem."""
        if number == 0 and entry.name != "root":
            message = (
                f"{kind} {entry.name!r} has id 0 on this machine, which is root's; write root if "
                f"that is meant, else give the {kind} an id of its own"
            )
        elif not is_user_id(number):
            message = (
                f"{kind} {entry.name!r} has id {number} on this machine, which the kernel shows "
                "for every id without a mapping, so that it identifies nobody and is always "
                "refused; take it out of the policy"
            )
        else:
            return number
        self.problems.add(entry.position, message)
        return Absent()

    def _report(
        self,
        position: Position,
        what: str,
        answer: Absent | Unavailable,
        consequence: Consequence,
    ) -> None:
        if isinstance(answer, Absent):
            message = (
                f"there is no {what}: {consequence.absent} as long as there is none; "
                "correct the name, or create it"
            )
        else:
            message = (
                f"{what} cannot be looked up ({answer.reason}): {consequence.unavailable} until "
                "the user database answers; see to it with getent"
            )
        self.warnings.add(position, message)
        self.unresolved[what] = None


def _every_user(accounts: Accounts) -> Mapping[int, User]:
    """Collect every user that the database told anything about."""
    answers = (*accounts.entries.values(), *accounts.users.values())
    return {answer.uid: answer for answer in answers if isinstance(answer, User)}
