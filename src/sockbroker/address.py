"""Where the broker is: addresses, the order in which to try them, and who really listens there.

Any user can bind @sockbroker while it is free, so nothing is sent before the kernel has told who
listens. `_socket` is the C part of `socket`: the Python part around it costs a short command more
time than everything else that it does.
"""

import posix
import time
from _socket import AF_UNIX, SO_PEERCRED, SOCK_STREAM, SOL_SOCKET
from _socket import socket as Socket
from sys import byteorder, getfilesystemencoding

from sockbroker.core.escaping import escape, escape_address, unescape_address
from sockbroker.errors import (
    BrokerUnavailable,
    Impostor,
    InvalidAddress,
    TimedOut,
    Unverifiable,
)

# sun_path of unix(7); a path needs one byte for its final NUL, an abstract name one for its first.
PATH_LIMIT = 107

# How long to wait before a full backlog is tried again: at first, and at most.
FIRST_PAUSE = 0.002
LONGEST_PAUSE = 0.1


class Address:
    """A place where a Varlink service can listen."""

    __slots__ = ("target", "text")

    def __init__(self, *, target: bytes, text: str) -> None:
        self.target = target  # what connect(2) takes; a leading NUL makes it abstract
        self.text = text  # Varlink's form of it, printable

    def __repr__(self) -> str:
        return f"Address({self.text})"


OPERATOR = Address(
    target=b"/run/sockbroker/operator",
    text="unix:/run/sockbroker/operator",
)
ABSTRACT = Address(target=b"\0sockbroker", text="unix:@sockbroker")
PATH = Address(
    target=b"/run/sockbroker/io.sockbroker",
    text="unix:/run/sockbroker/io.sockbroker",
)


def parse(text: str) -> Address:
    """Read `unix:@NAME` or `unix:/PATH`, ignoring `;...` behind it; raises InvalidAddress.

    NAME and PATH are in the escaped form: any byte can be given as \\xHH, and a backslash is \\\\.
    """
    kind, _, place = text.partition(":")
    place = place.partition(";")[0]
    try:
        # Bytes as they were typed, whatever the locale made of them.
        typed = place.encode(getfilesystemencoding(), "surrogateescape")
        target = unescape_address(typed.decode("utf-8", "surrogateescape"))
    except ValueError:
        target = b""
    abstract = target[:1] == b"\0" and place[:1] == "@"
    if kind != "unix" or len(target) < 2 or not (abstract or _is_path(target)):
        raise InvalidAddress(f"{escape(text)} is not an address: give unix:@NAME or unix:/PATH")
    if len(target) > PATH_LIMIT + abstract:
        raise InvalidAddress(
            f"{escape(text)} is too long: the kernel takes at most {PATH_LIMIT} bytes"
        )
    # A semicolon would end it.
    return Address(target=target, text="unix:" + escape_address(target).replace(";", "\\x3b"))


def _is_path(target: bytes) -> bool:
    return target[:1] == b"/" and b"\0" not in target


def candidates(address: str | None) -> tuple[Address, ...]:
    """Give the addresses to try, in order: the one given, or those right for the caller."""
    if address is not None:
        return (parse(address),)
    if posix.geteuid() == 0:
        return (OPERATOR, ABSTRACT, PATH)
    return (ABSTRACT, PATH)


def connect(addresses: tuple[Address, ...], *, deadline: float, verify: bool) -> Socket:
    """Connect to the first address where root listens; who calls closes the socket.

    A full backlog is tried again until the deadline (the kernel answers EAGAIN at once, whatever
    the timeout), in turns with the next address: who squats on the name and never accepts would
    else hold everybody up. Raises Impostor, Unverifiable, TimedOut, or BrokerUnavailable.
    """
    pause = FIRST_PAUSE
    while True:
        full = False
        impostor: BrokerUnavailable | None = None
        refused: list[str] = []
        for address in addresses:
            closed = False
            try:
                return _connect(address, verify=verify)
            except (Impostor, Unverifiable) as error:
                impostor = impostor or error
            except BlockingIOError:
                full = True
            except OSError as error:
                closed = isinstance(error, PermissionError)
                refused.append(f"{address.text}: {posix.strerror(error.errno or 0)}")
            if address is OPERATOR and not closed:
                # Root asks as an operator or not at all: the other sockets would answer another
                # question. To whom this one is closed is root in a user namespace only, hence one
                # user among others.
                break
        if not full:
            raise impostor or BrokerUnavailable(
                f"no broker answers ({', '.join(refused)}): {_mend(addresses)}"
            )
        if time.monotonic() + pause >= deadline:
            raise impostor or TimedOut(
                f"{addresses[0].text} took no connection in time, stuck or overloaded: "
                "try again, or ask an operator to look at `systemctl status sockbroker`"
            )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _connect(address: Address, *, verify: bool) -> Socket:
    socket = Socket(AF_UNIX, SOCK_STREAM)
    try:
        # For a stream, connect(2) to a unix socket either works at once or the backlog is full.
        socket.setblocking(False)
        socket.connect(address.target)
        if verify:
            _verify(socket, address)
    except BaseException:
        socket.close()
        raise
    return socket


def _verify(socket: Socket, address: Address) -> None:
    """Raise unless root called listen(2) on the other end (PID 1 did, if it passed the socket)."""
    pid, uid = listener(socket)
    if not _maps_root():
        raise Unverifiable(address.text)
    if uid != 0:
        raise Impostor(address.text, uid, pid)


def listener(socket: Socket) -> tuple[int, int]:
    """Return pid and uid of who called listen(2) on what the socket is connected to."""
    # struct ucred of unix(7): pid_t, uid_t, gid_t
    credentials = socket.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
    pid = int.from_bytes(credentials[0:4], byteorder, signed=True)
    return pid, int.from_bytes(credentials[4:8], byteorder)


def _maps_root() -> bool:
    """Tell whether uid 0 as seen from here is uid 0 of the user namespace around this one.

    In one that does not map it, the broker and every squatter look alike (the overflow uid), and
    who looks like 0 is somebody else. Without /proc it cannot be told; then the uid alone has to
    do.
    """
    try:
        with open("/proc/self/uid_map", "rb", buffering=0) as file:
            lines = file.read(65536).splitlines()
    except OSError:
        return True
    return any(line.split()[:2] == [b"0", b"0"] for line in lines)


def _mend(addresses: tuple[Address, ...]) -> str:
    if addresses[0] is OPERATOR:
        return (
            "run `systemctl start sockbroker` or `sockbrokerd --daemonize`; "
            f"root of a container says --address {PATH.text}"
        )
    if len(addresses) == 1:
        return "look whether that address is right and sockbroker runs"
    return "ask an operator to run `systemctl start sockbroker` or `sockbrokerd --daemonize`"
