"""The sockets of other network namespaces, as far as one may look into those.

A socket file can be connected to from every network namespace, but only the table of the one that
its socket was made in has it.  So who wants to say that nobody has a file bound must have looked
into all of them.  Root can; for others there may be none to look into.  What is missed even so is a
socket whose namespace has neither a process in it nor a name, and lives on by that socket alone.
"""

from __future__ import annotations

from collections.abc import Callable

from sockbroker.kernel.mounts import Mounts
from sockbroker.kernel.net_namespaces import all_show, other_namespaces, within
from sockbroker.kernel.unix_sockets import UnixSocket, unix_sockets

_ATTEMPTS = 3
"""Where a namespace, or only the process that stood for it, has ended before it was entered."""


def find_elsewhere(
    show: int, keep: Callable[[UnixSocket], bool], mounts: Mounts
) -> tuple[list[UnixSocket], bool]:
    """Return what `keep` wants of the other namespaces' sockets, and whether all were looked into.

    OSError where /proc cannot be read.
    """
    for _ in range(_ATTEMPTS):
        found: list[UnixSocket] = []
        all_seen = all_show(mounts)
        vanished = False
        for namespace in other_namespaces(mounts):
            try:
                found += within(namespace, lambda: unix_sockets(show, keep))
            except (FileNotFoundError, ProcessLookupError):
                vanished = True
            except TimeoutError:  # raised by `keep`
                raise
            except OSError:
                all_seen = False
        if not vanished:
            return found, all_seen
    return found, False


def shows_files(device: int, mounts: Mounts) -> bool:
    """Tell whether a file on this device has the device and inode that tables of sockets have.

    It has on tmpfs, which /run is; where files of several file systems are shown as if they were in
    one (overlayfs), or of one as if in several (btrfs), stat(2) and the table may differ.
    """
    return any(mount.device == device and mount.type == "tmpfs" for mount in mounts)
