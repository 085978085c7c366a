"""What has nothing to read and keeps nothing that is written: the null device or the like."""

import fcntl
import os
from typing import Final

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def open_null() -> int:
    """Open /dev/null, or where there is none an empty file that stays empty; the caller closes it.

    Reading gives the end of the file from both; writing fails with EPERM in the second.
    """
    try:
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # a container may come without
        pass
    descriptor = os.memfd_create("null", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor
