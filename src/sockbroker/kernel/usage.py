"""Whether somebody uses a runtime directory: a live socket bound in it, or its owner's mark.

The kernel's tables say what is bound and what is locked, by device and inode; here they are held
against what is in the directory.  The mark is a flock(2) on `.sockbroker.lock`, a file that only
the owner can open; it is read from /proc/locks (proc(5)) and never opened.  Looking in takes
CAP_DAC_READ_SEARCH.  What cannot be told is None, never "no".
"""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from sockbroker.kernel.entries import Owned, look_at, open_entry, open_list
from sockbroker.kernel.lock_file import MARK
from sockbroker.kernel.unix_sockets import BoundFile, bound_files

MOST_ENTRIES: Final = 4096
"""Of the directory that are read: its owner decides how many there are."""

MOST_SOCKETS: Final = 256
"""Of them that are opened, which takes ten times as long: 4 ms in all."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Tables(NamedTuple):
    """The kernel's tables at one moment."""

    bound: frozenset[BoundFile]
    locked: frozenset[BoundFile]


class Usage(NamedTuple):
    """What is known of one directory; `sockets` counts the live ones bound directly in it."""

    in_use: bool | None
    sockets: int | None


UNKNOWN: Final = Usage(in_use=None, sockets=None)
UNUSED: Final = Usage(in_use=False, sockets=0)


def read_tables() -> Tables:
    """Read both tables; OSError if the kernel does not show them.  May take long: for a worker."""
    with open("/proc/locks", encoding="ascii", errors="replace") as locks:
        locked = frozenset(filter(None, map(_locked_file, locks)))
    return Tables(bound=bound_files(), locked=locked)


def _locked_file(line: str) -> BoundFile | None:
    """Read one line of proc(5)'s locks: `1: FLOCK  ADVISORY  READ 1234 00:2f:56 0 EOF`."""
    fields = line.split()
    if len(fields) < 6 or fields[1] != "FLOCK":  # `->` is one that waits for a lock
        return None
    place = fields[5].split(":")
    if len(place) != 3:  # `<none>:0`, of a file that is being closed
        return None
    major, minor, inode = place
    return BoundFile(os.makedev(int(major, 16), int(minor, 16)), int(inode) & 0xFFFFFFFF)


def usage_of(folder: int, name: str, uid: int, tables: Tables | None) -> Usage:
    """Tell whether the directory `name` in `folder`, of the user `uid`, is used.

    Unknown without tables, and where it cannot be looked into.  A socket file that nothing here has
    bound may be a dead server's, or be bound in another network namespace; and what lies in a
    subdirectory is not looked at: both make it unknown, unless something else shows that it is
    used.
    """
    if tables is None:
        return UNKNOWN
    try:
        with Owned(open_entry(folder, name)) as directory:
            return look_into(directory, uid, tables)
    except OSError:
        return UNKNOWN


def look_into(directory: int, uid: int, tables: Tables) -> Usage:
    """Do as `usage_of` does with a directory of `uid` that a descriptor refers to; OSError."""
    live = unclear = opened = 0
    marked = False
    with Owned(open_list(directory)) as listing, os.scandir(listing) as entries:
        for number, entry in enumerate(entries):
            if number >= MOST_ENTRIES or opened >= MOST_SOCKETS:
                return Usage(in_use=True if live or marked else None, sockets=None)
            # By the type that the list gives: nothing is asked of the entry itself.
            if entry.is_dir(follow_symlinks=False):
                unclear += 1
            elif entry.name == MARK:
                marked = _is_marked(directory, uid, tables)
            elif not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
                bound = _is_bound(directory, entry.name, tables)
                opened += 1
                live += bound is True
                unclear += bound is None
    in_use = True if live or marked else None if unclear else False
    return Usage(in_use=in_use, sockets=live if in_use is not None else None)


def _is_bound(directory: int, name: str, tables: Tables) -> bool | None:
    """Tell whether a live socket is bound to the entry; None if nothing here has bound it."""
    try:
        with Owned(open_entry(directory, name)) as descriptor:
            status = look_at(descriptor)
    except FileNotFoundError:
        return False
    except OSError:
        return None  # something is mounted on it
    if not stat.S_ISSOCK(status.mode):
        return False
    return True if _file(status.device, status.inode) in tables.bound else None


def _is_marked(directory: int, uid: int, tables: Tables) -> bool:
    try:
        with Owned(open_entry(directory, MARK)) as descriptor:
            status = look_at(descriptor)
    except OSError:
        return False
    # Only a lock that only the owner can take counts: anybody who can open a file can lock it.
    own = stat.S_ISREG(status.mode) and status.uid == uid and not status.mode & _OTHERS
    return own and _file(status.device, status.inode) in tables.locked


def _file(device: int, inode: int) -> BoundFile:
    return BoundFile(device, inode & 0xFFFFFFFF)
