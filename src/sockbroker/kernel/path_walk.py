"""Walks a path as the kernel would, one name at a time, and tells what it saw on the way.

Who walks is the caller, with his own rights; what they do not let him see ends the walk, and so
does a mount that could stall him.  Everything is opened with O_PATH, which opens and follows
nothing and asks no file server; a mount is entered only when /proc/self/mountinfo says that the
kernel itself answers for it.  Links are followed by hand, as path_resolution(7) says.  Whether a
user may pass is not decided here.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from sockbroker.core.acl import Acl, parse_acl
from sockbroker.core.permission import Kind, Node, Unread
from sockbroker.core.way import (
    Blind,
    Dead,
    DeadEnd,
    End,
    Followed,
    Missing,
    NotSeen,
    Passed,
    Reached,
    Step,
    Way,
)
from sockbroker.kernel.entries import look_at
from sockbroker.kernel.mounts import Mount, Mounts, mount_number, unlisted_mount
from sockbroker.kernel.syscalls import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV, openat2

MOST_LINKS: Final = 40
"""MAXSYMLINKS of include/linux/namei.h: one more is ELOOP."""

_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_OPENAT2: Final = frozenset({errno.ENOSYS, errno.EPERM})

_KINDS: Final = {
    stat.S_IFDIR: Kind.FOLDER,
    stat.S_IFLNK: Kind.LINK,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFREG: Kind.FILE,
    stat.S_IFIFO: Kind.FIFO,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A folder that is open, and where it is."""

    descriptor: int
    path: bytes
    node: Node
    mount: Mount


class _End(Exception):
    """The way is at its end."""

    def __init__(self, end: End) -> None:
        super().__init__(end)
        self.end = end


def walk(path: bytes, mounts: Mounts) -> Way:
    """Walk an absolute path, or one from the working directory, and say what was seen.

    Raises OSError where nothing at all can be seen: no /proc, no more descriptors.
    """
    with ExitStack() as opened:
        walker = _Walker(mounts, opened)
        try:
            walker.walk(path)
        except _End as reached:
            return Way(written=path, steps=tuple(walker.steps), end=reached.end)
    raise AssertionError("a walk has an end")


def root_mount(mounts: Mounts) -> Mount:
    """Return the mount of /, which is entered whatever it is; OSError where it is not known.

    Diskless machines have it on a server: if that stalls, so does everything.
    """
    with ExitStack() as opened:
        return _Walker(mounts, opened).root.mount


class _Walker:
    def __init__(self, mounts: Mounts, opened: ExitStack) -> None:
        self._mounts = mounts
        self._opened = opened
        self.steps: list[Step] = []
        self._links = 0
        self.root = self._start(b"/")

    def walk(self, path: bytes) -> None:
        """Go all the way; raises _End."""
        here = self.root
        if not path.startswith(b"/"):
            here = self._start(os.getcwdb())
            if not here.mount.answers and here.mount != self.root.mount:
                raise _End(_stalling(here.path, here.mount))
        names = _names(path)
        folder_wanted = _wants_folder(path)
        while names:
            name = names.pop()
            self.steps.append(Passed(path=here.path, node=here.node))
            if name == b".":
                continue
            place, inode = self._enter(here, name, last=not names)
            if place.node.kind is Kind.LINK:
                target = self._target(place)
                self._follow(here, place, target, last=not names)
                if not names:
                    folder_wanted = folder_wanted or _wants_folder(target)
                names += _names(target)
                if target.startswith(b"/"):
                    here = self.root
            elif place.node.kind is Kind.FOLDER:
                here = place
            elif names or folder_wanted:
                raise _End(DeadEnd(path=place.path, kind=Dead.NOT_A_FOLDER, node=place.node))
            else:
                raise _End(
                    Reached(
                        path=place.path, node=place.node, device=place.mount.device, inode=inode
                    )
                )
        raise _End(Reached(path=here.path, node=here.node, device=here.mount.device, inode=0))

    def _start(self, path: bytes) -> _Place:
        descriptor = self._own(os.open(b"." if path != b"/" else path, _LOOK))
        number = mount_number(descriptor)
        node, _ = _node(descriptor)
        mount = self._mounts.get(number)
        if mount is None and path == b"/":
            # In a chroot(2) that is no mount of its own; the table leaves that out.
            mount = unlisted_mount(number, look_at(descriptor).device)
        elif mount is None:
            mount = self._by_number(number)
        if mount is None:
            raise OSError(errno.ENODEV, "not in /proc/self/mountinfo", os.fsdecode(path))
        return _Place(descriptor=descriptor, path=path, node=node, mount=mount)

    def _follow(self, here: _Place, link: _Place, target: bytes, *, last: bool) -> None:
        self._links += 1
        if self._links > MOST_LINKS:
            raise _End(DeadEnd(path=link.path, kind=Dead.TOO_MANY_LINKS, node=link.node))
        self.steps.append(
            Followed(
                path=link.path,
                node=link.node,
                target=target,
                folder=here.node,
                last=last,
                mount_forbids=b"nosymfollow" in link.mount.options,
            )
        )

    def _target(self, link: _Place) -> bytes:
        if link.mount.type == "proc":
            # It leads every process to another place: /proc/self, /proc/PID/root, fd/N.
            raise _End(NotSeen(path=link.path, kind=Blind.ELSEWHERE))
        try:
            return os.readlink(b"", dir_fd=link.descriptor)
        except OSError as error:
            raise _End(_not_seen(link.path, error)) from error

    def _enter(self, here: _Place, name: bytes, *, last: bool) -> tuple[_Place, int]:
        """Open a name in a folder, and what is mounted on it if that answers."""
        path = _below(here.path, name)
        try:
            descriptor, mount = self._open(here, name, path)
            node, inode = _node(descriptor)
        except FileNotFoundError:
            acl = _acl(here.descriptor, "system.posix_acl_default")
            default = acl if isinstance(acl, Acl) else None
            raise _End(
                Missing(path=path, folder=here.node, last=last, default_acl=default)
            ) from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise _End(DeadEnd(path=path, kind=Dead.NAME_TOO_LONG)) from error
            raise _End(_not_seen(path, error)) from error
        return _Place(descriptor=descriptor, path=path, node=node, mount=mount), inode

    def _open(self, here: _Place, name: bytes, path: bytes) -> tuple[int, Mount]:
        resolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS
        try:
            return self._own(openat2(name, _LOOK, dir_fd=here.descriptor, resolve=resolve)), (
                here.mount
            )
        except OSError as error:
            if error.errno == errno.EXDEV:
                expected = self._mount_at(here, name, path)
            elif error.errno in _NO_OPENAT2:
                expected = self._mount_at(here, name, path) or here.mount
            else:
                raise
        if expected is None:
            raise _End(NotSeen(path=path, kind=Blind.FAILED, detail="the mounts are changing"))
        if not expected.answers and expected != self.root.mount:
            raise _End(_stalling(path, expected))
        descriptor = self._own(os.open(name, _LOOK, dir_fd=here.descriptor))
        # Somebody may have mounted something else in between.
        if mount_number(descriptor) != expected.number:
            raise _End(NotSeen(path=path, kind=Blind.FAILED, detail="the mounts are changing"))
        return descriptor, expected

    def _mount_at(self, here: _Place, name: bytes, path: bytes) -> Mount | None:
        """Say by the table in what mount a name is, if it is not in the folder's own."""
        if name != b"..":
            return self._mounts.on(path, here.mount)
        mount: Mount | None = here.mount
        while mount is not None and mount.point == here.path and mount != self.root.mount:
            mount = self._by_number(mount.parent)
        return mount

    def _by_number(self, number: int) -> Mount | None:
        return self.root.mount if number == self.root.mount.number else self._mounts.get(number)

    def _own(self, descriptor: int) -> int:
        self._opened.callback(os.close, descriptor)
        return descriptor


def _names(path: bytes) -> list[bytes]:
    """Give the names of a path, the first one last."""
    return [name for name in path.split(b"/") if name][::-1]


def _wants_folder(path: bytes) -> bool:
    return path.endswith(b"/")


def _below(folder: bytes, name: bytes) -> bytes:
    if name == b"..":
        return folder.rpartition(b"/")[0] or b"/"
    return folder.rstrip(b"/") + b"/" + name


def _stalling(path: bytes, mount: Mount) -> NotSeen:
    return NotSeen(path=path, kind=Blind.STALLING, detail=mount.type)


def _not_seen(path: bytes, error: OSError) -> NotSeen:
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotSeen(path=path, kind=Blind.FORBIDDEN)
    return NotSeen(path=path, kind=Blind.FAILED, detail=os.strerror(error.errno or 0))


def _node(descriptor: int) -> tuple[Node, int]:
    status = look_at(descriptor)
    kind = _KINDS.get(stat.S_IFMT(status.mode), Kind.DEVICE)
    acl = None if kind is Kind.LINK else _acl(descriptor, "system.posix_acl_access")
    node = Node(kind=kind, mode=stat.S_IMODE(status.mode), uid=status.uid, gid=status.gid, acl=acl)
    return node, status.inode


def _acl(descriptor: int, name: str) -> Acl | Unread | None:
    """Read an ACL of what a descriptor of O_PATH refers to; reading it takes no permission."""
    try:
        return parse_acl(os.getxattr(f"/proc/self/fd/{descriptor}", name))
    except OSError as error:
        return None if error.errno in (errno.ENODATA, errno.EOPNOTSUPP) else Unread.UNREAD
    except ValueError:
        return Unread.UNREAD
