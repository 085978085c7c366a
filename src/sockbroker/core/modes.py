"""Which modes a runtime directory and its parent may have.

A directory that others can write, or one that a set-id bit makes somebody else's, is a hole; one
that can be read without being searched is a mistake. Both are refused when the policy is read, with
the mode that was probably meant.
"""

import re
from functools import lru_cache
from typing import Final

# 711: users reach their own directory and cannot list the others. The rest is for who wants less.
PARENT_MODES: Final = (0o711, 0o755, 0o750, 0o710, 0o700)

_OCTAL: Final = re.compile(r"0?[0-7]{3,4}")

_STICKY: Final = 0o1000
_SETUID: Final = 0o4000


@lru_cache(maxsize=64)  # a policy has thousands of apps and a handful of modes
def parse_mode(text: str) -> int | None:
    """Read 3 or 4 octal digits, or one more that is a leading 0; None for anything else."""
    return None if _OCTAL.fullmatch(text) is None else int(text, 8)


@lru_cache(maxsize=64)
def runtime_mode_faults(mode: int, *, has_group: bool) -> tuple[str, ...]:
    """Say what is wrong with a mode for runtime directories, and the mend; nothing if it is good.

    Without a group in the policy the directory's group is whatever the peer's happens to be, which
    newgrp(1) changes: no right may depend on it.
    """
    faults = []
    wrong = [text for mask, text in _WRONG if mode & mask]
    if mode & 0o700 != 0o700:
        wrong.append("takes a right from the owner")
    for shift, who in ((3, "the group"), (0, "others")):
        rights = mode >> shift & 0o7
        if rights & 0o6 and not rights & 0o1:
            wrong.append(f"lets {who} read or write without x, which is of no use in a directory")
    if wrong:
        faults.append(f'mode "{mode:04o}" {" and ".join(wrong)}; write "{_mended(mode):04o}"')
    if not has_group:
        needs = []
        if (mode >> 3 & 0o7) & ~mode & ~0o2 or mode & 0o020:
            needs.append("lets the group do what others may not")
        if mode & _STICKY:
            needs.append("is sticky")
        if needs:
            faults.append(
                f'mode "{mode:04o}" {" and ".join(needs)}, and no group is named, so that it would '
                "be whatever group the peer happens to have; add group: or change the mode"
            )
    return tuple(faults)


def parent_mode_fault(mode: int) -> str | None:
    """Say what is wrong with the mode of an app's folder, and the mend."""
    if mode in PARENT_MODES:
        return None
    allowed = ", ".join(f'"{one:04o}"' for one in PARENT_MODES)
    return f'parent mode "{mode:04o}" is not possible; write one of {allowed}'


def parent_mode_risk(mode: int, gid: int) -> str | None:
    """Say what a mode that an app's folder may have lets others do to it; None if nothing.

    A user can hold the lock of any directory that he may list, by a file server of his own that
    does not answer while the kernel copies the list; nothing can be made in it meanwhile.
    """
    if mode & 0o004:
        who = "everybody"
    elif mode & 0o040 and gid != 0:
        who = f"group {gid}"
    else:
        return None
    return (
        f'parent mode "{mode:04o}" lets {who} list the folder, and who can list it can hold its '
        f'lock, so that nobody gets a directory in it; write "{mode & ~0o044:04o}" unless they '
        "have to list it"
    )


_WRONG: Final = (
    (_SETUID, "sets the user id"),
    (0o002, "lets everybody write"),
)


def _mended(mode: int) -> int:
    """Return the nearest mode that is possible."""
    mode = mode & ~_SETUID & ~0o002 | 0o700
    for shift in (3, 0):
        if mode >> shift & 0o6:
            mode |= 0o1 << shift
    return mode
