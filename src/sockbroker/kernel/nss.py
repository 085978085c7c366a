"""The C library's user database, by ctypes: each service that nsswitch.conf names, by itself.

Python's `pwd` and `grp` raise one and the same KeyError for "there is no such user" and for "the
service does not answer". getpwnam_r(3) tells them apart, but only for the service that is asked
last: with `passwd: sss files`, a dead sssd and a name that is not in the files, it says "not found"
(measured with glibc 2.36). So the services are asked one after the other here, as nsswitch.conf
orders them, each selected by __nss_configure_lookup.

Measured, too: "not found" is the result 0 with no entry and nothing else. ENOENT and ESRCH, which
the manual page lists among the forms of "not found", are what a service that is not there leaves
behind, and some leave errno as it was; so errno is set to EIO before each call.
"""

import ctypes
import errno
import os
import re
from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar

from sockbroker.core.accounts import Absent, Unavailable, User

# The entry of a group with 100,000 members takes about 2 MiB.
_LARGEST_ENTRY: Final = 16 * 1024 * 1024
_FIRST_BUFFER: Final = 4096

# More than a user can be in (NGROUPS_MAX).
_MOST_GROUPS: Final = 65536

_NO_ERRNO: Final = errno.EIO

_CONDITION: Final = re.compile(r"\[[^]]*\]")
_MERGE: Final = re.compile(r"\[[^]]*=\s*merge\b", re.IGNORECASE)

T = TypeVar("T")


class _Passwd(ctypes.Structure):
    """struct passwd of <pwd.h>."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("password", ctypes.c_char_p),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("gecos", ctypes.c_char_p),
        ("directory", ctypes.c_char_p),
        ("shell", ctypes.c_char_p),
    )


class _Group(ctypes.Structure):
    """struct group of <grp.h>."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("password", ctypes.c_char_p),
        ("gid", ctypes.c_uint32),
        ("members", ctypes.POINTER(ctypes.c_char_p)),
    )


class RawGroup:
    """An entry of the group database as one service has it: members are names."""

    __slots__ = ("gid", "members", "name")

    def __init__(self, name: str, gid: int, members: frozenset[str] | Unavailable) -> None:
        self.name = name
        self.gid = gid
        self.members = members


class Nss:
    """The name service switch of this process, which has only one: never two of these at a time."""

    def __init__(self, configuration: str = "/etc/nsswitch.conf") -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._lines = {database: _line(configuration, database) for database in ("passwd", "group")}

    def services(self, database: str) -> tuple[str, ...]:
        """Return what to ask, in this order: the names of single services.

        A line with conditions like [NOTFOUND=return] or [SUCCESS=merge] stays whole, because only
        the C library knows what they come to.
        """
        line = self._lines[database]
        return (line,) if "[" in line else tuple(line.split())

    def merged_services(self, database: str) -> tuple[str, ...]:
        """Return the services of a line with [SUCCESS=merge]: an entry is what all of them say."""
        line = self._lines[database]
        return tuple(_CONDITION.sub(" ", line).split()) if _MERGE.search(line) else ()

    def select(self, database: str, service: str) -> bool:
        """Have the functions below ask only `service`; False if the C library refuses its name."""
        # By getattr, since a name that begins with two underscores is mangled in a class.
        configure = getattr(self._libc, "__nss_configure_lookup")
        return bool(configure(database.encode(), service.encode()) == 0)

    def restore(self) -> None:
        """Undo `select`."""
        for database, line in self._lines.items():
            self.select(database, line)

    def user_by_name(self, name: str) -> User | Absent | Unavailable:
        """Look a user up; a service that is not there or fails makes it Unavailable."""
        return self._ask("getpwnam_r", _bytes(name), _Passwd, _user)

    def user_by_uid(self, uid: int) -> User | Absent | Unavailable:
        """Look a user up by number."""
        return self._ask("getpwuid_r", ctypes.c_uint32(uid), _Passwd, _user)

    def group_by_name(self, name: str) -> RawGroup | Absent | Unavailable:
        """Look a group up."""
        return self._ask("getgrnam_r", _bytes(name), _Group, _group)

    def group_by_gid(self, gid: int) -> RawGroup | Absent | Unavailable:
        """Look a group up by number."""
        return self._ask("getgrgid_r", ctypes.c_uint32(gid), _Group, _group)

    def every_user(self) -> Generator[User, None, bool]:
        """Yield the users that the service lists; many list none, and failures cannot be told.

        Returns False for one that can: the list broke off.
        """
        entry, result, size = _Passwd(), ctypes.c_void_p(), ctypes.c_size_t(_FIRST_BUFFER)
        buffer = ctypes.create_string_buffer(size.value)
        # With as little as can be for each: there may be many.
        next_user, into, found = self._libc.getpwent_r, ctypes.byref(entry), ctypes.byref(result)
        self._libc.setpwent()
        try:
            while True:
                ctypes.set_errno(_NO_ERRNO)
                number = next_user(into, buffer, size, found)
                if number == 0 and result:
                    yield _user(entry)
                elif number == errno.ERANGE and size.value < _LARGEST_ENTRY:
                    size.value *= 4
                    buffer = ctypes.create_string_buffer(size.value)
                elif number != errno.EINTR:
                    return bool(number == errno.ENOENT)  # what it says after the last one
        finally:
            self._libc.endpwent()

    def groups_of(self, user: User) -> frozenset[int]:
        """Return every group of a user, the primary one too, as login(1) would set them."""
        size = ctypes.c_int(64)
        while True:
            gids = (ctypes.c_uint32 * size.value)()
            found = self._libc.getgrouplist(
                _bytes(user.name), ctypes.c_uint32(user.gid), gids, ctypes.byref(size)
            )
            if found >= 0:
                return frozenset(gids[:found])
            if size.value > _MOST_GROUPS:
                raise OSError(errno.E2BIG, "more groups than a process can have", user.name)
            size.value = max(size.value, 2 * len(gids))

    def _ask(
        self,
        function: str,
        key: Any,
        entry_type: type[Any],
        make: Callable[[Any], T],
    ) -> T | Absent | Unavailable:
        """Call one of the _r functions, with a larger buffer as long as it wants one."""
        entry = entry_type()
        result = ctypes.c_void_p()
        size = _FIRST_BUFFER
        while True:
            buffer = ctypes.create_string_buffer(size)
            ctypes.set_errno(_NO_ERRNO)
            number = getattr(self._libc, function)(
                key, ctypes.byref(entry), buffer, ctypes.c_size_t(size), ctypes.byref(result)
            )
            if number == errno.ERANGE and size < _LARGEST_ENTRY:
                size *= 4
            elif number != errno.EINTR:
                break
        if number != 0:
            return Unavailable(os.strerror(number))
        return Absent() if result.value is None else make(entry)


def _user(entry: Any) -> User:
    return User(_text(entry.name), entry.uid, entry.gid)


def _group(entry: Any) -> RawGroup:
    members = set()
    index = 0
    while entry.members and (member := entry.members[index]) is not None:
        members.add(_text(member))
        index += 1
    return RawGroup(_text(entry.name), entry.gid, frozenset(members))


# Names are bytes to the C library. Hardly any are not UTF-8, and those stay what they are.


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _line(configuration: str, database: str) -> str:
    """Return what nsswitch.conf says of a database, and what the C library assumes without it."""
    found = "files"
    try:
        with open(configuration, encoding="utf-8", errors="replace") as file:
            lines = file.read(_LARGEST_ENTRY).splitlines()
    except FileNotFoundError:
        return found
    for line in lines:
        name, colon, services = line.partition("#")[0].partition(":")
        if colon and name.strip() == database:
            found = services.strip() or found
    return found
