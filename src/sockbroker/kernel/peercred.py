"""Who is at the other end of a connected Unix socket, as the kernel attests it.

The kernel keeps it from connect(2) on, whatever the peer does.  Nothing that a peer sends is
looked at.  Source: unix(7) (SO_PEERCRED) and include/uapi/asm-generic/socket.h (SO_PEERGROUPS,
which unix(7) lacks).
"""

from __future__ import annotations

import ctypes
import errno
import struct
from _socket import SO_PEERCRED, SOL_SOCKET
from _socket import socket as Socket

from sockbroker.core.peer import Groups, Peer

SO_PEERGROUPS = 59
"""asm-generic value; Python 3.11 to 3.13 have no name for it."""

_UCRED = struct.Struct("iII")  # uids are unsigned: "iii" would turn 4294967294 into -2
_SMALL = 1024  # the most that socket.getsockopt takes: 256 groups

MOST_GROUPS = 1024
"""More are taken for a list that cannot be read.  The kernel allows 65,536, which a user can give
himself in a user namespace, and which would cost 4 MiB and 6 ms each time."""

_libc = ctypes.CDLL(None, use_errno=True)


def peer_of(connection: Socket) -> Peer:
    """Return who is at the other end; for a client, who called listen().

    OSError if the kernel won't say.
    """
    raw = connection.getsockopt(SOL_SOCKET, SO_PEERCRED, _UCRED.size)
    return tuple.__new__(Peer, _UCRED.unpack(raw))  # what Peer(...) does, in a third of the time


def groups_of(connection: Socket) -> Groups:
    """Return the supplementary groups of who is at the other end.

    None if they cannot be read, which a policy takes for doubt, never for "no groups".
    """
    try:
        raw: bytes | None = connection.getsockopt(SOL_SOCKET, SO_PEERGROUPS, _SMALL)
    except OSError as error:
        raw = _many_groups(connection.fileno()) if error.errno == errno.ERANGE else None
    return None if raw is None else frozenset(memoryview(raw).cast("I"))


def _many_groups(descriptor: int) -> bytes | None:
    """Read a group list that does not fit into what Python's getsockopt takes."""
    buffer = ctypes.create_string_buffer(MOST_GROUPS * 4)
    length = ctypes.c_uint32(len(buffer))
    if _libc.getsockopt(descriptor, SOL_SOCKET, SO_PEERGROUPS, buffer, ctypes.byref(length)):
        return None
    return buffer.raw[: length.value]
