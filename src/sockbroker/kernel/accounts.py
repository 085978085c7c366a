"""Looks names up in the user database, in bounded time, and tells "absent" from "unavailable".

A service can hang for good (a directory server that drops packets), and a thread that hangs in the
C library cannot be stopped. So the asking is done in a thread of its own that nobody has to wait
for, and whoever asks gets, at the deadline, what came in until then; the rest is Unavailable. There
is never more than one such thread, because what `nss` selects holds for the process: as long as one
hangs, everything is Unavailable.
"""

import errno
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, TypeVar

from sockbroker.core.accounts import Absent, Accounts, Group, Lookups, Unavailable, User
from sockbroker.kernel.nss import Nss, RawGroup

# What useradd(8) takes where login.defs(5) says nothing.
_DEFAULT_RANGE: Final = (1000, 60000)

# Held by the thread that asks, from before it starts until it ends.
_TURN: Final = threading.Lock()

# Reading a long passwd file once is quicker than searching it for so many names.
_NAMES_WORTH_A_LISTING: Final = 100

_LATE: Final = Unavailable("no answer in time")
_REFUSED: Final = Unavailable("nsswitch.conf names a service that cannot be asked")

K = TypeVar("K", str, int)
A = TypeVar("A", User, RawGroup)


def look_up(
    wanted: Lookups, *, deadline_seconds: float, configuration: str = "/etc/nsswitch.conf"
) -> Accounts:
    """Look up all that is wanted; returns by the deadline, whatever the services do."""
    search = _Search(wanted, time.monotonic() + deadline_seconds)
    _run_beside(lambda: search.run(Nss(configuration)), deadline_seconds)
    return search.accounts()


def groups_of(
    uid: int, *, deadline_seconds: float = 5.0, configuration: str = "/etc/nsswitch.conf"
) -> tuple[int, frozenset[int]] | None:
    """Return the primary group and all groups that a user has by the database; None: no such user.

    Raises OSError if the database does not answer in time.
    """
    search = _Search(Lookups(uids=frozenset({uid})), time.monotonic() + deadline_seconds)
    groups: list[frozenset[int]] = []

    def ask() -> None:
        nss = Nss(configuration)
        search.run(nss)
        user = search.accounts().entries[uid]
        if isinstance(user, User):
            groups.append(nss.groups_of(user))

    _run_beside(ask, deadline_seconds)
    user = search.accounts().entries[uid]
    if isinstance(user, Absent):
        return None
    if isinstance(user, Unavailable) or not groups:
        reason = user.reason if isinstance(user, Unavailable) else _LATE.reason
        raise OSError(errno.EHOSTDOWN, f"the user database cannot be asked: {reason}")
    return user.gid, groups[0]


def login_defs_range(path: str = "/etc/login.defs") -> tuple[int, int]:
    """Return UID_MIN and UID_MAX, the uids of people, or what they usually are if nothing says so.

    Raises OSError if the file is there and cannot be read: what is usual might be more.
    """
    values = dict(zip(("UID_MIN", "UID_MAX"), _DEFAULT_RANGE, strict=True))
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(1024 * 1024)
    except FileNotFoundError:
        return _DEFAULT_RANGE
    for name, number in re.findall(r"^[ \t]*(UID_MIN|UID_MAX)[ \t]+([0-9]{1,10})\b", text, re.M):
        values[name] = int(number)
    first, last = values["UID_MIN"], values["UID_MAX"]
    return (first, last) if first <= last < 2**32 - 1 else _DEFAULT_RANGE


def _run_beside(job: Callable[[], None], seconds: float) -> None:
    """Run `job` in a thread; return when it is done or the time is up, raise what it raised."""
    end = time.monotonic() + seconds
    if not _TURN.acquire(timeout=max(0.0, seconds)):
        return  # an earlier one hangs
    errors: list[Exception] = []

    def run() -> None:
        try:
            job()
        except Exception as error:  # carried to whoever waits
            errors.append(error)
        finally:
            _TURN.release()

    thread = threading.Thread(target=run, name="accounts", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # no more threads
        _TURN.release()
        raise OSError(errno.EAGAIN, str(error)) from error
    thread.join(max(0.0, end - time.monotonic()))
    if errors:
        raise errors[0]


class _Late(Exception):
    """The deadline has passed; nothing more is asked."""


class _Questions(Generic[K, A]):
    """Keys of one kind, each on its way from service to service until one has it or none is left.

    One thread asks, another may read `answers` meanwhile.
    """

    def __init__(self, keys: Iterable[K]) -> None:
        self.answers: dict[K, A | Absent | Unavailable] = {}
        self._next_service: dict[K, int] = dict.fromkeys(keys, 0)
        # What speaks against "absent" in the end.
        self._doubts: dict[K, Unavailable] = {}

    def add(self, keys: Iterable[K]) -> None:
        for key in keys:
            if key not in self.answers:
                self._next_service.setdefault(key, 0)

    def open_for(self, service: int) -> list[K]:
        """Return the keys that this service is to be asked about next."""
        return [key for key, index in self._next_service.items() if index == service]

    def settle(self, answers: Mapping[K, A]) -> None:
        """Note what needs no other service."""
        self.answers |= answers
        for key in answers:
            del self._next_service[key]

    def take(self, key: K, answer: A | Absent | Unavailable, *, services_left: bool) -> None:
        """Note what the service said, and go on to the next unless that settles it."""
        if isinstance(answer, Unavailable):
            self._doubts.setdefault(key, answer)
        if isinstance(answer, Absent | Unavailable) and services_left:
            self._next_service[key] += 1
            return
        if isinstance(answer, Absent):
            answer = self._doubts.get(key, answer)
        self.answers[key] = answer
        del self._next_service[key]


class _Files:
    """The passwd file as it was listed, to be searched once for all uids and not for each of them.

    That somebody is not in it is believed only once a look-up has said so of somebody: a file that
    cannot be opened is listed as if it were empty.
    """

    def __init__(self, users: Iterable[User]) -> None:
        self._by_uid: dict[int, User] = {}
        for user in users:
            if not user.name.startswith(("+", "-")):  # what nss_compat means; look-ups skip it
                self._by_uid.setdefault(user.uid, user)
        self._readable = False

    def user(
        self, uid: int, ask: Callable[[int], User | Absent | Unavailable]
    ) -> User | Absent | Unavailable:
        """Return what a look-up of a uid would say; `ask` looks one up."""
        user = self._by_uid.get(uid)
        if user is not None:
            return user
        if self._readable:
            return Absent()
        answer = ask(uid)
        self._readable = isinstance(answer, Absent)
        return answer


class _Search:
    """One run through the services, and what it has found so far."""

    def __init__(self, wanted: Lookups, deadline: float) -> None:
        self._wanted = wanted
        self._deadline = deadline
        self._names: _Questions[str, User] = _Questions(wanted.users)
        self._uids: _Questions[int, User] = _Questions(wanted.uids)
        self._groups: _Questions[str, RawGroup] = _Questions(wanted.groups)
        self._gids: _Questions[int, RawGroup] = _Questions(wanted.gids)
        self._listed: dict[str, User] = {}
        self._in_files: _Files | None = None
        self._services_listed: set[int] = set()
        self._listing_complete = False

    def run(self, nss: Nss) -> None:
        """Ask until all is answered or it is too late.

        All databases' first services are asked before any second one, so that a directory server
        that hangs does not keep local names from being found.
        """
        users, groups = nss.services("passwd"), nss.services("group")
        try:
            for turn in range(max(len(users), len(groups))):
                self._ask_users(nss, users, turn)
                self._ask_groups(nss, groups, turn)
                self._ask_users(nss, users, turn)  # members that came to light
            self._listing_complete = len(self._services_listed) == len(users)
        except _Late:
            pass
        finally:
            nss.restore()

    def accounts(self) -> Accounts:
        """Return what is known; called from another thread, while `run` may still be at it."""
        wanted = self._wanted
        names, listed = self._names.answers.copy(), self._listed.copy()
        groups, gids = self._groups.answers.copy(), self._gids.answers.copy()
        people = [user for user in names.values() if isinstance(user, User)]
        people += listed.values()
        entries: dict[int, User | Absent | Unavailable] = {
            user.uid: user
            for user in reversed(people)  # the first of a uid counts
        }
        for uid in wanted.uids:
            entries[uid] = self._uids.answers.get(uid, _LATE)
        primary: defaultdict[int, set[int]] = defaultdict(set)
        for user in listed.values() if wanted.listing else ():
            primary[user.gid].add(user.uid)
        complete = self._listing_complete or not wanted.listing
        return Accounts(
            users={name: names.get(name, _LATE) for name in wanted.users},
            groups={
                name: _with_uids(groups.get(name, _LATE), names, name in wanted.member_groups)
                for name in wanted.groups
            },
            gids={gid: _with_uids(gids.get(gid, _LATE), names, True) for gid in wanted.gids},
            entries=entries,
            primary=_frozen(primary) if complete else _LATE,
        )

    def _ask_users(self, nss: Nss, services: tuple[str, ...], turn: int) -> None:
        """Ask the services up to `turn` about the users that are still open with them."""
        for index, service in enumerate(services[: turn + 1]):
            names, uids = self._names.open_for(index), self._uids.open_for(index)
            worth_it = service == "files" and len(names) + len(uids) > _NAMES_WORTH_A_LISTING
            listing = (self._wanted.listing or worth_it) and index not in self._services_listed
            if not (names or uids or listing):
                continue
            answers = nss.select("passwd", service)
            more = index + 1 < len(services)
            if listing and answers:
                users, complete = self._list_users(nss)
                self._services_listed.add(index)
                if service == "files" and complete:
                    self._in_files = _Files(users)
            listed = {name: self._listed[name] for name in names if name in self._listed}
            self._names.settle(listed)
            for name in names:
                if name not in listed:
                    self._in_time()
                    user = nss.user_by_name(name) if answers else _REFUSED
                    self._names.take(name, user, services_left=more)
            for uid in uids:
                self._in_time()
                user = self._user_by_uid(nss, service, uid) if answers else _REFUSED
                self._uids.take(uid, user, services_left=more)

    def _user_by_uid(self, nss: Nss, service: str, uid: int) -> User | Absent | Unavailable:
        if service == "files" and self._in_files is not None:
            return self._in_files.user(uid, nss.user_by_uid)
        return nss.user_by_uid(uid)

    def _list_users(self, nss: Nss) -> tuple[list[User], bool]:
        """Return those whom one service lists, and whether the list is not known to be cut off."""
        users: list[User] = []
        listing = nss.every_user()
        while True:
            self._in_time()
            try:
                user = next(listing)
            except StopIteration as end:
                return users, bool(end.value)
            users.append(user)
            self._listed.setdefault(user.name, user)

    def _ask_groups(self, nss: Nss, services: tuple[str, ...], turn: int) -> None:
        """Ask the service of this turn about groups, and note whose uids are wanted therefore."""
        if turn >= len(services):
            return
        answers = nss.select("group", services[turn])
        more = turn + 1 < len(services)
        for name in self._groups.open_for(turn):
            self._in_time()
            group = self._group(nss, name, nss.group_by_name) if answers else _REFUSED
            self._groups.take(name, group, services_left=more)
            if name in self._wanted.member_groups:
                self._want_members(group)
        for gid in self._gids.open_for(turn):
            self._in_time()
            group = self._group(nss, gid, nss.group_by_gid) if answers else _REFUSED
            self._gids.take(gid, group, services_left=more)
            self._want_members(group)

    def _group(
        self, nss: Nss, key: K, ask: Callable[[K], RawGroup | Absent | Unavailable]
    ) -> RawGroup | Absent | Unavailable:
        """Ask for a group; if several services make it up, see that all of them answer."""
        answer = ask(key)
        for service in nss.merged_services("group"):
            self._in_time()
            part = ask(key) if nss.select("group", service) else _REFUSED
            if isinstance(part, Unavailable):
                if isinstance(answer, RawGroup):
                    answer = RawGroup(answer.name, answer.gid, part)
                else:
                    answer = part
        if nss.merged_services("group"):
            nss.select("group", nss.services("group")[0])
        return answer

    def _want_members(self, group: RawGroup | Absent | Unavailable) -> None:
        if isinstance(group, RawGroup) and not isinstance(group.members, Unavailable):
            self._names.add(group.members)

    def _in_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise _Late


def _with_uids(
    group: RawGroup | Absent | Unavailable,
    users: Mapping[str, User | Absent | Unavailable],
    with_members: bool,
) -> Group | Absent | Unavailable:
    """Put uids in for the names of members, if they matter; a name without a user is left out."""
    if not isinstance(group, RawGroup):
        return group
    if not with_members:
        return Group(group.name, group.gid)
    if isinstance(group.members, Unavailable):
        return Group(group.name, group.gid, group.members)
    uids = set()
    for name in group.members:
        user = users.get(name, _LATE)
        if isinstance(user, User):
            uids.add(user.uid)
        elif isinstance(user, Unavailable):
            return Group(group.name, group.gid, user)
    return Group(group.name, group.gid, frozenset(uids))


def _frozen(groups: dict[int, set[int]]) -> dict[int, frozenset[int]]:
    return {gid: frozenset(uids) for gid, uids in groups.items()}
