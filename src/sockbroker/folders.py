"""The app folders of the policy in force, kept open between requests.

A folder is looked at again each time it is asked for: an administrator may have moved or changed
it, and the disk is the record.  The loop's thread is the only one that uses this.
"""

from __future__ import annotations

from sockbroker.core.policy import App
from sockbroker.kernel.directories import Base, Folder, Parent


class Folders:
    """Opens app folders, and owns their descriptors."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._open: dict[str, Folder] = {}

    def of(self, app: App) -> Folder:
        """Return the folder of an app as the policy wants it, made or repaired if need be.

        It stays ours to close.  Raises Obstructed, and OSError as the kernel gives it.
        """
        wanted = Parent(mode=app.parent_mode, gid=app.parent_gid)
        folder = self._open.get(app.name)
        if folder is not None:
            if self.base.holds(folder, wanted):
                return folder
            del self._open[app.name]
            folder.close()
        folder = self.base.folder(app.name, wanted, adopt=app.adopt)
        self._open[app.name] = folder
        return folder

    def close(self) -> None:
        for folder in self._open.values():
            folder.close()
        self._open.clear()
