"""The library: ask the broker for a runtime directory, give it back, and look at what there is.

Blocking, standard library only, safe with threads: every call opens a connection of its own and
ends by its timeout. This module and what it imports is also all that `sockbrokerctl request` loads,
so it does without the modules that take long to import: `posix`, `_socket` and `_json` are the C
parts of `os`, `socket` and `json`.
"""

import posix
import time

from sockbroker.address import candidates
from sockbroker.connection import Connection, Value
from sockbroker.directory import Directory
from sockbroker.errors import (
    ConnectionLost,
    InvalidApp,
    NoSuchDirectory,
    NoSuchUser,
    ProtocolFault,
)

TYPE_CHECKING = False  # `typing` itself would take longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from sockbroker.answers import ListedDirectory, Reloaded, Status

    T = TypeVar("T")

TIMEOUT = 30.0

# What setresuid(2) takes: 2^32 - 1 stands for "leave it".
HIGHEST_UID = 2**32 - 2

# The longest name of an app has 31; this keeps a call below the broker's limit for a message, where
# it hangs up.
LONGEST_APP = 255


def request(
    app: str,
    *,
    user: str | int | None = None,
    timeout: float = TIMEOUT,
    address: str | None = None,
    verify: bool = True,
) -> Directory:
    """Have the caller's runtime directory made, or found, and return it checked, held and marked.

    It is marked in use until it is closed; where that cannot be, the warning Unmarked says why.
    `user` is for operators, who mark nothing. With verify=False whoever listens is taken for the
    broker.
    """
    directory = obtain(app, user=user, timeout=timeout, address=address, verify=verify)
    try:
        directory.mark()
    except BaseException:
        directory.close()
        raise
    return directory


def obtain(
    app: str,
    *,
    user: str | int | None = None,
    timeout: float = TIMEOUT,
    address: str | None = None,
    verify: bool = True,
) -> Directory:
    """Do as `request` does, and leave the directory unmarked: for who names it and is gone."""
    uid = posix.geteuid() if user is None else uid_of(user)
    replies = _call(
        "Request",
        _concerning(app, uid),
        timeout=timeout,
        address=address,
        verify=verify,
        again=True,
    )
    path, outcome = replies[0].get("path"), replies[0].get("outcome")
    if not isinstance(path, str) or not isinstance(outcome, str):
        raise ProtocolFault(
            "the broker granted the request but named no directory: "
            "sockbroker may be of another version here"
        )
    return Directory(app=app, uid=uid, path=path, outcome=outcome, verify=verify)


def release(
    app: str,
    *,
    user: str | int | None = None,
    force: bool = False,
    timeout: float = TIMEOUT,
    address: str | None = None,
    verify: bool = True,
) -> None:
    """Remove the runtime directory and all that is in it, with `force` also if it is in use.

    Returns when its name is gone. After ConnectionLost or TimedOut it may be gone as well.
    """
    parameters = _concerning(app, posix.geteuid() if user is None else uid_of(user))
    if force:
        parameters["force"] = True
    _call("Release", parameters, timeout=timeout, address=address, verify=verify, again=False)


def list_directories(
    *,
    app: str | None = None,
    user: str | int | None = None,
    timeout: float = TIMEOUT,
    address: str | None = None,
    verify: bool = True,
) -> "list[ListedDirectory]":
    """Return the caller's runtime directories; to an operator everybody's, or one user's."""
    from sockbroker.account_names import AccountNames
    from sockbroker.answers import ListedDirectory

    parameters: dict[str, Value] = {}
    if app is not None:
        parameters["app"] = _sendable(app)
    if user is not None:
        parameters["uid"] = uid_of(user)
    try:
        listed = _call_reading(
            lambda reply: ListedDirectory(reply.get("directory")),
            "List",
            parameters,
            timeout=timeout,
            address=address,
            verify=verify,
            again=True,
        )
    except NoSuchDirectory:
        return []
    # Only now, as it may take its time: no longer does the broker wait for us.
    names = AccountNames()
    for each in listed:
        each.user = each.user or names.user(each.uid)
        each.group = each.group or names.group(each.gid)
    return listed


def broker_status(
    *, timeout: float = TIMEOUT, address: str | None = None, verify: bool = True
) -> "Status":
    """Return the state of the broker; much of it is told to operators only."""
    from sockbroker.answers import Status

    replies = _call("Status", {}, timeout=timeout, address=address, verify=verify, again=True)
    return Status(replies[0])


def reload_policy(
    *, timeout: float = TIMEOUT, address: str | None = None, verify: bool = True
) -> "Reloaded":
    """Have the broker read its policy again, for operators; PolicyInvalid if it is bad."""
    from sockbroker.answers import Reloaded

    replies = _call("Reload", {}, timeout=timeout, address=address, verify=verify, again=False)
    return Reloaded(replies[0])


def uid_of(user: str | int) -> int:
    """Give the uid of a user, who may be written as a name or a number; raises NoSuchUser."""
    if isinstance(user, str) and not (user.isascii() and user.isdecimal()):
        from pwd import getpwnam

        try:
            return getpwnam(user).pw_uid
        except (KeyError, ValueError, OSError):
            raise NoSuchUser(user) from None
    # A number of any length would be slow to read; one with a leading zero was meant as something
    # else.
    text = str(user)
    if len(text) > 10 or not 0 <= int(text) <= HIGHEST_UID or text != str(int(text)):
        raise NoSuchUser(text[:32])
    return int(text)


def _concerning(app: str, uid: int) -> dict[str, Value]:
    """Give the parameters of a call about one directory; of the caller's own uid none speaks."""
    parameters: dict[str, Value] = {"app": _sendable(app)}
    if uid != posix.geteuid():
        parameters["uid"] = uid
    return parameters


def _sendable(app: str) -> str:
    """Refuse what cannot be in a message; what a name may look like is for the broker to say."""
    try:
        length = len(app.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidApp(app, "it is not UTF-8") from None
    if length > LONGEST_APP:
        raise InvalidApp(app, f"it has {length} bytes")
    return app


def _call(
    method: str,
    parameters: dict[str, Value],
    *,
    timeout: float,
    address: str | None,
    verify: bool,
    again: bool,
) -> list[dict[str, object]]:
    """Make one call and return its replies; `again` makes it once more after a lost connection."""
    return _call_reading(
        dict, method, parameters, timeout=timeout, address=address, verify=verify, again=again
    )


def _call_reading(
    read: "Callable[[dict[str, object]], T]",
    method: str,
    parameters: dict[str, Value],
    *,
    timeout: float,
    address: str | None,
    verify: bool,
    again: bool,
) -> "list[T]":
    """Do as `_call` does, and return what `read` makes of each reply as soon as it is there."""
    addresses = candidates(address)
    deadline = time.monotonic() + timeout
    connection = Connection(addresses, deadline=deadline, verify=verify)
    try:
        return _converse(read, method, parameters, connection)
    except ConnectionLost:
        if not again:
            raise
    connection = Connection(addresses, deadline=deadline, verify=verify)
    return _converse(read, method, parameters, connection)


def _converse(
    read: "Callable[[dict[str, object]], T]",
    method: str,
    parameters: dict[str, Value],
    connection: Connection,
) -> "list[T]":
    results: list[T] = []
    with connection:
        connection.send(f"io.sockbroker.{method}", parameters, more=method == "List")
        continues = True
        while continues:
            replies, continues = connection.receive()
            results += map(read, replies)
    return results
