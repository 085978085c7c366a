"""The names of users and groups that the broker did not know, as this machine has them.

To look one up takes as long as all the rest of listing a directory, and longer where /etc/passwd is
long; so where many are wanted, all are read at once, if that asks no other machine.
"""

TYPE_CHECKING = False  # as a checker reads it; `typing` itself would take long to import
if TYPE_CHECKING:
    from collections.abc import Callable

FEW_NAMES = 32
"""Looked up one by one, before they are read all at once."""

# The sources of names that can be read from end to end without asking another machine, and those
# that are known to have told all then.
_READABLE = frozenset({b"files", b"systemd"})
_WHOLE = frozenset({b"files"})


class AccountNames:
    """Names of users and groups, each looked up once."""

    def __init__(self) -> None:
        self.user = _Database(b"passwd", _user, _users).name
        self.group = _Database(b"group", _group, _groups).name


class _Database:
    """The names of one database."""

    __slots__ = ("_known", "_look_up", "_name", "_read_all", "_whole")

    def __init__(
        self,
        name: bytes,
        look_up: "Callable[[int], str]",
        read_all: "Callable[[], dict[int, str]]",
    ) -> None:
        self._name = name
        self._look_up = look_up
        self._read_all: Callable[[], dict[int, str]] | None = read_all  # None: tried already
        self._known: dict[int, str | None] = {}
        self._whole = False  # what is not known does not exist

    def name(self, number: int) -> str | None:
        """Return the name that belongs to a number; None if there is none."""
        if number not in self._known and not self._whole:
            if len(self._known) >= FEW_NAMES and self._read_all is not None:
                self._read()
                return self.name(number)
            try:
                self._known[number] = self._look_up(number)
            except (KeyError, OSError):
                self._known[number] = None
        return self._known.get(number)

    def _read(self) -> None:
        """Read all there are, where that asks no other machine."""
        sources, read_all, self._read_all = _sources(self._name), self._read_all, None
        if read_all is not None and sources is not None and sources <= _READABLE:
            self._known |= read_all()
            self._whole = sources == _WHOLE


def _user(uid: int) -> str:
    from pwd import getpwuid

    return getpwuid(uid).pw_name


def _users() -> dict[int, str]:
    from pwd import getpwall

    return {each.pw_uid: each.pw_name for each in reversed(getpwall())}  # the first one counts


def _group(gid: int) -> str:
    from grp import getgrgid

    return getgrgid(gid).gr_name


def _groups() -> dict[int, str]:
    from grp import getgrall

    return {each.gr_gid: each.gr_name for each in reversed(getgrall())}


def _sources(database: bytes) -> frozenset[bytes] | None:
    """Return what nsswitch.conf(5) has the C library ask; with what it says besides, if anything.

    None where that file is not there, or does not say it once.
    """
    try:
        with open("/etc/nsswitch.conf", "rb", buffering=0) as file:
            lines = file.read(65536).splitlines()
    except OSError:
        return None
    entries = [line.partition(b"#")[0].partition(b":") for line in lines]
    found = [services.split() for name, _, services in entries if name.strip() == database]
    return frozenset(found[0]) if len(found) == 1 else None
