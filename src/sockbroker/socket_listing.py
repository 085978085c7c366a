"""Lists the sockets in runtime directories and the abstract ones: what is alive, and who has it.

As the caller and without the broker; nothing is connected to.  A socket is in a directory if the
kernel's table has the device and inode of the file that was found there; the names in the table are
only what their binders claim.

A file is called stale when it was there all the while and no socket had it bound in any network
namespace, looked at twice: in between lies more than the moment in which bind(2) has made the file
and not yet tied its socket to it, and what one reading of the table may have missed the other has.
(The library asks for one thing more before it takes a file away: that connecting is refused.)
Wherever one of these could not be looked at, it is unknown.  Not seen even so is a socket whose
network namespace has neither a process in it nor a name, and lives on by that socket alone.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from sockbroker.account_names import AccountNames
from sockbroker.command_line import CommandFailed
from sockbroker.core.escaping import escape, escape_address
from sockbroker.core.names import is_app_name
from sockbroker.errors import InvalidApp
from sockbroker.kernel.entries import Owned
from sockbroker.kernel.mounts import Mounts, read_mounts
from sockbroker.kernel.net_namespaces import in_each_other
from sockbroker.kernel.root_path import DirectoryError, open_root_path
from sockbroker.kernel.runtime_sockets import SocketFile, Survey, Unseen
from sockbroker.kernel.socket_holders import Holder, find_holders
from sockbroker.kernel.unix_sockets import (
    SHOW_NAME,
    SHOW_RQLEN,
    SHOW_UID,
    SHOW_VFS,
    BoundFile,
    UnixSocket,
    unix_sockets,
)

BASE: Final = "/run"

BETWEEN_LOOKS: Final = 0.1
"""Seconds until a file that nothing had bound is looked at again."""

_TYPES: Final = {
    int(socket.SOCK_STREAM): "stream",
    int(socket.SOCK_DGRAM): "dgram",
    int(socket.SOCK_SEQPACKET): "seqpacket",
}

_ELSEWHERE: Final = "bound in another network namespace"
_NOT_HERE: Final = "nothing in this network namespace has it bound; others cannot be looked into"
_ODD_DEVICE: Final = "nothing has it bound, but sockets cannot be told by their files here"
_CHANGED: Final = "was replaced or moved while it was looked at"
_CONNECTION: Final = "known only from a connection, which its listener may not have outlived"


class CannotList(CommandFailed):
    """The sockets cannot be listed; the text says why."""


class _TookTooLong(Exception):
    """The time is over; no OSError, which would be taken for what a file or a process says."""


class ListedSocket(NamedTuple):
    """A socket as it is shown, or a place where one may not look; names in their escaped form.

    `owner` is who owns the file, or made an abstract socket.
    """

    name: str | None
    kind: str
    app: str | None
    uid: int | None
    path: str | None
    type: str | None
    state: str
    mode: str | None
    owner: int | None
    owner_name: str | None
    pid: int | None
    command: str | None
    queue: int | None
    backlog: int | None
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """What is known of a file: a socket that has it bound, or why there is none."""

    bound: UnixSocket | None
    state: str
    note: str | None = None


class SocketListing:
    """Everything that was found.  Rows are made when they are asked for, one at a time."""

    def __init__(
        self,
        files: list[tuple[SocketFile, _Judged]],
        unseen: list[Unseen],
        abstract: list[UnixSocket],
        holders: dict[int, Holder],
    ) -> None:
        self._files = files
        self._unseen = unseen
        self._abstract = abstract
        self._holders = holders
        self._names = AccountNames()

    def __iter__(self) -> Iterator[ListedSocket]:
        yield from (self._row_of_file(*each) for each in self._files)
        yield from map(self._row_of_abstract, self._abstract)
        yield from map(_row_of_unseen, self._unseen)

    def _row_of_file(self, file: SocketFile, judged: _Judged) -> ListedSocket:
        return self._row(
            judged,
            name=escape(file.path.rpartition(b"/")[2]),
            kind="path",
            app=file.app,
            uid=file.uid,
            path=escape_address(file.path),
            mode=f"{file.mode:04o}",
            owner=file.owner,
        )

    def _row_of_abstract(self, bound: UnixSocket) -> ListedSocket:
        return self._row(
            _judged(bound),
            name=escape_address(bound.name or b""),
            kind="abstract",
            app=None,
            uid=None,
            path=None,
            mode=None,
            owner=bound.uid,
        )

    def _row(
        self,
        judged: _Judged,
        *,
        name: str,
        kind: str,
        app: str | None,
        uid: int | None,
        path: str | None,
        mode: str | None,
        owner: int | None,
    ) -> ListedSocket:
        bound = judged.bound
        holder = None if bound is None else self._holders.get(bound.number)
        return ListedSocket(
            name=name,
            kind=kind,
            app=app,
            uid=uid,
            path=path,
            type=None if bound is None else _TYPES.get(bound.type, str(bound.type)),
            state=judged.state,
            mode=mode,
            owner=owner,
            owner_name=None if owner is None else self._names.user(owner),
            pid=None if holder is None else holder.pid,
            command=None if holder is None else escape(holder.command),
            queue=None if bound is None else bound.queue,
            backlog=None if bound is None else bound.backlog,
            note=judged.note,
        )


def _row_of_unseen(unseen: Unseen) -> ListedSocket:
    return ListedSocket(
        name=None,
        kind="unseen",
        app=unseen.app,
        uid=unseen.uid,
        path=escape_address(unseen.path),
        type=None,
        state="unknown",
        mode=None,
        owner=None,
        owner_name=None,
        pid=None,
        command=None,
        queue=None,
        backlog=None,
        note=unseen.reason,
    )


def list_sockets(app: str | None, *, deadline: float) -> SocketListing:
    """Look at the sockets of an app, or of all and the abstract ones; CannotList, InvalidApp."""
    if app is not None and not is_app_name(app):
        raise InvalidApp(app, "`sockbrokerctl list` shows those that there are")

    def pace() -> None:
        if time.monotonic() > deadline:
            raise _TookTooLong

    try:
        with Owned(open_root_path(BASE)) as base:
            survey = Survey(base, BASE, claims=lambda: _claims(pace), pace=pace)
            return _list(survey, app, pace)
    except DirectoryError as error:
        raise CannotList(str(error)) from error
    except _TookTooLong:
        raise CannotList(
            "there are too many sockets to look at in this time: give --app, or a longer --timeout"
        ) from None
    except OSError as error:
        raise CannotList(f"the sockets cannot be looked at: {error.strerror or error}") from error


def _claims(pace: Callable[[], None]) -> Iterable[tuple[bytes, BoundFile]]:
    def keep(each: UnixSocket) -> bool:
        pace()
        return each.file is not None and each.name is not None and not each.is_connection

    bound = unix_sockets(SHOW_NAME | SHOW_VFS, keep)
    return [(each.name, each.file) for each in bound if each.name and each.file]


def _list(survey: Survey, app: str | None, pace: Callable[[], None]) -> SocketListing:
    # The files before the table: what is bound in between has a file that was not seen.
    files: list[SocketFile] = []
    unseen: list[Unseen] = []
    for sight in survey.look(app):
        if isinstance(sight, Unseen):
            unseen.append(sight)
        else:
            files.append(sight)
    tables = _Tables(pace)
    abstract = tables.read(files, abstract=app is None)
    judged = _judge(files, tables, survey)
    numbers = {each.number for each in abstract}
    numbers |= {each.bound.number for each in judged.values() if each.bound is not None}
    kept = [(file, judged[file.path]) for file in files if file.path in judged]
    return SocketListing(kept, unseen, abstract, find_holders(numbers, pace))


class _Tables:
    """The kernel's tables of sockets, here and elsewhere, as far as they concern certain files."""

    def __init__(self, pace: Callable[[], None]) -> None:
        self._pace = pace
        self._mounts = read_mounts()
        self.here: dict[BoundFile, UnixSocket] = {}
        self.elsewhere: dict[BoundFile, UnixSocket] = {}
        self.all_seen = True

    def read(self, files: Iterable[SocketFile], *, abstract: bool = False) -> list[UnixSocket]:
        """Read the tables anew for these files, and return the abstract sockets if wanted."""
        wanted = {each.file for each in files}

        def keep(each: UnixSocket) -> bool:
            self._pace()
            return each.file in wanted or (abstract and each.name is not None and _nul(each.name))

        show = SHOW_VFS | SHOW_RQLEN | SHOW_UID
        found = unix_sockets(show | SHOW_NAME if abstract else show, keep)
        self.here = _by_file(found)
        missing = {file for file in wanted if file not in self.here}
        self.elsewhere = {}
        self.all_seen = True

        def keep_missing(each: UnixSocket) -> bool:
            self._pace()
            return each.file in missing

        if missing:
            others, self.all_seen = in_each_other(
                lambda: unix_sockets(show, keep_missing), self._mounts
            )
            self.elsewhere = _by_file(each for one in others for each in one)
        return _distinct(each for each in found if each.file is None)

    def judge(self, file: SocketFile) -> _Judged:
        """Judge a file by what was read; one that is not bound is "stale" here already."""
        if file.file in self.here:
            return _judged(self.here[file.file])
        if file.file in self.elsewhere:
            judged = _judged(self.elsewhere[file.file])
            note = _ELSEWHERE if judged.note is None else f"{_ELSEWHERE}; {judged.note}"
            return _Judged(bound=judged.bound, state=judged.state, note=note)
        if not self.all_seen:
            return _Judged(bound=None, state="unknown", note=_NOT_HERE)
        if not _shows_files(file.file.device, self._mounts):
            return _Judged(bound=None, state="unknown", note=_ODD_DEVICE)
        return _Judged(bound=None, state="stale")


def _judge(files: list[SocketFile], tables: _Tables, survey: Survey) -> dict[bytes, _Judged]:
    """Judge all files, by their paths; those that have gone meanwhile are left out."""
    judged = {each.path: tables.judge(each) for each in files}
    dead = [each for each in files if judged[each.path].state == "stale"]
    if dead:
        time.sleep(BETWEEN_LOOKS)
        tables.read(dead)
    for each in dead:
        still_there = survey.look_again(each)
        if still_there is False:
            del judged[each.path]
        elif still_there is None:
            judged[each.path] = _Judged(bound=None, state="unknown", note=_CHANGED)
        else:
            judged[each.path] = tables.judge(each)
    return judged


def _judged(bound: UnixSocket) -> _Judged:
    """Judge by a socket that has the file or the name."""
    if bound.is_connection:
        return _Judged(bound=bound, state="unknown", note=_CONNECTION)
    note = None
    if bound.queue is not None and bound.backlog is not None:
        if bound.queue > bound.backlog:
            note = "its queue is full"
    elif bound.type != socket.SOCK_DGRAM:
        note = "does not listen"
    return _Judged(bound=bound, state="live", note=note)


def _by_file(sockets: Iterable[UnixSocket]) -> dict[BoundFile, UnixSocket]:
    """Give the sockets by their files; of several with one file the one that is its own."""
    found: dict[BoundFile, UnixSocket] = {}
    for each in sockets:
        if each.file is not None and (each.file not in found or not each.is_connection):
            found[each.file] = each
    return found


def _distinct(sockets: Iterable[UnixSocket]) -> list[UnixSocket]:
    """Give the sockets in order, of several with one name and type the one that is its own."""
    found: dict[tuple[bytes | None, int], UnixSocket] = {}
    for each in sockets:
        key = (each.name, each.type)
        if key not in found or not each.is_connection:
            found[key] = each
    return [found[key] for key in sorted(found, key=lambda key: (key[0] or b"", key[1]))]


def _shows_files(device: int, mounts: Mounts) -> bool:
    """Tell whether a file on this device has the device and inode that the table has.

    It has on tmpfs, which /run is. Where files of several file systems are shown as if they were in
    one (overlayfs), or of one as if in several (btrfs), stat(2) and the table may differ.
    """
    return any(mount.device == device and mount.type == "tmpfs" for mount in mounts)


def _nul(name: bytes) -> bool:
    return name[:1] == b"\0"
