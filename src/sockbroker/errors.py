"""What can go wrong, for programs that use the library: every exception that it raises.

The text of each is one printable line that says what is wrong and what to do next; what comes from
others is escaped in it. The attributes hold the values as they came.
"""

from sockbroker.core.escaping import escape, legible


class Error(Exception):
    """Anything that the library reports; it can be pickled, as worker processes do."""

    def __reduce__(self) -> "tuple[object, ...]":
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[Error], text: tuple[str, ...], attributes: dict[str, object]) -> Error:
    error = kind.__new__(kind, *text)
    error.__dict__.update(attributes)
    return error


class InvalidAddress(Error, ValueError):
    """The address is not one that the broker could be at."""


class Closed(Error, ValueError):
    """The directory was closed before."""


class NoSuchUser(Error):
    """The user database has no such user."""

    def __init__(self, user: str) -> None:
        super().__init__(
            f"there is no user {escape(user, word=True)}: give a name that `getent` knows, or a uid"
        )
        self.user = user


class Denied(Error):
    """The policy does not let this user have a directory for this app."""

    def __init__(self, app: str, reason: str) -> None:
        super().__init__(f"denied for app {escape(app, word=True)}: {legible(reason)}")
        self.app = app
        self.reason = reason


class PermissionDenied(Error):
    """Only an operator may do that."""

    def __init__(self) -> None:
        super().__init__("only an operator may do that: run it as root, over the operator socket")


class InvalidApp(Error):
    """Not a name that an app can have."""

    def __init__(self, app: str, reason: str) -> None:
        shown = escape(app[:64], word=True) or "an empty word"
        super().__init__(f"{shown} is not a name that an app can have: {legible(reason)}")
        self.app = app
        self.reason = reason


class NoSuchDirectory(Error):
    """Nothing there to release or list."""

    def __init__(self, app: str | None, uid: int | None) -> None:
        of_app = "" if app is None else f" of app {escape(app, word=True)}"
        of_uid = "" if uid is None else f" for uid {uid}"
        super().__init__(
            f"there is no directory{of_app}{of_uid}: `sockbrokerctl list` shows what there is"
        )
        self.app = app
        self.uid = uid


class Obstructed(Error):
    """Something that the broker did not make is in the way."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{escape(path)} is obstructed: {legible(reason)}")
        self.path = path
        self.reason = reason


class UnexpectedDirectory(Error):
    """What the broker named is, as seen from here, not the directory that it should be."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{escape(path)} is not the directory that was asked for: {legible(reason)}"
        )
        self.path = path
        self.reason = reason


class InUse(Error):
    """Somebody uses the directory."""

    def __init__(self, path: str, reason: str) -> None:
        mend = "" if "--force" in reason else "; --force releases it all the same"
        super().__init__(f"{escape(path)} is not released: {legible(reason)}{mend}")
        self.path = path
        self.reason = reason


class InvalidSocket(Error, ValueError):
    """Not a name, mode or type that a socket in a runtime directory can have."""


class ListenFailed(Error):
    """The socket cannot be made."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot listen on {escape(path)}: {legible(reason)}")
        self.path = path
        self.reason = reason


class NameInUse(ListenFailed):
    """A live socket has the name, or one of which it cannot be told; it was left alone.

    `uid` is whose socket it is, or its file where that is all that can be seen; `pid` is a process
    that has it open, None where one may not know.
    """

    def __init__(self, path: str, reason: str, *, uid: int, pid: int | None) -> None:
        super().__init__(path, reason)
        self.uid = uid
        self.pid = pid


class ConnectFailed(Error):
    """The socket cannot be connected to."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot connect to {escape(path)}: {legible(reason)}")
        self.path = path
        self.reason = reason


class WrongListener(ConnectFailed):
    """Somebody else listens there, and was sent nothing."""

    def __init__(self, path: str, uid: int, pid: int, wanted: int) -> None:
        super().__init__(
            path,
            f"uid {uid} pid {pid} listens there, not uid {wanted}; nothing was sent to it: "
            "ask whose directory it is to look who may write in it",
        )
        self.uid = uid
        self.pid = pid
        self.wanted = wanted


class Unmarked(Error, UserWarning):
    """A warning: the directory could not be marked in use."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{escape(path)} is not marked in use, so it may be released meanwhile: "
            f"{legible(reason)}"
        )
        self.path = path
        self.reason = reason


class LimitReached(Error):
    """A limit: connections, directories, requests, space."""

    def __init__(self, resource: str, limit: int) -> None:
        # The broker says 0 where the limit is not one of its own: a full disk, a full process.
        number = f" of {limit}" if limit else ""
        super().__init__(
            f"the limit{number} for {legible(resource)} is reached: "
            "release what is not needed, or ask an operator to make room"
        )
        self.resource = resource
        self.limit = limit


class PolicyInvalid(Error):
    """The policy on disk is bad; the old one stays in force."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        first = f", the first: {legible(problems[0])}" if problems else ""
        super().__init__(
            f"the policy on disk is bad and the old one stays in force ({len(problems)} problems"
            f"{first}): `sockbrokerctl check` shows them all"
        )
        self.problems = problems


class BrokerUnavailable(Error):
    """No broker can be talked to."""


class Impostor(BrokerUnavailable):
    """Somebody who is not root listens where the broker should."""

    def __init__(self, address: str, uid: int, pid: int) -> None:
        super().__init__(
            f"an impostor: uid {uid} pid {pid} listens on {address}, and nothing was sent to it: "
            "ask an operator to end that process and to start sockbroker"
        )
        self.address = address
        self.uid = uid
        self.pid = pid


class Unverifiable(BrokerUnavailable):
    """This user namespace does not map root: nobody can tell the broker from an impostor in it."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"who listens on {address} cannot be told, as this user namespace does not map root: "
            "run it outside, or say verify=False in Python to trust whoever listens"
        )
        self.address = address


class TimedOut(BrokerUnavailable):
    """The broker did not answer in time."""


class ConnectionLost(BrokerUnavailable):
    """The connection ended before the answer was there."""


class ProtocolFault(Error):
    """What came back is no answer that this version can understand."""


class CallFailed(Error):
    """The broker answered with an error that this version has no exception for."""

    def __init__(self, error: str, parameters: dict[str, object]) -> None:
        named = ", ".join(f"{name} {value}" for name, value in parameters.items())
        super().__init__(
            f"the broker answered {legible(error)}{legible(f' ({named})') if named else ''}: "
            "sockbrokerctl and sockbrokerd may be of different versions"
        )
        self.error = error
        self.parameters = parameters


def from_reply(error: str, parameters: dict[str, object]) -> Error:
    """Give the exception for an error reply; one that is not understood is a CallFailed."""
    match error.removeprefix("io.sockbroker."), parameters:
        case "Denied", {"app": str(app), "reason": str(reason)}:
            return Denied(app, reason)
        case "InvalidApp", {"app": str(app), "reason": str(reason)}:
            return InvalidApp(app, reason)
        case "NoSuchDirectory", _:
            about, uid = parameters.get("app"), parameters.get("uid")
            return NoSuchDirectory(
                about if isinstance(about, str) else None, uid if isinstance(uid, int) else None
            )
        case "Obstructed", {"path": str(path), "reason": str(reason)}:
            return Obstructed(path, reason)
        case "InUse", {"path": str(path), "reason": str(reason)}:
            return InUse(path, reason)
        case "LimitReached", {"resource": str(resource), "limit": int(limit)}:
            return LimitReached(resource, limit)
        case "PolicyInvalid", {"problems": [*problems]}:
            return PolicyInvalid(tuple(str(problem) for problem in problems))
        case "org.varlink.service.PermissionDenied", _:
            return PermissionDenied()
    return CallFailed(error, parameters)
