"""The socket files in runtime directories, found with the caller's own rights.

App folders are known by their marker.  What is in a runtime directory is its owner's, so it is
walked as `usage` and `entries` do: by descriptors of O_PATH, without links and mounts, by the types
that the list of a directory gives; nothing is opened or connected to.  Where the caller may not
look that is told, as `Unseen`; but in a directory that he may enter and not list, files can still
be found by the names that their binders claim, because the claim can be tried.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from sockbroker.core.names import RESERVED_NAMES, is_app_name, parse_uid
from sockbroker.kernel.app_folder import MARKER, MOUNTED
from sockbroker.kernel.entries import Owned, look_at, open_entry, open_list
from sockbroker.kernel.syscalls import Status
from sockbroker.kernel.unix_sockets import BoundFile

MOST_ENTRIES: Final = 250_000
"""Of one runtime directory that are looked at: its owner decides how many there are, and this many
take a few seconds."""

MOST_DEPTH: Final = 32
"""Directories in each other; each takes a descriptor while those in it are looked at."""

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_NOT_LISTED: Final = "may not be listed: there may be others in it"


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketFile:
    """A socket file; `inode` is the whole number, of which `file` has 32 bits."""

    app: str
    uid: int
    path: bytes
    mode: int
    owner: int
    inode: int
    file: BoundFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """Where sockets may be and one may not look, or not at all of it."""

    app: str
    uid: int | None
    path: bytes
    reason: str


Sight = SocketFile | Unseen
ReadClaims = Callable[[], Iterable[tuple[bytes, BoundFile]]]
"""Reads the paths that binders claim, each with the file that the kernel says."""


class _Claims:
    """The paths in the base that binders claim, read when they are first wanted."""

    def __init__(self, base: bytes, device: int, read: ReadClaims) -> None:
        self._base = base + b"/"
        self._device = device
        self._read = read
        self._below: dict[str, dict[int, set[bytes]]] | None = None

    def of(self, app: str) -> dict[int, set[bytes]]:
        """Return what is claimed in an app's folder: paths, by the uid of their directory."""
        if self._below is None:
            self._below = {}
            for path, file in self._read():
                if file.device == self._device and path.startswith(self._base):
                    self._add(path[len(self._base) :])
        return self._below.get(app, {})

    def _add(self, path: bytes) -> None:
        app, _, rest = path.partition(b"/")
        name, _, below = rest.partition(b"/")
        uid = parse_uid(os.fsdecode(name))
        if uid is not None and below and self._below is not None:
            self._below.setdefault(os.fsdecode(app), {}).setdefault(uid, set()).add(below)


class Survey:
    """One look at the runtime directories of a base, whose O_PATH descriptor stays the caller's.

    `pace` is called again and again; what it raises, no OSError, ends the survey.
    """

    def __init__(
        self, descriptor: int, path: str, *, claims: ReadClaims, pace: Callable[[], None]
    ) -> None:
        self._descriptor = descriptor
        self._path = os.fsencode(path)
        self._claims = _Claims(self._path, look_at(descriptor).device, claims)
        self._pace = pace

    def look(self, app: str | None) -> Iterator[Sight]:
        """Yield what is in the runtime directories of an app, or of all; OSError: none of it."""
        for name in [app] if app is not None else sorted(self._names(self._descriptor)):
            if is_app_name(name) and name not in RESERVED_NAMES:
                yield from self._app(name)

    def look_again(self, seen: SocketFile) -> bool | None:
        """Tell whether the file is still at its path; None: another one is, or it can't be told."""
        components = seen.path[len(self._path) + 1 :].split(b"/")
        try:
            status = _look_below(self._descriptor, components)
        except FileNotFoundError:
            return False
        except OSError:
            return None
        return True if (status.device, status.inode) == (seen.file.device, seen.inode) else None

    def _app(self, app: str) -> Iterator[Sight]:
        path = self._path + b"/" + app.encode()
        try:
            folder = open_entry(self._descriptor, app)
        except OSError:
            return  # gone, or a mount: none of the broker's
        with Owned(folder):
            status = look_at(folder)
            if not stat.S_ISDIR(status.mode) or status.uid != 0:
                return
            marked = _is_marked(folder)
            if marked is None:
                reason = "may not be looked into, so that it may be an app's folder or not"
            elif marked and status.mode & _OTHERS_WRITE:
                reason = "others than root can write to it, so that it is none of the broker's"
            elif marked:
                yield from self._directories(folder, app, path)
                return
            else:
                return
            yield Unseen(app=app, uid=None, path=path, reason=reason)

    def _directories(self, folder: int, app: str, path: bytes) -> Iterator[Sight]:
        try:
            uids = {uid for name in self._names(folder) if (uid := parse_uid(name)) is not None}
        except PermissionError:
            yield Unseen(app=app, uid=None, path=path, reason=_NOT_LISTED)
            uids = {*self._claims.of(app), os.geteuid()}
        for uid in sorted(uids):
            below = _Directory(app, uid, path, claims=self._claims, pace=self._pace)
            yield from below.look(folder)

    def _names(self, directory: int) -> list[str]:
        with Owned(open_list(directory)) as listing, os.scandir(listing) as entries:
            names = []
            for entry in entries:
                self._pace()
                names.append(entry.name)
            return names


class _Directory:
    """One runtime directory."""

    def __init__(
        self, app: str, uid: int, folder: bytes, *, claims: _Claims, pace: Callable[[], None]
    ) -> None:
        self._app = app
        self._uid = uid
        self._path = folder + b"/" + str(uid).encode()
        self._claims = claims
        self._pace = pace
        self._left = MOST_ENTRIES

    def look(self, folder: int) -> Iterator[Sight]:
        yield from self._directory(folder, str(self._uid), self._path, MOST_DEPTH)

    def _directory(self, folder: int, name: str, path: bytes, depth: int) -> Iterator[Sight]:
        self._pace()
        try:
            directory = open_entry(folder, name)
        except FileNotFoundError:
            return
        except OSError as error:
            yield self._unseen(path, error)
            return
        with Owned(directory):
            if not stat.S_ISDIR(look_at(directory).mode):
                return  # obstructed: there is no directory
            if depth == 0:
                yield self._unseen(path, f"deeper than {MOST_DEPTH} directories")
                return
            try:
                sockets, directories = self._list(directory)
            except OSError as error:
                if path == self._path and error.errno == errno.EACCES:
                    yield from self._claimed(directory)
                    return
                yield self._unseen(path, error)
                return
            for each in sorted(sockets):
                yield from self._socket(directory, each, path + b"/" + os.fsencode(each))
            for each in sorted(directories) if self._left >= 0 else ():
                below = path + b"/" + os.fsencode(each)
                yield from self._directory(directory, each, below, depth - 1)
            if self._left < 0 and path == self._path:
                yield self._unseen(path, f"there are more than {MOST_ENTRIES} entries")

    def _list(self, directory: int) -> tuple[list[str], list[str]]:
        """Name what may be sockets, and the directories."""
        sockets, directories = [], []
        with Owned(open_list(directory)) as listing, os.scandir(listing) as entries:
            for entry in entries:
                self._pace()
                self._left -= 1
                if self._left < 0:
                    break
                # By the type that the list gives: nothing is asked of the entry itself.
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
                elif not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
                    sockets.append(entry.name)
        return sockets, directories

    def _socket(self, directory: int, name: str, path: bytes) -> Iterator[Sight]:
        self._pace()
        try:
            with Owned(open_entry(directory, name)) as descriptor:
                status = look_at(descriptor)
        except FileNotFoundError:
            return
        except OSError as error:
            yield self._unseen(path, error)
            return
        if stat.S_ISSOCK(status.mode):
            yield self._file(path, status)

    def _claimed(self, directory: int) -> Iterator[Sight]:
        """Try the names that are claimed in a directory that may not be listed."""
        entered = True
        for below in sorted(self._claims.of(self._app).get(self._uid, ())):
            self._pace()
            try:
                status = _look_below(directory, below.split(b"/"))
            except PermissionError:
                entered = False
                break
            except (OSError, ValueError):
                continue  # nobody's, or on another mount of the same name
            if stat.S_ISSOCK(status.mode):
                yield self._file(self._path + b"/" + below, status)
        yield self._unseen(self._path, _NOT_LISTED if entered else "may not be looked into")

    def _file(self, path: bytes, status: Status) -> SocketFile:
        return SocketFile(
            app=self._app,
            uid=self._uid,
            path=path,
            mode=stat.S_IMODE(status.mode),
            owner=status.uid,
            inode=status.inode,
            file=BoundFile(status.device, status.inode & 0xFFFFFFFF),
        )

    def _unseen(self, path: bytes, why: OSError | str) -> Unseen:
        if isinstance(why, str):
            reason = why
        elif why.errno == errno.EXDEV:
            reason = MOUNTED
        elif why.errno == errno.EACCES:
            reason = "may not be looked into"
        else:
            reason = f"cannot be looked into: {os.strerror(why.errno or 0)}"
        return Unseen(app=self._app, uid=self._uid, path=path, reason=reason)


def _look_below(folder: int, components: list[bytes]) -> Status:
    """Look at what is below a folder, without links and mounts; OSError, or ValueError for `..`."""
    name, *rest = components
    with Owned(open_entry(folder, os.fsdecode(name))) as descriptor:
        return _look_below(descriptor, rest) if rest else look_at(descriptor)


def _is_marked(folder: int) -> bool | None:
    """Tell whether the folder has the broker's marker; None if one may not know."""
    try:
        with Owned(open_entry(folder, MARKER)) as marker:
            return look_at(marker).uid == 0
    except PermissionError:
        return None
    except OSError:
        return False
