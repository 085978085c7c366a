"""What mode a socket gets when it is bound: the umask's doing, and the cause of most refusals.

bind(2) makes the file with 0777 without the umask, whatever ACL its folder hands down.
"""

from sockbroker.core.acl import Acl, inherited


def mode_at_bind(umask: int, default_acl: Acl | None) -> int:
    """Give the mode of a socket that is bound with this umask in a folder with that default ACL."""
    mode = 0o777 & ~umask
    if default_acl is None:
        return mode
    return inherited(default_acl, mode)[0]


def umask_behind(mode: int) -> int | None:
    """Give the umask that leaves this mode to a socket; None if none does that anybody uses."""
    umask = 0o777 & ~mode
    return umask if mode & 0o7700 == 0o700 else None
