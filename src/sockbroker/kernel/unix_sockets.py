"""The kernel's table of Unix sockets, of this network namespace, by NETLINK_SOCK_DIAG.

It tells the device and inode of each bound socket, which is what connects a socket to a file: the
name in the table is only what the binder claimed, on whatever mount he had.  Everybody may read
it.  Source: sock_diag(7), include/uapi/linux/unix_diag.h and net/unix/diag.c.

The kernel gives the table piece by piece and keeps no snapshot of it: of sockets that are bound
all the while, one can be missing where others come and go beside it.  Absence is worth little until
it was seen more than once.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

# include/uapi/linux/netlink.h, include/uapi/linux/sock_diag.h
NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300
_NLM_F_DUMP_INTR: Final = 0x10
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLMSG_OVERRUN: Final = 4

# include/uapi/linux/unix_diag.h: what to tell of each socket, besides its type and state.
SHOW_NAME: Final = 0x01
SHOW_VFS: Final = 0x02
SHOW_PEER: Final = 0x04
SHOW_RQLEN: Final = 0x10
SHOW_UID: Final = 0x40
_NAME: Final = 0
_VFS: Final = 1
_PEER: Final = 2
_RQLEN: Final = 4
_SHUTDOWN: Final = 6  # told without being asked for
_UID: Final = 7  # since Linux 5.3

# include/net/tcp_states.h, include/net/sock.h
_ESTABLISHED: Final = 1
_LISTEN: Final = 10
_RCV_SHUTDOWN: Final = 1

_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBHIIIII")
_MESSAGE: Final = struct.Struct("=BBBBIII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_PAIR: Final = struct.Struct("=II")
_NUMBER: Final = struct.Struct("=I")
_ERROR: Final = struct.Struct("=i")

RECEIVED_AT_ONCE: Final = 64 * 1024
"""The kernel fills at most 32 KiB at once, however much room there is (af_netlink.c)."""

_ATTEMPTS: Final = 5
"""At a dump that the kernel says has been disturbed."""

_BAD_MESSAGE: Final = "the kernel's table of sockets is not as it should be"


# Named tuples, here and below: of each there may be a hundred thousand, made and compared while
# somebody waits.
class BoundFile(NamedTuple):
    """The file that a live socket is bound to.  `inode` has 32 bits, all that the table keeps.

    The device is that of the file system.  What stat(2) gives for a directory on it is that too;
    for a file it may be another one (overlayfs).
    """

    device: int
    inode: int


class UnixSocket(NamedTuple):
    """One socket of the table; what was not asked for, or does not apply, is None.

    `number` is what /proc/PID/fd shows as socket:[number].  `name` is what the binder claimed, with
    a NUL first if it is abstract.  `uid` is who made the socket.  `queue` and `backlog` are a
    listener's: how many connections wait, and how many may.
    """

    type: int
    number: int
    listening: bool
    established: bool
    name: bytes | None
    file: BoundFile | None
    uid: int | None
    queue: int | None
    backlog: int | None
    peered: bool
    shut: bool

    @property
    def is_connection(self) -> bool:
        """Tell whether nobody can ever connect to it: accepted, or connected to a listener.

        What a server accepted carries the listener's name and file, and outlives it.  A datagram
        socket that is connected goes on receiving, and so does one that somebody connected to.
        """
        return self.established and self.type != socket.SOCK_DGRAM


def bound_files() -> frozenset[BoundFile]:
    """Return the files of all sockets that are bound and alive; OSError if the kernel won't say.

    A connection that a server accepted carries its listener's file, and outlives it: it is no sign
    of life and is left out.
    """
    return _read(SHOW_VFS, lambda messages: frozenset(_files(messages)))


def unix_sockets(show: int, keep: Callable[[UnixSocket], bool]) -> list[UnixSocket]:
    """Return the sockets that `keep` wants, each with what `show` asks for; OSError as above."""
    return _read(show, lambda messages: [each for each in map(_parse, messages) if keep(each)])


class Disturbed(Exception):
    """The kernel says that the dump is not consistent."""


def _read(show: int, collect: Callable[[Iterator[bytes]], T]) -> T:
    for _ in range(_ATTEMPTS):
        with ask(show) as table:
            try:
                return collect(read_dump(table))
            except Disturbed:
                continue
    raise OSError(errno.EAGAIN, "the table of sockets changes while it is read, again and again")


def ask(show: int) -> socket.socket:
    """Ask the kernel for its table; the caller reads the answer, and closes the socket."""
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, show, 0, 0)
    header = _HEADER.pack(
        _HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0
    )
    table = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
    )
    try:
        table.sendto(header + request, (0, 0))
    except BaseException:
        table.close()
        raise
    return table


def read_dump(table: socket.socket) -> Iterator[bytes]:
    """Yield a message for each socket; raises Disturbed at the end, OSError where any is lost."""
    disturbed = 0
    while True:
        received, _, flags, _ = table.recvmsg(RECEIVED_AT_ONCE)
        if flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, "a message of the kernel did not fit")
        offset = 0
        while offset + _HEADER.size <= len(received):
            length, kind, header_flags, _, _ = _HEADER.unpack_from(received, offset)
            end = offset + length
            if length < _HEADER.size or end > len(received):
                raise OSError(errno.EBADMSG, _BAD_MESSAGE)
            disturbed |= header_flags & _NLM_F_DUMP_INTR
            if kind == SOCK_DIAG_BY_FAMILY:
                yield received[offset + _HEADER.size : end]
            elif kind in (_NLMSG_ERROR, _NLMSG_DONE):
                # Both begin with the number of an error, 0 for none.
                if length >= _HEADER.size + _ERROR.size:
                    _raise_for(_ERROR.unpack_from(received, offset + _HEADER.size)[0])
                if disturbed:
                    raise Disturbed
                return
            elif kind == _NLMSG_OVERRUN:
                raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
            offset += (length + 3) & ~3


def _raise_for(number: int) -> None:
    if number < 0:
        raise OSError(-number, os.strerror(-number))


def _files(messages: Iterator[bytes]) -> Iterator[BoundFile]:
    for message in messages:
        _family, kind, state, _pad, _number, _cookie0, _cookie1 = _MESSAGE.unpack_from(message)
        if state == _ESTABLISHED and kind != socket.SOCK_DGRAM:
            continue
        # Not by _attributes: the daemon reads the whole table for each who asks, and this is twice
        # as fast.
        offset = _MESSAGE.size
        while offset + _ATTRIBUTE.size <= len(message):
            length, attribute = _ATTRIBUTE.unpack_from(message, offset)
            if attribute == _VFS:
                inode, device = _PAIR.unpack_from(message, offset + _ATTRIBUTE.size)
                yield BoundFile(_device(device), inode)
                break
            offset += (max(length, _ATTRIBUTE.size) + 3) & ~3


def _parse(message: bytes) -> UnixSocket:
    _family, kind, state, _pad, number, _cookie0, _cookie1 = _MESSAGE.unpack_from(message)
    listening = state == _LISTEN
    name = file = uid = queue = backlog = None
    peered = shut = False
    for attribute, start, end in _attributes(message):
        if attribute == _NAME:
            name = message[start:end]
            if name[:1] != b"\0":
                name = name.rstrip(b"\0")  # a path may come with the NUL that ends it
        elif attribute == _VFS:
            inode, device = _PAIR.unpack_from(message, start)
            file = BoundFile(_device(device), inode)
        elif attribute == _PEER:
            peered = True
        elif attribute == _RQLEN and listening:
            queue, backlog = _PAIR.unpack_from(message, start)
        elif attribute == _SHUTDOWN:
            shut = bool(message[start] & _RCV_SHUTDOWN)
        elif attribute == _UID:
            (uid,) = _NUMBER.unpack_from(message, start)
    return UnixSocket(
        type=kind,
        number=number,
        listening=listening,
        established=state == _ESTABLISHED,
        name=name,
        file=file,
        uid=uid,
        queue=queue,
        backlog=backlog,
        peered=peered,
        shut=shut,
    )


def _attributes(message: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the kind and bounds of each attribute of a socket."""
    offset = _MESSAGE.size
    while offset + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, offset)
        if not _ATTRIBUTE.size <= length <= len(message) - offset:
            raise OSError(errno.EBADMSG, _BAD_MESSAGE)
        yield kind, offset + _ATTRIBUTE.size, offset + length
        offset += (length + 3) & ~3


@functools.cache
def _device(number: int) -> int:
    """Give a device as stat(2) does."""
    # The kernel's own dev_t, include/linux/kdev_t.h: 20 bits of minor number.
    return os.makedev(number >> 20, number & 0xFFFFF)
