"""Who is asked about by `why`: this process, another one, or a user as of his next login."""

import time
from dataclasses import dataclass
from typing import Final

from sockbroker.client import uid_of
from sockbroker.command_line import CommandFailed
from sockbroker.core.accounts import Absent, Lookups, User
from sockbroker.core.permission import Identity
from sockbroker.errors import NoSuchUser
from sockbroker.kernel import accounts
from sockbroker.kernel.processes import Process, new_session, read_process

# For the user database: it only adds names, and groups that the process may have anyway.
SECONDS_FOR_LOOKUPS: Final = 5.0


class CannotLook(CommandFailed):
    """Nothing can be looked at; the text says why, and the mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who wants to connect: a user as of his next login, or a running process of his.

    `login` is who he would be in a new session; None where the database does not say.
    """

    uid: int
    who: Identity
    login: Identity | None
    process: Process | None
    listed: bool = True


def find_subject(user: str | None, pid: int | None, deadline: float) -> Subject:
    """Find out who is asked about: the process `pid`, the user, or else this very process."""
    uid = None if user is None else _uid(user, deadline)
    process = None
    if uid is None or pid is not None:
        process = _process(pid)
        if uid not in (None, process.uid):
            raise CannotLook(f"process {pid} is not of uid {uid} but of {process.uid}: name one")
        uid = process.uid
    groups, listed = _database_groups(uid, deadline)
    login = None if groups is None else new_session(uid, groups)
    who = new_session(uid, groups) if process is None else process.identity
    return Subject(uid=uid, who=who, login=login, process=process, listed=listed)


def _uid(user: str, deadline: float) -> int:
    if user.isascii() and user.isdecimal():
        return uid_of(user)
    wanted = Lookups(users=frozenset({user}))
    answer = accounts.look_up(wanted, deadline_seconds=seconds_for_lookups(deadline)).users[user]
    match answer:
        case User(uid=uid):
            return uid
        case Absent():
            raise NoSuchUser(user)
        case _:
            raise CannotLook("the user database does not answer: give the uid instead of the name")


def _process(pid: int | None) -> Process:
    try:
        return read_process(pid)
    except FileNotFoundError as error:
        raise CannotLook(f"there is no process {pid}, or it cannot be seen from here") from error
    except OSError as error:
        raise CannotLook(f"/proc says nothing of the process: {error.strerror}") from error


def _database_groups(uid: int, deadline: float) -> tuple[frozenset[int] | None, bool]:
    """Return the groups of a user by the database (None: it does not say), and whether he is in."""
    try:
        found = accounts.groups_of(uid, deadline_seconds=seconds_for_lookups(deadline))
    except OSError:
        return None, True
    return (frozenset(), False) if found is None else (found[1] | {found[0]}, True)


def seconds_for_lookups(deadline: float) -> float:
    """Give how long the user database may take."""
    return max(0.0, min(SECONDS_FOR_LOOKUPS, deadline - time.monotonic()))
