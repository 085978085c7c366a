"""Looks at a socket and all that leads to it, and has it judged: without connecting to anything.

As the caller, with his own rights: what he cannot see makes the verdict "unknown".
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from sockbroker.core.connecting import Verdict, judge, judge_abstract
from sockbroker.core.escaping import unescape_address
from sockbroker.core.permission import Identity, Kind
from sockbroker.core.way import Bound, Reached, Socket, SocketType, Unbound, Untold, Way
from sockbroker.kernel.mounts import Mounts, read_mounts
from sockbroker.kernel.net_namespaces import in_each_other
from sockbroker.kernel.path_walk import root_mount, walk
from sockbroker.kernel.processes import sees_other_files, sees_other_names
from sockbroker.kernel.unix_sockets import (
    SHOW_NAME,
    SHOW_PEER,
    SHOW_RQLEN,
    SHOW_VFS,
    BoundFile,
    UnixSocket,
    unix_sockets,
)
from sockbroker.why_subject import CannotLook

_SHOW: Final = SHOW_NAME | SHOW_VFS | SHOW_PEER | SHOW_RQLEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen of a socket: the way to its file (None: an abstract name), and itself.

    `elsewhere` says why all this may be something else to the process that is asked about, and
    `judge_of_root` names the file system of / if a server may judge there.
    """

    name: bytes
    way: Way | None
    socket: Socket
    verdict: Verdict
    wanted: SocketType | None
    elsewhere: str | None = None
    judge_of_root: str | None = None


def look(
    name: bytes, who: Identity, *, wanted: SocketType | None = None, folder: bytes = b""
) -> Seen:
    """Look at a path, or at an abstract name with @ for its NUL, and judge for this identity.

    A relative path begins in `folder`, if that is given, and the way there counts too.  Raises
    OSError where nothing at all can be looked at.
    """
    if name.startswith(b"@"):
        return _look_at_abstract(_abstract(name), wanted)
    mounts = read_mounts()
    way = replace(walk(os.path.join(folder, name), mounts), written=name)
    socket: Socket = Unbound()
    if isinstance(way.end, Reached) and way.end.node.kind is Kind.SOCKET:
        socket = _bound_to(way.end, mounts)
    verdict = judge(way, socket, who, links_protected=links_protected(), wanted=wanted)
    root = root_mount(mounts)
    return Seen(
        name=name,
        way=way,
        socket=socket,
        verdict=verdict,
        wanted=wanted,
        judge_of_root=None if root.answers else root.type,
    )


def _abstract(typed: bytes) -> bytes:
    try:
        return unescape_address(os.fsdecode(typed))
    except ValueError as error:
        raise CannotLook(str(error)) from error


def _look_at_abstract(name: bytes, wanted: SocketType | None) -> Seen:
    """Look at an abstract name in this network namespace; each type has its names to itself."""
    socket: Socket
    try:
        socket = (
            _listed(lambda each: each.name == name and wanted in (None, each.type)) or Unbound()
        )
    except OSError as error:
        socket = Untold(f"the kernel does not show its sockets: {error.strerror}")
    verdict = judge_abstract(socket, wanted=wanted)
    return Seen(name=name, way=None, socket=socket, verdict=verdict, wanted=wanted)


def links_protected() -> bool | None:
    """Read fs.protected_symlinks of proc(5); None if that cannot be read."""
    try:
        with open("/proc/sys/fs/protected_symlinks", encoding="ascii") as file:
            return int(file.read()) > 0
    except (OSError, ValueError):
        return None


def security_modules() -> tuple[str, ...] | None:
    """Read which security modules are active; None if that cannot be read."""
    try:
        with open("/sys/kernel/security/lsm", encoding="ascii", errors="replace") as file:
            return tuple(name for name in file.read().strip().split(",") if name)
    except OSError:
        return None


def _bound_to(end: Reached, mounts: Mounts) -> Socket:
    """Find the socket that is bound to a file, here or in another network namespace."""
    file = BoundFile(end.device, end.inode & 0xFFFFFFFF)
    try:
        here = _listed(lambda each: each.file == file)
        if here is not None:
            return here
        found, all_entered = in_each_other(lambda: _listed(lambda each: each.file == file), mounts)
    except OSError as error:
        return Untold(f"the kernel does not show its sockets: {error.strerror}")
    for bound in filter(None, found):
        return replace(bound, here=False)
    if not all_entered:
        return Untold("nothing in this network namespace has it bound; of others it is not known")
    return Unbound()


def _listed(keep: Callable[[UnixSocket], bool]) -> Bound | None:
    """Find a bound socket in this network namespace.

    Twice, as the kernel's list can lack one that is there where others come and go beside it.
    """
    for _ in range(2):
        found = unix_sockets(_SHOW, lambda each: keep(each) and not each.is_connection)
        bound = _best(found)
        if bound is not None:
            return bound
    return None


def _best(found: list[UnixSocket]) -> Bound | None:
    """Return the one that would be connected to, of those with one file or name."""
    if not found:
        return None
    one = max(found, key=lambda each: each.listening)
    return Bound(
        type=SocketType(one.type),
        listening=one.listening,
        shut=one.shut,
        peered=one.peered,
        waiting=one.queue or 0,
        backlog=one.backlog or 0,
    )


def as_seen_by(pid: int, seen: Seen) -> Seen:
    """Note where the process would look at something else than this command has looked at."""
    sees_other = sees_other_names if seen.way is None else sees_other_files
    try:
        elsewhere = sees_other(pid)
    except OSError:
        elsewhere = "namespaces that only root or its user may know"
    return replace(seen, elsewhere=elsewhere)
