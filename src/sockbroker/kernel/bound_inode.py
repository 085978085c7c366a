"""Which file one socket of this process is bound to, by NETLINK_SOCK_DIAG.

One question about one socket, for programs that are to start fast; of the whole table there is
`unix_sockets`.  Source: sock_diag(7), include/uapi/linux/unix_diag.h.
"""

import posix
from _socket import AF_NETLINK, AF_UNIX, SOCK_CLOEXEC, SOCK_RAW
from _socket import socket as Socket
from struct import Struct

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 0x1
_SHOW_VFS = 0x2  # UDIAG_SHOW_VFS
_VFS = 1  # UNIX_DIAG_VFS
_NO_COOKIE = 0xFFFFFFFF  # INET_DIAG_NOCOOKIE: the socket of that number, whichever it is

_HEADER = Struct("=IHHII")
_REQUEST = Struct("=BBHIIIII")
_MESSAGE = Struct("=BBBBIII")
_ATTRIBUTE = Struct("=HH")
_PAIR = Struct("=II")
_ERROR = Struct("=i")


def bound_inode(socket: int) -> int | None:
    """Return the lower 32 bits of the inode of its file, all that the kernel tells.

    None if it is bound to no file; OSError if the kernel won't say.
    """
    number = posix.fstat(socket).st_ino & 0xFFFFFFFF
    request = _REQUEST.pack(AF_UNIX, 0, 0, 0xFFFFFFFF, number, _SHOW_VFS, _NO_COOKIE, _NO_COOKIE)
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    table = Socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    try:
        table.settimeout(None)
        table.sendto(header + request, (0, 0))
        answer = table.recv(4096)
    finally:
        table.close()
    length, kind, _flags, _sequence, _port = _HEADER.unpack_from(answer)
    if kind != _SOCK_DIAG_BY_FAMILY:
        (error,) = _ERROR.unpack_from(answer, _HEADER.size)
        raise OSError(-error, posix.strerror(-error))
    offset = _HEADER.size + _MESSAGE.size
    while offset + _ATTRIBUTE.size <= length:
        size, attribute = _ATTRIBUTE.unpack_from(answer, offset)
        if attribute == _VFS:
            inode: int
            inode, _device = _PAIR.unpack_from(answer, offset + _ATTRIBUTE.size)
            return inode
        offset += (max(size, _ATTRIBUTE.size) + 3) & ~3
    return None
