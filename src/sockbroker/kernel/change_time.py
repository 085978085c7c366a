"""The clock that the kernel takes the time of a change from (ctime, inode(7)), and when it goes on.

What is done to a directory sets its ctime: chmod(2), chown(2), setxattr(2), rename(2).  The clock
goes on in ticks of 1 to 10 ms; so a change after a reading has no earlier ctime, but one in the
same tick may have the same, and what was seen before such a change looks like what comes after.
Since Linux 6.13 a change may have a finer time, which the clock has not reached yet.
"""

import time
from typing import Final

_CLOCK_REALTIME_COARSE: Final = 5  # include/uapi/linux/time.h


def change_time() -> int:
    """Return the time in nanoseconds, as the ctime of a change at this moment has it at least."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def next_tick() -> None:
    """Wait until every change so far has an earlier time than the clock shows: 1 to 20 ms."""
    moment = time.time_ns()
    while change_time() <= moment:
        time.sleep(0.0005)
