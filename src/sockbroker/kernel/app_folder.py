"""An app's folder and the runtime directories in it: `/run/<app>` and `/run/<app>/<uid>`.

The only module that repairs or renames a runtime directory, and that makes one where others may
have theirs already (see `filling`).  The folder is writable by root alone, so no one else can
change what a name in it stands for; everything *about* a runtime directory is its owner's, to
change at any moment, and nothing below it is ever looked at here.  What was once his is opened
with O_PATH only, never for reading.

The disk is the record: nothing is kept in memory that a killed daemon would have to remember.
Names in a folder: `<uid>`, `.sockbroker` (the marker), `.new-<uid>-<hex>` (being made) and
`.old-<uid>-<hex>` (moved aside, waits to be deleted).  Others are not ours and are left alone.

Not for two threads at once, and not for two brokers: see `directories.Base.lock`.  The deletion of
what was moved aside may go on beside it in another thread.
"""

import errno
import os
import re
import stat
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

from sockbroker.core.names import parse_uid
from sockbroker.kernel.entries import (
    BY_DESCRIPTOR,
    BY_NAME,
    Owned,
    bring,
    has_acl,
    inherited_acls,
    look_at,
    not_a_directory,
    open_entry,
    open_list,
    remove_acls,
)
from sockbroker.kernel.obstacles import LimitReached, NoSuchDirectory, Obstructed
from sockbroker.kernel.syscalls import (
    OWNER_AND_MODE,
    RENAME_NOREPLACE,
    identity,
    kept_raw_statx,
    link_count,
    pack_owner_and_mode,
    renameat2,
)

MARKER: Final = ".sockbroker"
MOUNTED: Final = "something is mounted on it"
NOBODY: Final = 2**32 - 1  # (gid_t)-1: no gid

# 64 random bits: no state to keep, and two of them do not meet.
_UID_AND_TAG: Final = r"(0|[1-9][0-9]{0,9})-[0-9a-f]{16}"
_STAGED: Final = re.compile(r"\.new-" + _UID_AND_TAG)
_REMOVED: Final = re.compile(r"\.old-" + _UID_AND_TAG)

# An owner who changes his directory in a loop can spoil a repair, but only his own, and not for
# ever: after so many tries he is told that something is in the way.
_ATTEMPTS: Final = 3


@dataclass(frozen=True)  # without slots, so that it can remember how it is packed
class Parent:
    """How an app's folder shall be; it is root's."""

    mode: int
    gid: int

    @cached_property
    def packed(self) -> bytes:
        """The same as `raw_statx` tells it, in OWNER_AND_MODE."""
        return pack_owner_and_mode(0, self.gid, stat.S_IFDIR | self.mode)


class Wanted(NamedTuple):
    """How a runtime directory shall be; without a gid the group is never wrong."""

    mode: int
    gid: int | None


class Entry(NamedTuple):
    """How a runtime directory is.

    `obstruction` says why it is none that the broker could have made, else None.  Of what is
    mounted on it nothing is asked, because a file server may never answer: then gid is NOBODY and
    mode 0.
    """

    mode: int
    gid: int
    acl: bool
    obstruction: str | None


_MOUNTED: Final = Entry(mode=0, gid=NOBODY, acl=False, obstruction=MOUNTED)

Outcome = Literal["created", "existing", "repaired"]
State = Literal["ok", "drifted", "obstructed"]


class Folder:
    """An app's folder, as `Base` opened and checked it; owns an O_PATH descriptor of it."""

    def __init__(self, descriptor: int, path: str, app: str) -> None:
        self._descriptor = descriptor
        self._statx = kept_raw_statx()
        # No other directory has the same while the descriptor is open.
        self.identity = identity(self._statx(b"", descriptor, BY_DESCRIPTOR))
        self.path = path
        self.app = app

    def fileno(self) -> int:
        """Return the O_PATH descriptor of the folder, which stays this object's."""
        return self._descriptor

    def close(self) -> None:
        """Close the descriptor; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def path_of(self, uid: int) -> str:
        """Return the path of the runtime directory of `uid`, there or not."""
        return f"{self.path}/{uid}"

    def look(self, uid: int) -> Entry | None:
        """Tell how the runtime directory of `uid` is; None if nothing has its name."""
        try:
            descriptor = open_entry(self._descriptor, str(uid))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return _MOUNTED
        with Owned(descriptor):
            return _entry(descriptor, uid)

    def state(self, entry: Entry, wanted: Wanted) -> State:
        """Tell whether `entry` is what the policy wants."""
        if entry.obstruction is not None:
            return "obstructed"
        if entry.mode != wanted.mode or entry.acl or wanted.gid not in {None, entry.gid}:
            return "drifted"
        return "ok"

    def ensure(self, uid: int, wanted: Wanted, *, new_gid: int, limit: int) -> Outcome:
        """Make the runtime directory of `uid`, or bring it to what is wanted.

        `new_gid` is the group of one that is made while none is wanted.  Obstructed; LimitReached
        before it makes one more than `limit`; OSError (ENOSPC ...) with nothing done, or, in a
        repair, with nothing wider than before.  FileNotFoundError: the folder itself is gone.
        """
        for _ in range(_ATTEMPTS):
            there = self._statx(b"%d" % uid, self._descriptor, BY_NAME)
            if not there and self.count() < limit:
                gid = new_gid if wanted.gid is None else wanted.gid
                if self._create(uid, wanted.mode, gid):
                    return "created"
            outcome = self.repair(uid, wanted)
            if outcome is not None:
                return outcome
            if self.count() >= limit:
                raise LimitReached("directories", limit)
            # Else it was removed meanwhile.
        raise Obstructed(self.path_of(uid), "appears and vanishes while it is looked at")

    def repair(self, uid: int, wanted: Wanted) -> Outcome | None:
        """Bring the runtime directory of `uid` to what is wanted; None if there is none.

        Raises what `ensure` does.
        """
        try:
            descriptor = open_entry(self._descriptor, str(uid))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise Obstructed(self.path_of(uid), MOUNTED) from None
            raise
        with Owned(descriptor):
            return self._repair(descriptor, uid, wanted)

    def count(self) -> int:
        """Count the directories in the folder, those that wait to be deleted too.

        Costs one call where the file system counts them itself (tmpfs, ext4, xfs); then every
        folder is counted but the marker.  Else (btrfs, overlayfs) all names have to be read.
        """
        # The name, ".", and ".." in each folder below.
        links = link_count(self._statx(b"", self._descriptor, BY_DESCRIPTOR))
        if links >= 3:
            return links - 3
        return sum(
            parse_uid(name) is not None
            or _STAGED.fullmatch(name) is not None
            or _REMOVED.fullmatch(name) is not None
            for name in self._names()
        )

    def uids(self) -> Generator[int, None, None]:
        """Yield the uids that something in the folder is named after, in no order.

        Holds a descriptor until it is exhausted or closed; what is made or removed meanwhile may
        or may not be seen.
        """
        for name in self._names():
            uid = parse_uid(name)
            if uid is not None:
                yield uid

    def move_aside(self, uid: int) -> str:
        """Take the runtime directory of `uid` away from its name; return its new one.

        It is as it was, and its owner's, until `removal.remove` takes it.  NoSuchDirectory,
        Obstructed.
        """
        entry = self.look(uid)
        if entry is None:
            raise NoSuchDirectory(self.path_of(uid), uid)
        if entry.obstruction is not None:
            raise Obstructed(self.path_of(uid), entry.obstruction)
        aside = f".old-{uid}-{_tag()}"
        try:
            self._rename(str(uid), aside)
        except FileNotFoundError:
            raise NoSuchDirectory(self.path_of(uid), uid) from None
        except OSError as error:
            if error.errno == errno.EBUSY:  # mounted on since the look
                raise Obstructed(self.path_of(uid), MOUNTED) from None
            raise
        return aside

    def put_back(self, name: str, uid: int) -> None:
        """Undo `move_aside`, before anything was deleted; FileExistsError if there is a new one."""
        found = _REMOVED.fullmatch(name)
        if found is None or found[1] != str(uid):
            raise ValueError(f"not what was moved aside for uid {uid}: {name!r}")
        self._rename(name, str(uid))

    def names(self) -> list[str]:
        """Return all that is in the folder, in one go: for when nobody waits for a turn."""
        with Owned(open_list(self._descriptor)) as listing:
            return os.listdir(listing)

    def sweep(self, names: list[str]) -> list[str]:
        """Remove what a killed run left half made; name what still has to be deleted.

        `names` is what `names` has just returned.  A staged directory is empty unless its owner,
        who it was given to just before the kill, has put something into it: then it is moved aside
        like one that was released.
        """
        names = [name for name in names if name.startswith(".")]  # few of many
        staged = [name for name in names if _STAGED.fullmatch(name)]
        for name in staged:
            self._discard(name)
        if staged:
            names = self.names()  # some may have been moved aside
        return [name for name in names if _REMOVED.fullmatch(name)]

    def _create(self, uid: int, mode: int, gid: int) -> bool:
        """Make the directory under another name, complete, then give it its own.

        False if somebody else was there first.  The mode comes before the owner: until then it is
        root's, and afterwards a kill finds it complete.
        """
        staged = b".new-%d-%s" % (uid, _tag().encode())
        os.mkdir(staged, 0o700, dir_fd=self._descriptor)
        try:
            # To be read, as nobody else has had it yet: what O_PATH opens can only be changed by
            # way of /proc, which takes twice as long.
            with Owned(open_list(self._descriptor, staged)) as directory:
                if inherited_acls(directory):  # where an administrator gave the folder one
                    remove_acls(directory)
                os.fchmod(directory, mode)
                os.fchown(directory, uid, gid)
                made = self._statx(b"", directory, BY_DESCRIPTOR)
                if made[OWNER_AND_MODE] != pack_owner_and_mode(uid, gid, stat.S_IFDIR | mode):
                    found = look_at(directory)
                    raise Obstructed(
                        self.path_of(uid),
                        f"came out as mode {stat.S_IMODE(found.mode):04o}, uid {found.uid} and "
                        f"group {found.gid}, not {mode:04o}, {uid} and {gid}",
                    )
            self._rename(staged, b"%d" % uid)
        except FileExistsError:
            self._discard(staged)
            return False
        except BaseException:
            self._discard(staged)
            raise
        return True

    def _repair(self, directory: int, uid: int, wanted: Wanted) -> Outcome:
        """Bring the directory to what is wanted, by descriptor; see `entries.bring`."""
        entry = _entry(directory, uid)
        if entry.obstruction is not None:
            raise Obstructed(self.path_of(uid), entry.obstruction)
        if self.state(entry, wanted) == "ok":
            return "existing"
        for _ in range(_ATTEMPTS):
            bring(
                directory,
                was_mode=entry.mode,
                was_gid=entry.gid,
                acl=entry.acl,
                mode=wanted.mode,
                gid=entry.gid if wanted.gid is None else wanted.gid,
            )
            entry = _entry(directory, uid)
            if self.state(entry, wanted) == "ok":
                return "repaired"
        raise Obstructed(self.path_of(uid), "is changed again and again while it is repaired")

    def _rename(self, old: str | bytes, new: str | bytes) -> None:
        folder = self._descriptor
        renameat2(old, new, old_dir_fd=folder, new_dir_fd=folder, flags=RENAME_NOREPLACE)

    def _discard(self, staged: str | bytes) -> None:
        """Remove a staged directory, or move it aside if its owner put something into it."""
        try:
            os.rmdir(staged, dir_fd=self._descriptor)
        except FileNotFoundError:
            pass
        except OSError as error:
            # EBUSY: its owner has mounted something on it. It stays, is counted, and is tried
            # again at the next sweep.
            if error.errno == errno.ENOTEMPTY:
                uid = os.fsdecode(staged).split("-")[1]
                self._rename(staged, f".old-{uid}-{_tag()}")
            elif error.errno != errno.EBUSY:
                raise

    def _names(self) -> Generator[str, None, None]:
        with Owned(open_list(self._descriptor)) as listing, os.scandir(listing) as entries:
            for entry in entries:
                yield entry.name


def _entry(descriptor: int, uid: int) -> Entry:
    status = look_at(descriptor)
    obstruction = not_a_directory(status)
    if obstruction is None and status.uid != uid:
        obstruction = f"belongs to uid {status.uid}, not {uid}"
    return Entry(
        mode=stat.S_IMODE(status.mode),
        gid=status.gid,
        acl=obstruction is None and has_acl(descriptor),
        obstruction=obstruction,
    )


def _tag() -> str:
    return os.urandom(8).hex()
