"""The kernel's table of Unix sockets, of this network namespace, by NETLINK_SOCK_DIAG.

It tells the device and inode of each bound socket, which is what connects a socket to a file: the
name in the table is only what the binder claimed, on whatever mount he had.  Source: sock_diag(7)
and include/uapi/linux/unix_diag.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20

_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SHOW_VFS = 0x2  # UDIAG_SHOW_VFS
_ATTRIBUTE_VFS = 1  # UNIX_DIAG_VFS
_ESTABLISHED = 1  # TCP_ESTABLISHED, include/net/tcp_states.h

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIIII")
_MESSAGE = struct.Struct("=BBBBIII")
_ATTRIBUTE = struct.Struct("=HH")
_VFS = struct.Struct("=II")

RECEIVED_AT_ONCE = 64 * 1024


@dataclass(frozen=True, slots=True)
class BoundFile:
    """The file that a live socket is bound to.  `inode` has 32 bits, all that the table keeps."""

    device: int
    inode: int


def bound_files() -> frozenset[BoundFile]:
    """Return the files of all sockets that are bound and alive; OSError if the kernel won't say.

    A connection that a server accepted carries its listener's file, and outlives it: it is no sign
    of life and is left out.
    """
    return frozenset(_dump())


def _dump() -> Iterator[BoundFile]:
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_VFS, 0, 0)
    header = _HEADER.pack(
        _HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0
    )
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
    ) as table:
        table.sendto(header + request, (0, 0))
        while True:
            received = table.recv(RECEIVED_AT_ONCE)
            offset = 0
            while offset + _HEADER.size <= len(received):
                length, kind, _flags, _sequence, _port = _HEADER.unpack_from(received, offset)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    (number,) = struct.unpack_from("=i", received, offset + _HEADER.size)
                    raise OSError(-number, os.strerror(-number))
                found = _parse(received[offset + _HEADER.size : offset + length])
                if found is not None:
                    yield found
                offset += (length + 3) & ~3


def _parse(message: bytes) -> BoundFile | None:
    _family, kind, state, _pad, _inode, _cookie0, _cookie1 = _MESSAGE.unpack_from(message)
    if state == _ESTABLISHED and kind != socket.SOCK_DGRAM:
        return None
    offset = _MESSAGE.size
    while offset + _ATTRIBUTE.size <= len(message):
        length, attribute = _ATTRIBUTE.unpack_from(message, offset)
        if attribute == _ATTRIBUTE_VFS:
            inode, device = _VFS.unpack_from(message, offset + _ATTRIBUTE.size)
            # The kernel's own dev_t, include/linux/kdev_t.h: 20 bits of minor number.
            return BoundFile(os.makedev(device >> 20, device & 0xFFFFF), inode)
        offset += (max(length, _ATTRIBUTE.size) + 3) & ~3
    return None
