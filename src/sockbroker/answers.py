"""The broker's replies as values: a listed directory, its state, the outcome of a reload.

Their fields have the names that the commands print in JSON. What a reply lacks, or what has another
type than the interface says, is None; fields that this version does not know are ignored.
"""

from sockbroker.errors import ProtocolFault


class ListedDirectory:
    """A runtime directory, as the broker found it on the disk."""

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
    __slots__ = FIELDS

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
    __slots__ = FIELDS

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


def _unreadable() -> ProtocolFault:
    return ProtocolFault(
        "the broker described a directory in a way that this version cannot read: "
        "sockbrokerctl and sockbrokerd may be of different versions"
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...] | None:
    return tuple(str(text) for text in value) if isinstance(value, list) else None
