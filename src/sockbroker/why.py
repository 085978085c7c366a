"""Finds out whether a user can connect to a socket, and why not: `why`.

Everything is looked at as the caller, and only looked at: nothing is connected to, no uid is taken
on, no mount entered that could stall.  Who is asked about is `why_subject`'s, what is seen
`why_looking`'s, the verdict `core.connecting`'s, and the words are `why_report`'s.
"""

import os
from dataclasses import dataclass

from sockbroker.core.accounts import Accounts, Group, Lookups, User
from sockbroker.core.connecting import judge
from sockbroker.core.escaping import unescape_address
from sockbroker.core.mending import Mend, mends
from sockbroker.core.permission import Node
from sockbroker.core.way import Followed, Missing, Passed, Reached, SocketType
from sockbroker.kernel import accounts
from sockbroker.kernel.processes import read_process
from sockbroker.why_looking import Seen, as_seen_by, links_protected, look, security_modules
from sockbroker.why_subject import CannotLook, Subject, find_subject, seconds_for_lookups


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The answer, with what it takes to put it into words."""

    subject: Subject
    seen: Seen
    mends: tuple[Mend, ...]
    # What the verdict would be in a new session.
    in_new_session: bool | None
    users: dict[int, str]
    groups: dict[int, str]
    umask: int
    modules: tuple[str, ...] | None

    @property
    def can_connect(self) -> bool | None:
        """The answer; None where it cannot be told."""
        return None if self.seen.elsewhere else self.seen.verdict.can_connect


def socket_type(name: str | None) -> SocketType | None:
    """Give the type of that name; None if there is none."""
    return next((each for each in SocketType if each.name.lower() == name), None)


def explain(
    path: str, *, user: str | None, pid: int | None, wanted: SocketType | None, deadline: float
) -> Explanation:
    """Look at everything and judge; raises NoSuchUser and CannotLook."""
    subject = find_subject(user, pid, deadline)
    name = os.fsencode(path)
    if not name:
        raise CannotLook("the path is empty: give that of a socket, or @ and an abstract name")
    own = subject.process is not None and pid is None
    try:
        folder = b"" if own else os.getcwdb()  # another one has to get here first
        seen = look(name, subject.who, wanted=wanted, folder=folder)
        escaped = _from_escaped(name)
        if escaped is not None and seen.way is not None and isinstance(seen.way.end, Missing):
            seen = look(escaped, subject.who, wanted=wanted, folder=folder)
    except OSError as error:
        raise CannotLook(f"nothing can be looked at here: {error.strerror}") from error
    if pid is not None:
        seen = as_seen_by(pid, seen)
    return _explanation(subject, seen, deadline)


def _from_escaped(name: bytes) -> bytes | None:
    """Give the path that is meant if it was typed in the escaped form, as other verbs print it."""
    if b"\\" not in name:
        return None
    try:
        path = unescape_address(os.fsdecode(name))
    except ValueError:
        return None
    return None if b"\0" in path else path


def _explanation(subject: Subject, seen: Seen, deadline: float) -> Explanation:
    nodes = _nodes(seen)
    known = accounts.look_up(
        Lookups(
            uids=frozenset({0, subject.uid, *(node.uid for node in nodes)}),
            gids=frozenset({*(node.gid for node in nodes), *_groups_of(subject)}),
        ),
        deadline_seconds=seconds_for_lookups(deadline),
    )
    users, groups = _names(known)
    found: tuple[Mend, ...] = ()
    in_new_session = None
    if seen.way is not None:
        private = {0, *(node.gid for node in nodes if groups.get(node.gid) == users.get(node.uid))}
        found = mends(
            seen.way,
            seen.verdict,
            subject.who,
            login=subject.login,
            private_groups=frozenset(private),
        )
        if subject.login is not None:
            in_new_session = judge(
                seen.way,
                seen.socket,
                subject.login,
                links_protected=links_protected(),
                wanted=seen.wanted,
            ).can_connect
    umask = subject.process.umask if subject.process else None
    return Explanation(
        subject=subject,
        seen=seen,
        mends=found,
        in_new_session=in_new_session,
        users=users,
        groups=groups,
        umask=_own_umask() if umask is None else umask,
        modules=security_modules(),
    )


def _own_umask() -> int:
    umask = read_process().umask
    return 0o022 if umask is None else umask


def _nodes(seen: Seen) -> list[Node]:
    if seen.way is None:
        return []
    nodes = [step.node for step in seen.way.steps if isinstance(step, Passed | Followed)]
    end = seen.way.end
    if isinstance(end, Missing):
        nodes.append(end.folder)
    elif isinstance(end, Reached):
        nodes.append(end.node)
    return nodes


def _groups_of(subject: Subject) -> frozenset[int]:
    known = [who.groups for who in (subject.who, subject.login) if who is not None and who.groups]
    return frozenset[int]().union(*known)


def _names(known: Accounts) -> tuple[dict[int, str], dict[int, str]]:
    users = {uid: each.name for uid, each in known.entries.items() if isinstance(each, User)}
    groups = {gid: each.name for gid, each in known.gids.items() if isinstance(each, Group)}
    return users, groups
