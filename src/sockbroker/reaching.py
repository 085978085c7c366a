"""Connects to a socket in somebody's runtime directory, and to nobody but him.

Every component is opened by descriptor and without following links, the socket's file as well, and
connected to by that descriptor; then the kernel says who listens, before a byte is sent.
"""

import errno
import posix
import socket
import stat
import time

from sockbroker.address import FIRST_PAUSE, LONGEST_PAUSE, listener
from sockbroker.claiming import check
from sockbroker.client import TIMEOUT, uid_of
from sockbroker.core.escaping import escape
from sockbroker.core.names import is_app_name, is_user_id
from sockbroker.directory import open_checked
from sockbroker.errors import (
    ConnectFailed,
    InvalidApp,
    InvalidSocket,
    UnexpectedDirectory,
    WrongListener,
)
from sockbroker.kernel.socket_file import open_file, path_of


def connect(
    app: str,
    name: str,
    *,
    user: str | int | None = None,
    timeout: float = TIMEOUT,
    type: int = socket.SOCK_STREAM,
    base: str = "/run",
) -> socket.socket:
    """Connect to the socket `name` in the directory of `user` (the caller) for `app`.

    Returns a blocking socket, with whose listener the kernel attests that user. The timeout is for
    a listener whose queue is full. Raises WrongListener if somebody else listens there, another
    ConnectFailed if it cannot be reached, InvalidApp, InvalidSocket or NoSuchUser.
    """
    uid = posix.geteuid() if user is None else uid_of(user)
    if not is_app_name(app):
        raise InvalidApp(app, "it has to match [a-z][a-z0-9_-]{0,30}")
    check(name, mode=0, kind=type)
    if type == socket.SOCK_DGRAM:
        raise InvalidSocket(
            "who has a datagram socket the kernel does not tell: connect to a SOCK_STREAM or "
            "SOCK_SEQPACKET one"
        )
    directory = f"{base}/{app}/{uid}"
    path = f"{directory}/{name}"
    if not is_user_id(uid):
        raise ConnectFailed(path, f"uid {uid} is what the kernel shows for many: it is nobody's")
    descriptor = _open(directory, path, name, app=app, uid=uid)
    try:
        connected = _connect(descriptor, path, type, timeout)
    finally:
        posix.close(descriptor)
    try:
        pid, listening = listener(connected)
        if listening != uid:
            raise WrongListener(path, listening, pid, uid)
        connected.settimeout(None)
    except BaseException:
        connected.close()
        raise
    return connected


def _open(directory: str, path: str, name: str, *, app: str, uid: int) -> int:
    """Open the socket's file and return its O_PATH descriptor."""
    try:
        folder = open_checked(directory, app=app, uid=uid, name=str(uid))
    except UnexpectedDirectory as error:
        raise ConnectFailed(path, error.reason) from None
    try:
        descriptor = open_file(folder, name)
    except OSError as error:
        raise ConnectFailed(path, _why(error, path)) from None
    finally:
        posix.close(folder)
    if not stat.S_ISSOCK(posix.fstat(descriptor).st_mode):
        posix.close(descriptor)
        raise ConnectFailed(path, "it is no socket")
    return descriptor


def _connect(descriptor: int, path: str, type: int, timeout: float) -> socket.socket:
    """Connect by the descriptor of the socket's file, which also does for names of any length."""
    deadline = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while True:
        connected = socket.socket(socket.AF_UNIX, type)
        try:
            connected.setblocking(False)
            connected.connect(path_of(descriptor))
        except BlockingIOError:  # at once, whatever timeout the socket has
            connected.close()
        except OSError as error:
            connected.close()
            raise ConnectFailed(path, _why(error, path)) from None
        except BaseException:
            connected.close()
            raise
        else:
            return connected
        if time.monotonic() + pause >= deadline:
            raise ConnectFailed(
                path, "its queue stayed full: the server accepts no connection, or too few"
            )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _why(error: OSError, path: str) -> str:
    look = f"`sockbrokerctl why {escape(path, word=True)}` says more"
    match error.errno:
        case errno.ENOENT:
            return f"there is no such socket, so no server has been started; {look}"
        case errno.ECONNREFUSED:
            return f"nobody listens there, the server has ended or not begun; {look}"
        case errno.EACCES:
            return f"it is closed to you; {look}"
        case errno.EPROTOTYPE:
            return f"it is a socket of another type; {look}"
    return f"{posix.strerror(error.errno or 0)}; {look}"
