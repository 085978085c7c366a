"""Deletes a runtime directory that was moved aside, with all that is in it.

Its owner may have made it as large, as deep and as strange as he likes, may have it open and may
be filling it this moment.  So each directory on the way is taken over first (owner root, mode
0700: from then on he can change nothing in it, whatever he has open), then what can be unlinked is
unlinked, and each subdirectory that is not empty is carried up to the top, where its turn comes.
Depth costs nothing then, neither stack nor descriptors.

Nothing but directories is opened, nothing is followed and no mount is crossed: unlink(2) and
rmdir(2) do not open, and taking over refuses mounts.  Only directories are ever given another
owner or mode, because they cannot have a second, innocent name as files can.  CAP_CHOWN is all that
it takes.  Killed at any point, a second run goes on where the first one was.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sockbroker.kernel.entries import (
    Owned,
    look_at,
    not_a_directory,
    open_entry,
    open_list,
    set_mode,
    set_owner,
)
from sockbroker.kernel.syscalls import RENAME_NOREPLACE, renameat2

_MOUNTED: Final = frozenset({errno.EBUSY, errno.EXDEV})
_TAKEN_OVER: Final = 0o40700  # S_IFDIR, and rwx for its owner, root


@dataclass(frozen=True, slots=True)
class Removed:
    """Nothing is left."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """`stop` said so; what is left is where it was, for another call."""


@dataclass(frozen=True, slots=True)
class Parked:
    """Something is left; what could be deleted is gone, and the rest can be tried again later.

    The reason quotes no name of what is left: such names are the owner's words.
    """

    reason: str


class _StopAsked(Exception):
    """The caller wants no more."""


def remove(folder_fd: int, name: str, *, stop: Callable[[], bool]) -> Removed | Parked | Stopped:
    """Delete `name`, a directory in the root-owned folder that `folder_fd` refers to.

    Asks `stop` before each entry, of which it must allow a few for a call to get on.  What is gone
    already is Removed.  For a thread of its own: one unlink of a file of some GiB takes long.
    Uses seven descriptors at most and keeps none.
    """
    try:
        with Owned(_take_over(folder_fd, name)) as top:
            removal = _Removal(top, stop)
            removal.run()
    except FileNotFoundError:
        return Removed()
    except _StopAsked:
        return Stopped()
    except OSError as error:
        return Parked(_reason(error))
    try:
        os.rmdir(name, dir_fd=folder_fd)
    except FileNotFoundError:
        return Removed()
    except OSError as error:
        return Parked(removal.reason or _reason(error))
    return Removed()


class _Removal:
    """The deletion of what is in one directory, `top`, whose descriptor stays the caller's.

    What is carried up gets numbered names, so that a million directories need no list of them, and
    a random prefix, so that the owner cannot have taken the names.
    """

    def __init__(self, top: int, stop: Callable[[], bool]) -> None:
        self._top = top
        self._stop = stop
        self._prefix = f"{os.urandom(16).hex()}-"
        self._carried = 0  # how many were carried up
        self._served = 0  # and how many of these had their turn
        self.reason = ""  # of the first thing that could not be deleted

    def run(self) -> None:
        """Empty the directory as far as it can be emptied."""
        while self._pass(self._top, self._delete):
            while self._served < self._carried:
                self._served += 1
                self._delete(self._top, f"{self._prefix}{self._served}")

    def _pass(self, directory: int, delete: Callable[[int, str], bool]) -> bool:
        """Try each entry; tell whether anything changed.

        A list that is read while its entries go may leave some out, hence passes until one changes
        nothing.  What was carried up is left out: `run` gives each of them one turn.
        """
        changed = False
        with Owned(open_list(directory)) as listing, os.scandir(listing) as entries:
            for entry in entries:
                if not entry.name.startswith(self._prefix):
                    changed |= delete(directory, entry.name)
        return changed

    def _delete(self, directory: int, name: str) -> bool:
        """Delete an entry of the top, carrying up what is in it; tell whether anything changed."""
        if self._delete_leaf(directory, name):
            return True
        changed = False
        try:
            with Owned(_take_over(directory, name)) as below:
                while True:
                    again = self._pass(below, self._delete_or_carry)
                    if _rmdir(directory, name):
                        return True
                    if not again:
                        return changed  # what is left in it cannot be deleted
                    changed = True
        except OSError as error:
            self._note(error)
        return changed

    def _delete_or_carry(self, directory: int, name: str) -> bool:
        """Delete an entry, or carry it up; tell whether it is gone from here."""
        if self._delete_leaf(directory, name):
            return True
        up = f"{self._prefix}{self._carried + 1}"
        try:
            # To give a directory another parent one must be able to write to it.
            with Owned(_take_over(directory, name)):
                renameat2(
                    name,
                    up,
                    old_dir_fd=directory,
                    new_dir_fd=self._top,
                    flags=RENAME_NOREPLACE,
                )
        except OSError as error:
            self._note(error)
            return False
        self._carried += 1
        return True

    def _delete_leaf(self, directory: int, name: str) -> bool:
        """Delete anything but a directory with something in it; tell whether it is gone.

        Its type is not asked for: that could be out of date, and costs a call for each.
        """
        if self._stop():
            raise _StopAsked
        try:
            try:
                os.unlink(name, dir_fd=directory)
            except IsADirectoryError:
                return _rmdir(directory, name)
        except FileNotFoundError:
            return True
        except OSError as error:
            self._note(error)
            return False
        return True

    def _note(self, error: OSError) -> None:
        # ENOENT: another run of the same deletion was faster.
        if not self.reason and error.errno != errno.ENOENT:
            self.reason = _reason(error)


def _take_over(folder: int, name: str) -> int:
    """Make a directory root's alone; return an O_PATH descriptor, which the caller closes.

    Owner before mode: the other way round he could widen it again.  An ACL gives nobody anything
    while the group bits, its mask, are off.
    """
    descriptor = open_entry(folder, name)
    try:
        status = look_at(descriptor)
        reason = not_a_directory(status)
        if reason is not None:
            raise OSError(errno.ENOTDIR, reason)
        if (status.uid, status.mode) != (0, _TAKEN_OVER):
            set_owner(descriptor, 0, 0)
            set_mode(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _rmdir(folder: int, name: str) -> bool:
    """Remove a directory if it is empty; tell whether it was."""
    try:
        os.rmdir(name, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    return True


def _reason(error: OSError) -> str:
    if error.errno in _MOUNTED:
        return "something is mounted on or in it"
    return error.strerror or "unknown error"
