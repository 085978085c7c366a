"""The broker's replies as values: a listed directory, its state, the outcome of a reload.

Their fields have the names that the commands print in JSON. What a reply lacks, or what has another
type than the interface says, is None; fields that this version does not know are ignored.
"""

from sockbroker.errors import ProtocolFault


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

    def __init__(self, described: object, names: "Names") -> None:
        """Read a reply's `directory`; raises ProtocolFault if it lacks what every directory has."""
        match described:
            case {
                "app": str(app),
                "uid": int(uid),
                "path": str(path),
                "mode": str(mode),
                "gid": int(gid),
                "state": str(state),
                **others,
            }:
                self.app = app
                self.uid = uid
                self.path = path
                self.mode = mode
                self.gid = gid
                self.state = state
            case _:
                raise ProtocolFault(
                    "the broker described a directory in a way that this version cannot read: "
                    "sockbrokerctl and sockbrokerd may be of different versions"
                )
        self.user = _text(others.get("userName")) or names.user(uid)
        self.group = _text(others.get("groupName")) or names.group(gid)
        in_use, sockets = others.get("inUse"), others.get("sockets")
        self.in_use = in_use if isinstance(in_use, bool) else None
        self.sockets = sockets if isinstance(sockets, int) else None

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
        self._users: dict[int, str | None] = {}
        self._groups: dict[int, str | None] = {}

    def user(self, uid: int) -> str | None:
        """Return the name of a user; None if there is none."""
        if uid not in self._users:
            from pwd import getpwuid

            try:
                self._users[uid] = getpwuid(uid).pw_name
            except (KeyError, OSError):
                self._users[uid] = None
        return self._users[uid]

    def group(self, gid: int) -> str | None:
        """Return the name of a group; None if there is none."""
        if gid not in self._groups:
            from grp import getgrgid

            try:
                self._groups[gid] = getgrgid(gid).gr_name
            except (KeyError, OSError):
                self._groups[gid] = None
        return self._groups[gid]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...] | None:
    return tuple(str(text) for text in value) if isinstance(value, list) else None
