"""The broker's replies as values: a listed directory, its state, the outcome of a reload.

Their fields have the names that the commands print in JSON. What a reply lacks, or what has another
type than the interface says, is None; fields that this version does not know are ignored.
"""

from sockbroker.errors import ProtocolFault

TYPE_CHECKING = False  # as a checker reads it; `typing` itself would take long to import
if TYPE_CHECKING:
    from collections.abc import Callable

FEW_NAMES = 32
"""Looked up one by one, before they are read all at once."""

# The sources of names that can be read from end to end without asking another machine, and those
# that are known to have told all then.
_READABLE = frozenset({b"files", b"systemd"})
_WHOLE = frozenset({b"files"})


class ListedDirectory:
    """A runtime directory, as the broker found it on the disk."""

    __slots__ = (
        "app",
        "gid",
        "group",
        "in_use",
        "mode",
        "path",
        "sockets",
        "state",
        "uid",
        "user",
    )

    # In the order in which they are shown.
    FIELDS = (
        "app",
        "uid",
        "user",
        "path",
        "mode",
        "gid",
        "group",
        "state",
        "in_use",
        "sockets",
    )

    def __init__(self, described: object) -> None:
        """Read a reply's `directory`; raises ProtocolFault if it lacks what every directory has."""
        # Asked for one by one and not by `match`, which takes three times as long: there may be ten
        # thousand.
        if type(described) is not dict:
            raise _unreadable()
        try:
            app, uid, gid = described["app"], described["uid"], described["gid"]
            path, mode, state = described["path"], described["mode"], described["state"]
        except KeyError:
            raise _unreadable() from None
        if not (type(app) is type(path) is type(mode) is type(state) is str):
            raise _unreadable()
        if not (type(uid) is type(gid) is int):
            raise _unreadable()
        self.app = app
        self.uid = uid
        self.path = path
        self.mode = mode
        self.gid = gid
        self.state = state
        get = described.get
        user, group, in_use, sockets = (
            get("userName"),
            get("groupName"),
            get("inUse"),
            get("sockets"),
        )
        self.user = user if user and type(user) is str else None
        self.group = group if group and type(group) is str else None
        self.in_use = in_use if type(in_use) is bool else None
        self.sockets = sockets if type(sockets) is int else None

    def __repr__(self) -> str:
        return f"<sockbroker.ListedDirectory {self.app}/{self.uid} {self.state}>"


class Status:
    """The state of the broker; None is what only operators are told."""

    __slots__ = (
        "confinement",
        "counters",
        "policy_error",
        "policy_generation",
        "problems",
        "state",
        "version",
    )

    # In the order in which they are shown.
    FIELDS = (
        "state",
        "version",
        "policy_generation",
        "policy_error",
        "problems",
        "confinement",
        "counters",
    )

    def __init__(self, reply: dict[str, object]) -> None:
        generation, counters = reply.get("policyGeneration"), reply.get("counters")
        self.state = _text(reply.get("state"))
        self.version = _text(reply.get("version"))
        self.policy_generation = generation if isinstance(generation, int) else None
        self.policy_error = _text(reply.get("policyError"))
        self.problems = _texts(reply.get("problems"))
        self.confinement = _texts(reply.get("confinement"))
        self.counters = counters if isinstance(counters, dict) else None

    def __repr__(self) -> str:
        return f"<sockbroker.Status {self.state}>"


class Reloaded:
    """What a reload led to: the number of the policy now in force, and what could not be done."""

    __slots__ = ("policy_generation", "problems")

    def __init__(self, reply: dict[str, object]) -> None:
        generation = reply.get("policyGeneration")
        self.policy_generation = generation if isinstance(generation, int) else None
        self.problems = _texts(reply.get("problems")) or ()

    def __repr__(self) -> str:
        return f"<sockbroker.Reloaded {self.policy_generation}>"


class Names:
    """User and group names that the broker did not know, each looked up once."""

    def __init__(self) -> None:
        self.user = _Names(b"passwd", _user, _users).name
        self.group = _Names(b"group", _group, _groups).name


class _Names:
    """The names of one database.

    To look one up takes as long as all the rest of listing a directory, and longer where
    /etc/passwd is long; so where many are wanted, all are read at once.
    """

    __slots__ = ("_all", "_database", "_known", "_one", "_whole")

    def __init__(
        self, database: bytes, one: "Callable[[int], str]", all: "Callable[[], dict[int, str]]"
    ) -> None:
        self._database = database
        self._one = one
        self._all: Callable[[], dict[int, str]] | None = all
        self._known: dict[int, str | None] = {}
        self._whole = False  # what is not known does not exist

    def name(self, number: int) -> str | None:
        """Return the name that belongs to a number; None if there is none."""
        if number not in self._known and not self._whole:
            if len(self._known) >= FEW_NAMES and self._all is not None:
                self._read()
                return self.name(number)
            try:
                self._known[number] = self._one(number)
            except (KeyError, OSError):
                self._known[number] = None
        return self._known.get(number)

    def _read(self) -> None:
        """Read all there are, where that asks no other machine."""
        sources, read, self._all = _sources(self._database), self._all, None
        if read is not None and sources <= _READABLE:
            self._known |= read()
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


def _sources(database: bytes) -> frozenset[bytes]:
    """Return what nsswitch.conf(5) has the C library ask; with what it says besides, if anything.

    Nothing that can be read at once where that file is not there or says it twice.
    """
    try:
        with open("/etc/nsswitch.conf", "rb", buffering=0) as file:
            lines = file.read(65536).splitlines()
    except OSError:
        lines = []
    entries = [line.partition(b"#")[0].partition(b":") for line in lines]
    found = [services.split() for name, _, services in entries if name.strip() == database]
    return frozenset(found[0]) if len(found) == 1 else frozenset({b""})


def _unreadable() -> ProtocolFault:
    return ProtocolFault(
        "the broker described a directory in a way that this version cannot read: "
        "sockbrokerctl and sockbrokerd may be of different versions"
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...] | None:
    return tuple(str(text) for text in value) if isinstance(value, list) else None
