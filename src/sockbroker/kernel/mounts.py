"""The mounts of this process, from /proc/self/mountinfo: which file system is where.

Asked before a mount is entered, because some must never be: a file server that does not answer
holds whoever looks, for good.  Source: proc(5), fs/proc_namespace.c.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_ANSWERING: Final = frozenset(
    {
        "bcachefs", "binder", "bpf", "btrfs", "cgroup", "cgroup2", "configfs", "cramfs", "debugfs",
        "devpts", "devtmpfs", "ecryptfs", "efivarfs", "erofs", "exfat", "ext2", "ext3", "ext4",
        "f2fs", "hugetlbfs", "iso9660", "jffs2", "jfs", "mqueue", "nilfs2", "ntfs3", "overlay",
        "proc", "pstore", "ramfs", "reiserfs", "rootfs", "securityfs", "selinuxfs", "squashfs",
        "sysfs", "tmpfs", "tracefs", "ubifs", "udf", "vfat", "xfs", "zfs",
    }
)  # fmt: skip
"""Types that the kernel answers for by itself.  FUSE, autofs and all that goes over a network asks
somebody, and so may one that is not known here."""

_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount.  `device` is that of the file system, which is what the table of sockets has."""

    number: int
    parent: int
    device: int
    root: bytes
    point: bytes
    options: frozenset[bytes]
    type: str
    file_system_options: frozenset[bytes]

    @property
    def answers(self) -> bool:
        """Tell whether the kernel answers for it by itself."""
        return self.type in _ANSWERING


class Mounts:
    """All mounts at one moment."""

    def __init__(self, mounts: list[Mount]) -> None:
        self._mounts = mounts
        self._by_number = {mount.number: mount for mount in mounts}

    def __iter__(self) -> Iterator[Mount]:
        return iter(self._mounts)

    def get(self, number: int) -> Mount | None:
        """Return the mount of this number."""
        return self._by_number.get(number)

    def on(self, path: bytes, below: Mount) -> Mount | None:
        """Return what is mounted on the path in the mount `below`: what hides the others there."""
        top: Mount | None = None
        number = below.number
        while found := [each for each in self._at(path) if each.parent == number]:
            top = found[-1]
            number = top.number
        return top

    def _at(self, path: bytes) -> Iterator[Mount]:
        return (each for each in self if each.point == path and each.parent != each.number)


def read_mounts() -> Mounts:
    """Read all mounts that this process has; OSError where /proc does not tell."""
    with open("/proc/self/mountinfo", "rb") as file:
        return Mounts([_parse(line) for line in file.read().splitlines()])


def unlisted_mount(number: int, device: int) -> Mount:
    """Stand in for the mount of / where the table does not have it."""
    return Mount(
        number=number,
        parent=number,
        device=device,
        root=b"",
        point=b"/",
        options=frozenset(),
        type="unknown",
        file_system_options=frozenset(),
    )


def mount_number(descriptor: int) -> int:
    """Return the number of the mount that an open descriptor is in, without asking the mount."""
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        fields = dict(line.split(b":\t", 1) for line in file.read().splitlines() if b":\t" in line)
    return int(fields[b"mnt_id"])


def _parse(line: bytes) -> Mount:
    """Read `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`."""
    before, _, after = line.partition(b" - ")
    number, parent, device, root, point, options, *_tags = before.split(b" ")
    kind, _source, *file_system_options = after.split(b" ")
    major, minor = device.split(b":")
    return Mount(
        number=int(number),
        parent=int(parent),
        device=os.makedev(int(major), int(minor)),
        root=_unescaped(root),
        point=_unescaped(point),
        options=frozenset(options.split(b",")),
        type=kind.decode("ascii", "backslashreplace"),
        file_system_options=frozenset(b",".join(file_system_options).split(b",")),
    )


def _unescaped(field: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), field)
