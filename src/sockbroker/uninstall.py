"""Takes the broker's directories off the disk, for who uninstalls it.

By the broker's own remover, because a plain recursive deletion would cross mounts.  What somebody
uses is kept and named, unless it is to go all the same.
"""

from __future__ import annotations

import sys

from sockbroker.core.escaping import escape
from sockbroker.kernel.app_folder import Folder
from sockbroker.kernel.directories import Base, BaseLocked
from sockbroker.kernel.obstacles import NoSuchDirectory, Obstructed
from sockbroker.kernel.removal import Parked, remove
from sockbroker.kernel.root_path import DirectoryError
from sockbroker.kernel.usage import Tables, read_tables, usage_of


def remove_directories(base_path: str, *, force: bool) -> int:
    """Remove all runtime directories and then the empty app folders; print what is kept, and why.

    Returns 0 if nothing is left, 1 if something is, or if a broker still runs.
    """
    try:
        with Base.open(base_path) as base:
            base.lock()
            kept = _clear(base, force=force)
    except (BaseLocked, DirectoryError, OSError) as error:
        print(f"sockbrokerd: {error}", file=sys.stderr)
        return 1
    for line in kept:
        print(line)
    return 1 if kept else 0


def _clear(base: Base, *, force: bool) -> list[str]:
    kept: list[str] = []
    tables = read_tables()
    for name in base.sweep():
        kept.append(f"{base.path}/{escape(name)}: kept: it cannot be removed")
    for app in sorted(base.scan()):
        try:
            folder = base.find(app)
            if folder is None:
                continue
            with folder:
                for uid in sorted(folder.uids()):
                    reason = _clear_one(folder, uid, tables, force=force)
                    if reason is not None:
                        kept.append(f"{folder.path}/{uid}: kept: {reason}")
                for name in folder.sweep(folder.names()):
                    result = remove(folder.fileno(), name, stop=lambda: False)
                    if isinstance(result, Parked):
                        kept.append(f"{folder.path}/{escape(name)}: kept: {result.reason}")
            if not base.retire(app):
                kept.append(f"{base.path}/{app}: kept: something is left in it")
        except (Obstructed, OSError) as error:
            kept.append(f"{base.path}/{app}: kept: {error}")
    return kept


def _clear_one(folder: Folder, uid: int, tables: Tables, *, force: bool) -> str | None:
    """Move a directory aside, to be deleted, or say why it is kept."""
    if not force:
        found = usage_of(folder.fileno(), str(uid), uid, tables)
        if found.in_use is None:
            return "whether it is in use cannot be told; --force removes it all the same"
        if found.in_use:
            return "in use; --force removes it all the same"
    try:
        folder.move_aside(uid)
    except NoSuchDirectory:
        return None
    except Obstructed as obstructed:
        return obstructed.reason
    return None
