"""The base (`/run`) and the app folders in it: found, made, repaired, swept and locked.

A `Base` gives out `Folder`s, which make and repair the runtime directories (module `app_folder`,
whose names are also found here).  Only at a start, `filling` makes both at once.  The base
belongs to the whole system, and most of what is in it is not the broker's.  What is, carries a
root-owned entry `.sockbroker`; what does not is never changed, unless the policy adopts it.

Names in the base: `<app>`, `.sockbroker.lock`, `.sockbroker-new-<app>` (being made) and
`.sockbroker-old-<app>` (being removed).
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from sockbroker.core.names import is_app_name
from sockbroker.kernel.app_folder import (
    MARKER,
    MOUNTED,
    NOBODY,
    Entry,
    Folder,
    Outcome,
    Parent,
    State,
    Wanted,
)
from sockbroker.kernel.entries import (
    BY_NAME,
    Owned,
    bring,
    has_acl,
    look_at,
    not_a_directory,
    open_entry,
    open_list,
    remove_acls,
    set_mode,
    set_owner,
)
from sockbroker.kernel.filling import STAGED_FOLDER, dismantle
from sockbroker.kernel.obstacles import LimitReached, NoSuchDirectory, Obstructed
from sockbroker.kernel.root_path import DirectoryError, open_root_path
from sockbroker.kernel.syscalls import (
    OWNER_AND_MODE,
    RENAME_NOREPLACE,
    Status,
    identity,
    kept_raw_statx,
    renameat2,
)

__all__ = [
    "MARKER",
    "NOBODY",
    "Base",
    "BaseLocked",
    "DirectoryError",
    "Entry",
    "Folder",
    "LimitReached",
    "NoSuchDirectory",
    "Obstructed",
    "Outcome",
    "Parent",
    "State",
    "Wanted",
]

_LOCK: Final = ".sockbroker.lock"
_OLD: Final = ".sockbroker-old-"
_NOT_OURS: Final = frozenset({errno.ENOENT, errno.EXDEV})  # gone, or a mount
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class BaseLocked(Exception):
    """Another broker serves this base."""


class Base:
    """The directory that the app folders are in; owns an O_PATH descriptor, and the lock."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._lock = -1
        self._statx = kept_raw_statx()
        self.path = path

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the base; DirectoryError unless root alone decides what is at this path."""
        return cls(open_root_path(path), "/" + path.strip("/"))

    def fileno(self) -> int:
        """Return the O_PATH descriptor of the base, which stays this object's."""
        return self._descriptor

    def close(self) -> None:
        """Close the descriptor and give up the lock; a second time does nothing."""
        for descriptor in (self._descriptor, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def lock(self) -> None:
        """Keep other brokers out until `close` or the end of the process; BaseLocked if one is in.

        The lock file is root's alone: who can open a file for reading can hold its lock.
        """
        path = f"{self.path}/{_LOCK}"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(_LOCK, flags, 0o600, dir_fd=self._descriptor)
        except OSError as error:
            if error.errno not in {errno.EISDIR, errno.ELOOP, errno.ENXIO}:
                raise OSError(error.errno, error.strerror, path) from error
            raise DirectoryError(f"{path}: {error.strerror}; remove it") from error
        with ExitStack() as stack:
            stack.callback(os.close, descriptor)
            status = look_at(descriptor)
            if not stat.S_ISREG(status.mode) or status.uid != 0 or status.mode & _OTHERS:
                raise DirectoryError(
                    f"{path}: not a file of root that only root can open; remove it"
                )
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BaseLocked(f"{path}: another broker serves {self.path}") from None
            os.fchmod(descriptor, 0o600)  # whatever the umask had left of it
            stack.pop_all()
        self._lock = descriptor

    def folder(self, app: str, wanted: Parent, *, adopt: bool) -> Folder:
        """Make the app's folder, or bring it to what is wanted; the caller closes it.

        Obstructed if what is there is not the broker's (and not to be adopted), or not safe.
        """
        _check_app(app)
        for _ in range(3):  # look, make, look; once more if somebody else makes and removes it
            folder = self._existing(app, wanted, adopt=adopt)
            if folder is not None:
                return folder
            self._create(app, wanted)
        raise Obstructed(self._path_of(app), "appears and vanishes while it is looked at")

    def holds(self, folder: Folder, wanted: Parent) -> bool:
        """Tell whether a folder that was kept open is still what is at its name, and as wanted.

        One call, made for each request, in one thread.  ACLs are not looked at: only root can have
        given it one, one that lets others write shows in the group bits, and what is made in it
        gets none.
        """
        raw = self._statx(folder.app.encode(), self._descriptor, BY_NAME)
        return identity(raw) == folder.identity and raw[OWNER_AND_MODE] == wanted.packed

    def find(self, app: str) -> Folder | None:
        """Open the app's folder as it is; the caller closes it.

        None if nothing there carries the marker; Obstructed if something does and is not safe.
        """
        _check_app(app)
        try:
            descriptor = open_entry(self._descriptor, app)
        except OSError as error:
            if error.errno in _NOT_OURS:
                return None
            raise
        with ExitStack() as stack:
            stack.callback(os.close, descriptor)
            status = look_at(descriptor)
            if not stat.S_ISDIR(status.mode) or _marker(descriptor) is not True:
                return None
            reason = _unsafe(descriptor, status)
            if reason is not None:
                raise Obstructed(self._path_of(app), reason)
            stack.pop_all()
        return Folder(descriptor, self._path_of(app), app)

    def scan(self) -> Iterator[str]:
        """Yield what is spelled like an app and carries the marker.

        An entry that cannot be looked at hides no other: its OSError comes after all of them.
        """
        fault = None
        for name in filter(is_app_name, self._names()):
            try:
                with Owned(open_entry(self._descriptor, name)) as descriptor:
                    is_directory = stat.S_ISDIR(look_at(descriptor).mode)
                    marked = is_directory and _marker(descriptor) is True
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    fault = fault or error
                continue
            if marked:
                yield name
        if fault is not None:
            raise fault

    def sweep(self) -> list[str]:
        """Remove what a killed run left half made or half removed; name what could not be."""
        left = []
        for name in list(self._names()):
            if name.startswith((STAGED_FOLDER, _OLD)):
                try:
                    dismantle(self._descriptor, name)
                except OSError:
                    left.append(name)
        return left

    def retire(self, app: str) -> bool:
        """Remove the app's folder if it holds nothing but the marker; tell whether it did.

        It goes under another name first: a kill leaves no folder without its marker behind.
        """
        folder = self.find(app)
        if folder is None:
            return False
        with folder:
            if not _empty(folder.fileno()):
                return False
            self._discard(_OLD + app)
            self._rename(app, _OLD + app)
            if not _empty(folder.fileno()):  # an administrator was quicker
                self._rename(_OLD + app, app)
                return False
        dismantle(self._descriptor, _OLD + app)
        return True

    def _existing(self, app: str, wanted: Parent, *, adopt: bool) -> Folder | None:
        path = self._path_of(app)
        try:
            descriptor = open_entry(self._descriptor, app)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise Obstructed(path, MOUNTED) from None
            raise
        with ExitStack() as stack:
            stack.callback(os.close, descriptor)
            status = look_at(descriptor)
            # What others could write to is refused, not repaired: they may have put anything in.
            reason = _unsafe(descriptor, status)
            if reason is not None:
                raise Obstructed(path, reason)
            marker = _marker(descriptor)
            if marker is False:
                raise Obstructed(path, f"its {MARKER} is not a directory of root's alone")
            if marker is None and not adopt:
                raise Obstructed(
                    path, f"not made by the broker (no {MARKER} in it), and no `adopt: true`"
                )
            if marker is None:
                os.mkdir(MARKER, 0o700, dir_fd=descriptor)
            _bring_folder(descriptor, path, status, wanted)
            stack.pop_all()
        return Folder(descriptor, path, app)

    def _create(self, app: str, wanted: Parent) -> None:
        """Make the folder under another name, complete, then give it its own if that is free."""
        staged = STAGED_FOLDER + app
        self._discard(staged)
        os.mkdir(staged, 0o700, dir_fd=self._descriptor)
        try:
            with Owned(open_entry(self._descriptor, staged)) as directory:
                set_mode(directory, 0o700)
                remove_acls(directory)  # inherited, where the base has a default ACL
                os.mkdir(MARKER, 0o700, dir_fd=directory)
                with Owned(open_entry(directory, MARKER)) as marker:
                    set_mode(marker, 0o700)
                set_owner(directory, 0, wanted.gid)
                set_mode(directory, wanted.mode)
                _verify_folder(directory, self._path_of(app), wanted)
            self._rename(staged, app)
        except FileExistsError:
            self._discard(staged)
        except BaseException:
            self._discard(staged)
            raise

    def _discard(self, name: str) -> None:
        try:
            dismantle(self._descriptor, name)
        except FileNotFoundError:
            pass

    def _rename(self, old: str, new: str) -> None:
        base = self._descriptor
        renameat2(old, new, old_dir_fd=base, new_dir_fd=base, flags=RENAME_NOREPLACE)

    def _names(self) -> Iterator[str]:
        with Owned(open_list(self._descriptor)) as listing, os.scandir(listing) as entries:
            for entry in entries:
                yield entry.name

    def _path_of(self, app: str) -> str:
        return f"{self.path}/{app}"


def _check_app(app: str) -> None:
    if not is_app_name(app):
        raise ValueError(f"not the name of an app: {app!r}")


def _unsafe(directory: int, status: Status) -> str | None:
    """Say why a folder is none that root alone could have filled; None if it is."""
    reason = not_a_directory(status)
    if reason is not None:
        return reason
    if status.uid != 0:
        return f"belongs to uid {status.uid}, not to root"
    if status.mode & _OTHERS_WRITE:
        return f"others than root can write to it (mode {stat.S_IMODE(status.mode):04o})"
    if has_acl(directory):
        return "has an ACL"
    return None


def _marker(folder: int) -> bool | None:
    """Tell whether the folder's marker is right; None if it has none."""
    try:
        descriptor = open_entry(folder, MARKER)
    except FileNotFoundError:
        return None
    except OSError as error:
        # EACCES: it is somebody's, and whoever runs us lets us look into nobody's.
        if error.errno == errno.EXDEV or (error.errno == errno.EACCES and look_at(folder).uid):
            return False
        raise
    with Owned(descriptor):
        status = look_at(descriptor)
    return stat.S_ISDIR(status.mode) and status.uid == 0 and not status.mode & _OTHERS


def _bring_folder(directory: int, path: str, status: Status, wanted: Parent) -> None:
    mode = stat.S_IMODE(status.mode)
    if (mode, status.gid) == (wanted.mode, wanted.gid):
        return
    bring(
        directory,
        was_mode=mode,
        was_gid=status.gid,
        acl=False,
        mode=wanted.mode,
        gid=wanted.gid,
    )
    _verify_folder(directory, path, wanted)


def _verify_folder(directory: int, path: str, wanted: Parent) -> None:
    status = look_at(directory)
    mode = stat.S_IMODE(status.mode)
    if (status.uid, status.gid, mode) != (0, wanted.gid, wanted.mode) or has_acl(directory):
        raise Obstructed(
            path,
            f"came out as mode {mode:04o} and group {status.gid},"
            f" not {wanted.mode:04o} and {wanted.gid}",
        )


def _empty(folder: int) -> bool:
    with Owned(open_list(folder)) as listing, os.scandir(listing) as entries:
        return all(entry.name == MARKER for entry in entries)
