"""How the runtime directories of a folder are and whether they are used, in as few calls as can be.

Tells of each what `Folder.look` and `usage_of` tell, and asks these wherever something is unusual.
The usual directory is empty and has not changed since the last pass over the folder: one look at
its name says so.  Any other is looked at by one descriptor.  It is opened by name with O_PATH,
which waits for nobody; its first look, which asks no file server either, says whether something is
mounted on it, and then nothing more is asked.
"""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from sockbroker.kernel.app_folder import Entry, Folder
from sockbroker.kernel.entries import BY_DESCRIPTOR, BY_NAME, has_acl
from sockbroker.kernel.last_pass import LastPass
from sockbroker.kernel.syscalls import (
    STATX_ATTR_MOUNT_ROOT,
    TMPFS_MAGIC,
    file_system_type,
    glance_at,
    glancer,
    raw_statx,
)
from sockbroker.kernel.usage import UNKNOWN, UNUSED, Tables, Usage, look_into, usage_of

_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_EMPTY: Final = 40
"""Bytes of a directory of tmpfs without entries; each adds 20 (BOGO_DIRENT_SIZE, mm/shmem.c)."""


class Sight(NamedTuple):
    """How a directory is, as `Entry` has it, and its use; of one that is obstructed see there."""

    mode: int
    gid: int
    acl: bool
    obstruction: str | None
    usage: Usage

    def entry(self) -> Entry:
        """Give what `Folder.state` judges."""
        return Entry(self.mode, self.gid, self.acl, self.obstruction)


class Survey:
    """Looks at the directories of a folder, which stays open meanwhile."""

    def __init__(self, folder: Folder, tables: Tables | None) -> None:
        """Judge the use by these tables; without any it is unknown."""
        self._folder = folder
        self._descriptor = folder.fileno()
        self._tables = tables
        self._glance = glancer(self._descriptor, BY_NAME)
        self._rules_out_acls = LastPass(self._descriptor).rules_out_acls
        # What size says that nobody uses it; None where none does.
        told = tables is not None and _shows_emptiness(self._descriptor)
        self._empty = _EMPTY if told else None

    def look(self, uid: int) -> Sight | None:
        """Tell how the directory of `uid` is; None if nothing has its name."""
        seen = self._glance(b"%d" % uid)
        if seen:
            attributes, owner, gid, mode, size, known, *changed = seen
            if (
                size == self._empty
                and known & ~attributes & STATX_ATTR_MOUNT_ROOT
                and owner == uid
                and stat.S_ISDIR(mode)
                and self._rules_out_acls(*changed)
            ):
                return Sight(stat.S_IMODE(mode), gid, False, None, UNUSED)
        try:
            descriptor = os.open(str(uid), _LOOK, dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        except OSError:
            return self._look_closely(uid)
        try:
            raw = raw_statx(b"", descriptor, BY_DESCRIPTOR)
            if raw:
                found = glance_at(raw)
                mountless = found.known_attributes & ~found.attributes & STATX_ATTR_MOUNT_ROOT
                if mountless and found.uid == uid and stat.S_ISDIR(found.mode):
                    usage = UNUSED if found.size == self._empty else self._usage(descriptor, uid)
                    mode = stat.S_IMODE(found.mode)
                    return Sight(mode, found.gid, has_acl(descriptor), None, usage)
        finally:
            os.close(descriptor)
        return self._look_closely(uid)

    def _look_closely(self, uid: int) -> Sight | None:
        entry = self._folder.look(uid)
        if entry is None:
            return None
        usage = usage_of(self._descriptor, str(uid), uid, self._tables)
        return Sight(*entry, usage)

    def _usage(self, directory: int, uid: int) -> Usage:
        if self._tables is None:
            return UNKNOWN
        try:
            return look_into(directory, uid, self._tables)
        except OSError:
            return UNKNOWN


def _shows_emptiness(folder: int) -> bool:
    """Tell whether the size of a directory in the folder says that nothing is in it.

    The folder, which is on the same file system and has at least the marker in it, has to bear out
    that an entry shows in the size.
    """
    raw = raw_statx(b"", folder, BY_DESCRIPTOR)
    shows = bool(raw) and glance_at(raw).size > _EMPTY
    return shows and file_system_type(folder) == TMPFS_MAGIC
