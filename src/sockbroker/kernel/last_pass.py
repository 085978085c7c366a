"""What the last pass over an app's folder still tells of the directories in it, in one call each.

Whether a directory has an ACL takes opening it and another call; that it has not been given one
since a certain moment shows in its ctime (see `change_time`).  So a pass that has seen every
directory of a folder to be right leaves the moment of its beginning behind, as the mtime of the
folder's marker, which is root's: whatever has not changed since has no ACL.  Mode, group, owner and
mounts are looked at all the same.

The atime of the marker is the moment of boot, as the clock had it during all of that pass.  It is
another one once somebody has set the clock, and then nothing is believed, nor after root has listed
the marker (find, du), which sets its atime; then the next pass looks at everything again.  A clock
that was set back and forth again in between, to the millisecond, would be believed.
"""

import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from sockbroker.kernel.app_folder import MARKER
from sockbroker.kernel.entries import BY_NAME
from sockbroker.kernel.syscalls import STATX_ATTR_MOUNT_ROOT, glancer

_SECOND: Final = 10**9
_SAME_BOOT: Final = _SECOND // 1000
"""Two readings can be as far apart on a busy machine; who sets a clock sets it by more."""


class LastPass:
    """Of one folder; the descriptor stays the caller's.  To be made before a pass begins."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._glance = glancer(folder, BY_NAME)
        self._boot = _boot()
        self._moment = 0
        with suppress(OSError):
            marker = os.stat(MARKER, dir_fd=folder, follow_symlinks=False)  # root's, as was seen
            written = abs(marker.st_atime_ns - self._boot) <= _SAME_BOOT
            if written and marker.st_mtime_ns <= time.time_ns():
                self._moment = marker.st_mtime_ns

    def doubtful(self, uids: Sequence[int], mode: int, gid: int | None) -> Sequence[int]:
        """Return those of the uids whose directories are not sure to be as wanted.

        ACLs and mounts are included.
        """
        glance, moment, wanted_mode = self._glance, self._moment, stat.S_IFDIR | mode
        if not moment:
            return uids
        doubtful = []
        for uid in uids:
            seen = glance(b"%d" % uid)
            if seen:
                attributes, owner, group, its_mode, _size, known, seconds, nanoseconds = seen
                if (
                    owner == uid
                    and its_mode == wanted_mode
                    and (gid is None or group == gid)
                    and known & ~attributes & STATX_ATTR_MOUNT_ROOT  # known since Linux 5.8
                    and seconds * _SECOND + nanoseconds < moment
                ):
                    continue
            doubtful.append(uid)
        return doubtful

    def rules_out_acls(self, seconds: int, nanoseconds: int) -> bool:
        """Whether a directory that was last changed then, by its ctime, is sure to have no ACL."""
        return seconds * _SECOND + nanoseconds < self._moment

    def remember(self, moment: int) -> None:
        """Note that no directory which has not changed since `moment` has an ACL.

        Not if the clock was set meanwhile: then the moment is another one's.
        """
        if moment > self._moment and abs(_boot() - self._boot) <= _SAME_BOOT:
            with suppress(OSError):  # then the next pass takes longer
                times = (self._boot, moment)
                os.utime(MARKER, ns=times, dir_fd=self._folder, follow_symlinks=False)
                self._moment = moment


def _boot() -> int:
    """Return the moment of boot as the clock has it now, by the closest of some readings."""
    readings = []
    for _ in range(4):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        now = time.time_ns()
        readings.append((time.clock_gettime_ns(time.CLOCK_BOOTTIME) - before, now - before))
    return min(readings)[1]
