"""Makes an app's folder together with the directories that are to be in it from the beginning.

At a start on a fresh `/run` there is nothing yet, and everything is made at once: in a folder that
is not at its name yet and that nobody but root can reach.  There a directory needs neither a name
of its own while it is made, nor a descriptor, nor a rename, which takes as long as all the rest.
Then the folder gets its name, by one rename, with all that is in it.

    .sockbroker-new-<app>          root's, 0700: whatever is in it, nobody else gets there
    .sockbroker-new-<app>/folder   what becomes /run/<app>

A kill leaves nothing behind but empty directories, which `dismantle` removes.
"""

import os
import stat
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import Final

from sockbroker.kernel.app_folder import MARKER, Parent
from sockbroker.kernel.change_time import change_time, next_tick
from sockbroker.kernel.entries import (
    BY_NAME,
    Owned,
    open_entry,
    open_list,
    remove_acls,
    set_mode,
    set_owner,
)
from sockbroker.kernel.last_pass import LastPass
from sockbroker.kernel.syscalls import (
    OWNER_AND_MODE,
    RENAME_NOREPLACE,
    pack_owner_and_mode,
    raw_statx,
    renameat2,
)

STAGED_FOLDER: Final = ".sockbroker-new-"

_INNER: Final = "folder"
_PRIVATE: Final = 0o700
_BETWEEN_YIELDS: Final = 16

_WORTH_A_TICK: Final = 500
"""Directories that were made within a tick of the clock are looked at more closely the next time;
for so many of them that takes longer than to wait for the next tick now."""


def fill(
    base: int,
    app: str,
    *,
    parent: Parent,
    mode: int,
    directories: Iterable[tuple[int, int]],
) -> Generator[int, None, None]:
    """Make the folder of an app that is not there, with a directory for each (uid, gid).

    Yields how many are made, now and then, and at last how many there are.  That is 0 if something
    has the name already, and after any error: then nothing is left, and who makes one after the
    other meets it again and can say where it was.  The process umask must be 077.
    """
    if raw_statx(app.encode(), base, BY_NAME):
        yield 0
        return
    staged = STAGED_FOLDER + app
    made = 0
    try:
        with suppress(FileNotFoundError):
            dismantle(base, staged)
        os.mkdir(staged, _PRIVATE, dir_fd=base)
        with Owned(open_entry(base, staged)) as closed:
            set_mode(closed, _PRIVATE)
            remove_acls(closed)  # inherited, where the base has a default ACL; not further
            os.mkdir(_INNER, _PRIVATE, dir_fd=closed)
            with Owned(open_entry(closed, _INNER)) as folder:
                _make(folder, MARKER, 0, 0, _PRIVATE)
                for uid, gid in directories:
                    _make(folder, str(uid), uid, gid, mode)
                    made += 1
                    if made % _BETWEEN_YIELDS == 0:
                        yield made
                # Nobody has had any of them yet, so what has changed before this has no ACL.
                if made >= _WORTH_A_TICK:
                    next_tick()
                LastPass(folder).remember(change_time())
                set_owner(folder, 0, parent.gid)
                set_mode(folder, parent.mode)
            _verify(closed, _INNER, 0, parent.gid, parent.mode)
            renameat2(_INNER, app, old_dir_fd=closed, new_dir_fd=base, flags=RENAME_NOREPLACE)
    except OSError:
        made = 0
    with suppress(OSError):  # else the next start does it
        dismantle(base, staged)
    yield made


def dismantle(base: int, name: str) -> None:
    """Remove a folder that was to become an app's, or was one, if there is nothing of others in it.

    FileNotFoundError if there is none.
    """
    with Owned(open_entry(base, name)) as outer:
        if name.startswith(STAGED_FOLDER):
            with suppress(FileNotFoundError), Owned(open_entry(outer, _INNER)) as inner:
                with Owned(open_list(inner)) as listing:
                    names = os.listdir(listing)
                for each in names:
                    os.rmdir(each, dir_fd=inner)
                os.rmdir(_INNER, dir_fd=outer)
        with suppress(FileNotFoundError):
            os.rmdir(MARKER, dir_fd=outer)
    os.rmdir(name, dir_fd=base)


def _make(folder: int, name: str, uid: int, gid: int, mode: int) -> None:
    """Make a directory where nobody else can reach it, so that its name is sure to mean it."""
    os.mkdir(name, _PRIVATE, dir_fd=folder)
    if mode != _PRIVATE:
        os.chmod(name, mode, dir_fd=folder)
    os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
    _verify(folder, name, uid, gid, mode)


def _verify(folder: int, name: str, uid: int, gid: int, mode: int) -> None:
    wanted = pack_owner_and_mode(uid, gid, stat.S_IFDIR | mode)
    if raw_statx(name.encode(), folder, BY_NAME)[OWNER_AND_MODE] != wanted:
        raise OSError("came out otherwise")  # without a number: the caller tells nobody
