"""The daemon's listening sockets: bound here, or adopted from a service manager.

Each is checked for what it is before it is trusted: an abstract name belongs to whoever binds it
first, and a descriptor that was passed may be anything.  Source: unix(7), sd_listen_fds(3).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from _socket import AF_UNIX, SOCK_STREAM
from _socket import socket as Socket
from collections.abc import Iterable
from typing import NamedTuple

from sockbroker.kernel.peercred import peer_of

BACKLOG = 128
"""The queue is one for all uids.  A crowd that is in it is in front of whoever comes; where it is
short he waits in connect(2) instead, and the kernel lets those who wait there in by turns.
Measured with four processes that flood: 24 ms for 99 of 100 others, against 780 with 4096."""

SO_PASSRIGHTS = 83
"""Linux 6.16, include/uapi/asm-generic/socket.h: 0 refuses descriptors at the sender."""

_MOST_PATH_BYTES = 107  # sun_path is 108 bytes with its NUL, unix(7)


class NameTaken(Exception):
    """Somebody else has the abstract name; `uid` and `pid` are None where he does not listen."""

    def __init__(self, name: str, uid: int | None, pid: int | None) -> None:
        whom = f"uid {uid} (pid {pid})" if uid is not None else "somebody who does not show himself"
        super().__init__(f"the abstract name @{name} is taken by {whom}")
        self.uid = uid
        self.pid = pid


class ListenerError(Exception):
    """A socket cannot be set up; the text says what is in the way and what to do."""


class Address(NamedTuple):
    """Where one listening socket belongs: an abstract name, or a path with its mode."""

    name: str | None = None
    path: str | None = None
    mode: int = 0o600

    @property
    def bytes(self) -> str | bytes:
        """The address as getsockname(2) gives it in Python."""
        return b"\0" + self.name.encode() if self.name is not None else self.path or ""

    def __str__(self) -> str:
        return f"@{self.name}" if self.name is not None else self.path or ""


def listen(address: Address) -> socket.socket:
    """Bind and listen; the caller closes the socket.

    Raises NameTaken for an abstract name that somebody has, ListenerError for a path that is in
    use or that something else occupies.  A path's folder must be writable by root alone: the
    caller has checked it.
    """
    listener = socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    try:
        if address.name is not None:
            _bind_name(listener, address.name)
        else:
            _bind_path(listener, str(address), address.mode)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def accept(listener: Socket) -> Socket:
    """Accept a connection, for the caller to close; OSError as accept(2) has it.

    socket.accept() makes enumerations of numbers for longer than the system call takes.
    """
    descriptor, _address = listener._accept()  # type: ignore[attr-defined]  # typeshed lacks it
    return Socket(AF_UNIX, SOCK_STREAM, 0, descriptor)


def refuse_descriptors(endpoint: Socket) -> bool:
    """Have the kernel refuse descriptors at the sender, where it can (Linux 6.16); say if so.

    It is for what is sent from now on; on a listening socket, for who connects from now on.
    """
    try:
        endpoint.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


def _bind_name(listener: socket.socket, name: str) -> None:
    try:
        listener.bind(b"\0" + name.encode())
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise NameTaken(name, *_holder(b"\0" + name.encode())) from None


def _bind_path(listener: socket.socket, path: str, mode: int) -> None:
    if len(os.fsencode(path)) > _MOST_PATH_BYTES:
        raise ListenerError(
            f"{path}: longer than the {_MOST_PATH_BYTES} bytes of a socket's path;"
            " use a shorter --runtime-directory"
        )
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        found = None
    if found is not None:
        if not stat.S_ISSOCK(found.st_mode):
            raise ListenerError(f"{path}: something that is not a socket is there; move it away")
        if not _is_dead(path):
            raise ListenerError(f"{path}: somebody listens there; stop that first")
        os.unlink(path)
    # The umask is 077, so the file is born 0600 at most; only root can reach it by name until the
    # mode is set, and only root can write to its folder.
    listener.bind(path)
    os.chmod(path, mode)


def _holder(address: str | bytes) -> tuple[int | None, int | None]:
    """Return (uid, pid) of who listens at an address, without waiting and without a byte sent.

    None where nobody listens, and where his queue is full, so that he cannot be seen.
    """
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    ) as probe:
        try:
            probe.connect(address)
        except OSError:
            return None, None
        holder = peer_of(probe)
    return holder.uid, holder.pid


def _is_dead(path: str) -> bool:
    """Tell whether nobody listens at a socket's path: only that refuses a connection."""
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    ) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False  # a full queue (EAGAIN) is a living one's
    return False


def adopt(
    descriptors: Iterable[int], addresses: Iterable[Address]
) -> tuple[dict[Address, socket.socket], list[str]]:
    """Take over the passed sockets that are what they should be; the others are closed.

    Returns the sockets by address (the caller closes them) and a sentence for each that was
    refused.
    """
    by_bytes = {address.bytes: address for address in addresses}
    adopted: dict[Address, socket.socket] = {}
    refused: list[str] = []
    for descriptor in descriptors:
        try:
            os.set_inheritable(descriptor, False)
            listener = socket.socket(fileno=descriptor)
        except OSError as error:
            refused.append(f"descriptor {descriptor}: not a socket ({error.strerror})")
            _close(descriptor)
            continue
        address = by_bytes.get(_name_of(listener) or b"")
        fault = _fault(listener, address, adopted)
        if fault is None and address is not None:
            listener.setblocking(False)
            adopted[address] = listener
        else:
            refused.append(f"descriptor {descriptor}: {fault}")
            listener.close()
    return adopted, refused


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        return


def _name_of(listener: socket.socket) -> str | bytes | None:
    try:
        name = listener.getsockname()
    except OSError:
        return None
    return name if isinstance(name, (str, bytes)) else None


def _fault(
    listener: socket.socket, address: Address | None, adopted: dict[Address, socket.socket]
) -> str | None:
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM:
        return "not a Unix stream socket"
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "not a listening socket"
    if address is None:
        return "its address is none of the broker's"
    if address in adopted:
        return f"a second socket for {address}"
    if peer_of(listener).uid != 0:
        return "not root's: somebody else called listen()"
    if address.path is not None:
        try:
            found = os.lstat(address.path)
        except OSError as error:
            return f"{address.path}: {error.strerror}"
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != 0:
            return f"{address.path} is not a socket of root's"
        if stat.S_IMODE(found.st_mode) & ~address.mode:
            return f"{address.path} has mode {stat.S_IMODE(found.st_mode):04o}, wider than it may"
    return None
