"""A runtime directory as it was when it was seen to be right, to be recognised in two short calls.

Opening a directory to look at its mode, owner, group, ACLs and mounts takes six calls; that nothing
of it has changed shows in one.  All that could change sets the time of its last change (ctime:
chmod(2), chown(2), setxattr(2), rename(2)), another directory has another inode, and a mount on it
is another file system.  Neither call asks a file server (AT_STATX_DONT_SYNC).
"""

import stat
import time
from typing import Final

from sockbroker.kernel.app_folder import Folder
from sockbroker.kernel.directories import Parent
from sockbroker.kernel.syscalls import (
    AT_EMPTY_PATH,
    AT_NO_AUTOMOUNT,
    AT_STATX_DONT_SYNC,
    AT_SYMLINK_NOFOLLOW,
    OWNER_AND_MODE,
    Status,
    pack_owner_and_mode,
    raw_statx,
)

_BY_NAME: Final = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC
_BY_DESCRIPTOR: Final = AT_EMPTY_PATH | AT_STATX_DONT_SYNC

_SECONDS_TO_SETTLE: Final = 2
"""The clock of ctime may stand still for 10 ms (a tick of the kernel), and a change within them
shows in nothing; after so many whole seconds each one does."""


class Snapshot:
    """The state of `/run/<app>/<uid>` and of `/run/<app>` at one moment."""

    __slots__ = ("_base", "_folder", "_name", "_parent", "_seen")

    def __init__(self, base: int, folder: Folder, parent: Parent, uid: int) -> None:
        """Look at the directory; `base` and `folder` stay the caller's to close."""
        self._base = base
        self._folder = folder
        self._parent = pack_owner_and_mode(0, parent.gid, stat.S_IFDIR | parent.mode)
        self._name = f"{folder.app}/{uid}".encode()
        self._seen = raw_statx(self._name, base, _BY_NAME)

    @property
    def settled(self) -> bool:
        """Whether a later change is sure to show."""
        if not self._seen:
            return False
        return time.time() >= Status.of(self._seen).changed + _SECONDS_TO_SETTLE

    def holds(self) -> bool:
        """Tell whether the directory is as it was, and its folder as the policy wants it.

        Only where it has `settled`: one that is not there is as it was, too.
        """
        return (
            raw_statx(self._name, self._base, _BY_NAME) == self._seen
            and raw_statx(b"", self._folder.fileno(), _BY_DESCRIPTOR)[OWNER_AND_MODE]
            == self._parent
        )
