"""Who a running process is to the kernel: ids, groups, capabilities and umask, from its /proc/PID.

Everybody may read that; where it is (its namespaces, its root) only who could trace it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from sockbroker.core.permission import Identity

# include/uapi/linux/capability.h
_CAP_DAC_OVERRIDE: Final = 1
_CAP_DAC_READ_SEARCH: Final = 2
_EVERY_CAPABILITY: Final = (1 << 64) - 1

_INITIAL_USER_NAMESPACE: Final = 0xEFFFFFFD  # PROC_USER_INIT_INO, include/linux/proc_ns.h
_OVERFLOW: Final = frozenset({65534})


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What the kernel goes by: the ids that count for files, every group, and the umask."""

    pid: int
    uid: int
    groups: frozenset[int]
    capabilities: int
    umask: int | None

    @property
    def identity(self) -> Identity:
        """The process, as permissions are judged."""
        return _identity(self.uid, self.groups, self.capabilities)


def new_session(uid: int, groups: frozenset[int] | None) -> Identity:
    """Give who a user is after login: root with every capability, others with none."""
    return _identity(uid, groups, _EVERY_CAPABILITY if uid == 0 else 0)


def _identity(uid: int, groups: frozenset[int] | None, capabilities: int) -> Identity:
    return Identity(
        uid=uid,
        groups=groups,
        overrides=bool(capabilities >> _CAP_DAC_OVERRIDE & 1),
        searches=bool(capabilities >> _CAP_DAC_READ_SEARCH & 1),
        beyond=frozenset() if _in_initial_user_namespace() else _OVERFLOW,
    )


def _in_initial_user_namespace() -> bool:
    try:
        return os.stat("/proc/self/ns/user").st_ino == _INITIAL_USER_NAMESPACE
    except OSError:
        return False


def read_process(pid: int | None = None) -> Process:
    """Read a process, or this one; FileNotFoundError if there is none that can be seen."""
    with open(f"/proc/{'self' if pid is None else pid}/status", "rb") as file:
        fields = dict(line.split(b":\t", 1) for line in file.read().splitlines() if b":\t" in line)
    umask = fields.get(b"Umask")  # a process that has ended has none

    def for_files(name: bytes) -> int:
        return int(fields[name].split()[3])  # real, effective, saved, and the one for files

    return Process(
        pid=os.getpid() if pid is None else pid,
        uid=for_files(b"Uid"),
        groups=frozenset({for_files(b"Gid"), *map(int, fields[b"Groups"].split())}),
        capabilities=int(fields[b"CapEff"], 16),
        umask=None if umask is None else int(umask, 8),
    )


def sees_other_files(pid: int) -> str | None:
    """Say why a path may lead a process elsewhere than this one, or mean other ids to it; or None.

    OSError where one may not know.
    """
    for name, word in (("mnt", "mount"), ("user", "user")):
        if not _same(pid, f"ns/{name}"):
            return f"another {word} namespace"
    return None if _same(pid, "root") else "another root directory"


def sees_other_names(pid: int) -> str | None:
    """Say why an abstract name may lead a process elsewhere than this one; or None.

    OSError where one may not know.
    """
    return None if _same(pid, "ns/net") else "another network namespace"


def _same(pid: int, what: str) -> bool:
    return os.path.samefile(f"/proc/{pid}/{what}", f"/proc/self/{what}")
