"""The app folders of the policy in force, kept open between requests.

A folder is looked at again each time it is asked for: an administrator may have moved or changed
it, and the disk is the record.  The loop's thread is the only one that uses this.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from functools import lru_cache
from itertools import islice

from sockbroker.core.policy import App
from sockbroker.kernel.app_folder import Folder, Parent
from sockbroker.kernel.directories import Base
from sockbroker.kernel.filling import fill
from sockbroker.kernel.snapshot import Snapshot

MOST_OPEN = 1024
"""Descriptors of folders; a policy may have tens of thousands of apps."""


class Folders:
    """Opens app folders, and owns their descriptors."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._open: dict[str, Folder] = {}

    def of(self, app: App) -> Folder:
        """Return the folder of an app as the policy wants it, made or repaired if need be.

        It stays ours to close.  Raises Obstructed, and OSError as the kernel gives it.
        """
        folder = self._open.get(app.name)
        if folder is not None:
            if self.base.holds(folder, _parent(app)):
                return folder
            self._close(app.name)
        folder = self.fresh(app)
        if len(self._open) >= MOST_OPEN:
            self._close(next(iter(self._open)))
        self._open[app.name] = folder
        return folder

    def fresh(self, app: App) -> Folder:
        """Return the same, opened anew, for the caller to close: what lasts may outlive ours."""
        return self.base.folder(app.name, _parent(app), adopt=app.adopt)

    def fill(self, app: App) -> Iterator[int]:
        """Make the folder of an app that has none, with what is wanted at boot: see `filling`."""
        return fill(
            self.base.fileno(),
            app.name,
            parent=_parent(app),
            mode=app.mode,
            directories=islice(app.at_boot, app.max_directories),
        )

    def snapshot(self, app: App, folder: Folder, uid: int) -> Snapshot:
        """Remember how the directory of a uid is now; good as long as the policy is."""
        return Snapshot(self.base.fileno(), folder, _parent(app), uid)

    def keep(self, apps: Container[str]) -> None:
        """Close the folders of apps that are none any more."""
        for name in [name for name in self._open if name not in apps]:
            self._close(name)

    def close(self) -> None:
        for name in list(self._open):
            self._close(name)

    def _close(self, name: str) -> None:
        self._open.pop(name).close()


def _parent(app: App) -> Parent:
    return _wanted(app.parent_mode, app.parent_gid)


_wanted = lru_cache(Parent)
"""It is asked for at nearly every request, and nearly all are alike."""
