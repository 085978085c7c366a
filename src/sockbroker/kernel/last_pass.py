"""What the last pass over an app's folder still tells of the directories in it, in one call each.

Whether a directory has an ACL takes opening it and two more calls; that it has not been given one
since a certain moment shows in its ctime, which setxattr(2) sets, as chmod(2), chown(2) and
rename(2) do.  So a pass that has seen every directory of a folder to be right leaves the moment of
its beginning behind, as the mtime of the folder's marker, which is root's: whatever has not changed
since has no ACL.  Mode, group, owner and mounts are looked at all the same.

The atime of the marker is the moment of boot, as the clock had it.  It is another one once somebody
has set the clock, and then nothing is believed; nor is it for a marker that nobody has written to.
A clock that was set back and forth again in between, by root, to the millisecond, would be.
"""

import os
import stat
import time
from contextlib import suppress
from typing import Final

from sockbroker.kernel.syscalls import (
    AT_NO_AUTOMOUNT,
    AT_STATX_DONT_SYNC,
    AT_SYMLINK_NOFOLLOW,
    STATX_ATTR_MOUNT_ROOT,
    glancer,
)

MARKER: Final = ".sockbroker"

_BY_NAME: Final = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC

# include/uapi/linux/time.h: what ctime is taken from, so no change after a reading has an earlier
# one, and one in the same tick of the kernel may have the same.
_CLOCK_REALTIME_COARSE: Final = 5

_SECOND: Final = 10**9
_SAME_BOOT: Final = _SECOND // 1000
"""Nobody sets a clock by less, and two readings can be as far apart on a busy machine."""


def coarse_now() -> int:
    """Return the time in nanoseconds, as the ctime of a change at this moment has it at least."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def next_tick() -> None:
    """Wait until the clock that ctime is taken from has gone on: 1 to 10 ms."""
    moment = coarse_now()
    while coarse_now() == moment:
        time.sleep(0.0005)


class LastPass:
    """Of one folder; the descriptor stays the caller's."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._glance = glancer(folder, _BY_NAME)
        self._moment = 0
        with suppress(OSError):
            marker = os.stat(MARKER, dir_fd=folder, follow_symlinks=False)  # root's, as was seen
            written = abs(marker.st_atime_ns - _boot()) <= _SAME_BOOT
            if written and marker.st_mtime_ns <= time.time_ns():
                self._moment = marker.st_mtime_ns
        self._moment_in_two = [*divmod(self._moment, _SECOND)]

    def tells(self, uid: int, mode: int, gid: int | None) -> bool:
        """Whether the directory of `uid` is sure to be as wanted, ACLs and mounts included."""
        if not self._moment:
            return False
        seen = self._glance(b"%d" % uid)
        if not seen:
            return False
        attributes, owner, group, its_mode, known, *changed = seen
        return (
            owner == uid
            and its_mode == stat.S_IFDIR | mode
            and gid in (None, group)
            and known & STATX_ATTR_MOUNT_ROOT != 0  # Linux 5.8
            and attributes & STATX_ATTR_MOUNT_ROOT == 0
            and changed < self._moment_in_two
        )

    def remember(self, moment: int) -> None:
        """Note that no directory which has not changed since `moment` has an ACL."""
        if moment > self._moment:
            with suppress(OSError):  # then the next pass takes longer
                os.utime(MARKER, ns=(_boot(), moment), dir_fd=self._folder, follow_symlinks=False)
                self._moment = moment
                self._moment_in_two = [*divmod(moment, _SECOND)]


def _boot() -> int:
    """Return the moment of boot as the clock has it now, by the closest of some readings."""
    readings = []
    for _ in range(4):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        now = time.time_ns()
        readings.append((time.clock_gettime_ns(time.CLOCK_BOOTTIME) - before, now - before))
    return min(readings)[1]
