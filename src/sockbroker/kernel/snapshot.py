"""A runtime directory as it was when it was seen to be right, to be recognised in two short calls.

Opening a directory to look at its mode, owner, group, ACLs and mounts takes six calls; that nothing
of it has changed shows in one.  All that could change sets the time of its last change (see
`change_time`), another directory has another inode, and a mount on it has another number and is a
root.  Neither call asks a file server (AT_STATX_DONT_SYNC).
"""

from sockbroker.kernel.app_folder import Folder, Parent
from sockbroker.kernel.change_time import change_time
from sockbroker.kernel.entries import BY_DESCRIPTOR, BY_NAME
from sockbroker.kernel.syscalls import (
    OWNER_AND_MODE,
    Status,
    kept_raw_statx,
)

_statx = kept_raw_statx()
"""Snapshots belong to one thread, which answers the peers."""


class Snapshot:
    """The state of `/run/<app>/<uid>` and of `/run/<app>` at one moment."""

    __slots__ = ("_base", "_folder", "_name", "_parent", "_seen", "_taken")

    def __init__(self, base: int, folder: Folder, parent: Parent, uid: int) -> None:
        """Look at the directory; `base` and `folder` stay the caller's to close."""
        self._base = base
        self._folder = folder
        self._parent = parent.packed
        self._name = f"{folder.app}/{uid}".encode()
        self._taken = change_time()
        self._seen = _statx(self._name, base, BY_NAME) or None  # like nothing, if not there

    @property
    def settled(self) -> bool:
        """Whether a later change is sure to show: not one in the same tick as the last."""
        return self._seen is not None and Status.of(self._seen).changed_at < self._taken

    def holds(self) -> bool:
        """Tell whether the directory is as it was, and its folder as the policy wants it."""
        return (
            _statx(self._name, self._base, BY_NAME) == self._seen
            # -1 once the folder was closed, and then nothing is as it was.
            and _statx(b"", self._folder.fileno(), BY_DESCRIPTOR)[OWNER_AND_MODE] == self._parent
        )
