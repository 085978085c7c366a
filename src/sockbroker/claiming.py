"""Takes a name in one's own runtime directory for a socket: the right mode, never a live one's.

All that matters happens while a lock file in the directory is held, so of two that want the same
name exactly one gets it.  Programs that know nothing of the lock are reckoned with: what they bind
is seen to live, and is not taken from them, at whatever moment they do it.
"""

import errno
import posix
import stat
import time
from _socket import AF_UNIX, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM
from _socket import socket as Socket
from os import fsencode

from sockbroker.core.escaping import escape
from sockbroker.errors import InvalidSocket, ListenFailed, NameInUse, Obstructed
from sockbroker.kernel.bound_inode import bound_inode
from sockbroker.kernel.lock_file import NAMES, Alone, Unlockable
from sockbroker.kernel.socket_file import (
    SUN_PATH,
    FileIdentity,
    is_bound,
    open_file,
    path_of,
    remove,
    set_mode,
    wait_until_settled,
)

# Taking a name is a matter of milliseconds, unless a process is stopped in the middle of it.
LONGEST_WAIT = 5.0

# For the process behind a live socket: it is only named.
LONGEST_SEARCH = 1.0

# How often others may be quicker, at every one of which somebody got the name and lost it again.
ATTEMPTS = 20

# In the directory these are the library's own.
RESERVED = ".sockbroker."

WRITABLE_BY_OTHERS = 0o022  # an ACL's mask stands where the group's bits are


class Claim:
    """A bound socket and the file that bind(2) made for it, which stays until it is removed."""

    __slots__ = ("_file", "_folders", "_name", "_pid", "path", "socket")

    def __init__(
        self, folder: int, path: str, name: str, *, socket: Socket, file: FileIdentity
    ) -> None:
        self.path = path
        self.socket = socket
        self._name = name
        self._file = file
        self._pid = posix.getpid()
        self._folders = [folder]  # at most one; pop() gives it to one thread only

    def remove(self) -> None:
        """Remove the file if it is still this socket's, which must be open; then let go of it.

        In a forked process nothing is removed: the socket is its parent's too.
        """
        try:
            folder = self._folders.pop()
        except IndexError:
            return
        try:
            if posix.getpid() == self._pid:
                remove(folder, self._name, self._file)
        except OSError:
            pass  # a dead socket's file does no harm: who wants the name replaces it
        finally:
            posix.close(folder)

    def keep(self) -> None:
        """Let go of the file and leave it where it is."""
        try:
            posix.close(self._folders.pop())
        except IndexError:
            pass


def check(name: str, *, mode: int, kind: int) -> None:
    """Raise InvalidSocket unless a socket can have that name, mode and type."""
    shown = escape(name[:64], word=True)
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidSocket(f"{shown} is not a name that a socket can have: give one without a /")
    if name.startswith(RESERVED):
        raise InvalidSocket(f"{shown} is not a name for a socket: {RESERVED}* is the library's own")
    try:
        long = len(fsencode(name)) > 255
    except UnicodeEncodeError:
        raise InvalidSocket(f"{shown} is not a name that a file can have") from None
    if long:
        raise InvalidSocket(f"{shown}... is longer than a name can be: at most 255 bytes")
    if not 0 <= mode <= 0o777:
        raise InvalidSocket(f"{mode:#o} is not a mode for a socket: it has to be 0 to 0o777")
    if kind not in (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET):
        raise InvalidSocket(
            f"{kind} is not a socket's type here: SOCK_STREAM, SOCK_DGRAM and SOCK_SEQPACKET are"
        )


def claim(folder: int, path: str, name: str, *, mode: int, kind: int, backlog: int) -> Claim:
    """Bind a socket to a name in the directory `folder`, at `path`, and have it listen.

    Raises InvalidSocket, NameInUse, ListenFailed, or Obstructed if the name is not a socket's.
    """
    check(name, mode=mode, kind=kind)
    wanted = _Wanted(folder, path, name, mode=mode, kind=kind)
    try:
        owner = posix.fstat(folder).st_uid
        if owner != posix.geteuid():
            raise wanted.failed(f"the directory is uid {owner}'s: do it as that user")
        with Alone(folder, NAMES, seconds=LONGEST_WAIT):
            for _ in range(ATTEMPTS):
                wanted.clear()
                made = wanted.bind()
                if made is not None:
                    return _listening(made, backlog)
    except Unlockable as error:
        raise wanted.failed(str(error)) from None
    except FileNotFoundError:
        raise wanted.failed("the directory was removed: request it again") from None
    except OSError as error:
        raise wanted.failed(posix.strerror(error.errno or 0)) from None
    raise wanted.failed("others take the name and give it up again all the time")


def _listening(made: Claim, backlog: int) -> Claim:
    try:
        if made.socket.type != SOCK_DGRAM:
            made.socket.listen(backlog)
    except BaseException:
        made.remove()
        made.socket.close()
        raise
    return made


class _Wanted:
    """A name in a directory that is to be a socket's."""

    def __init__(self, folder: int, directory: str, name: str, *, mode: int, kind: int) -> None:
        self._folder = folder
        self._directory = directory
        self._name = name
        self._path = f"{directory}/{name}"
        self._mode = mode
        self._kind = kind

    def failed(self, reason: str) -> ListenFailed:
        """Give the error that says why it cannot be."""
        return ListenFailed(self._path, reason)

    def clear(self) -> None:
        """Remove a dead socket; raises NameInUse or Obstructed where anything else has the name."""
        try:
            descriptor = open_file(self._folder, self._name)
        except FileNotFoundError:
            return
        try:
            if not stat.S_ISSOCK(posix.fstat(descriptor).st_mode):
                raise Obstructed(
                    self._path, "it is no socket and is left alone: remove it, or take another name"
                )
            self._see_it_dead(descriptor)
            remove(self._folder, self._name, FileIdentity.of(descriptor))
        finally:
            posix.close(descriptor)

    def _see_it_dead(self, descriptor: int) -> None:
        """Raise NameInUse unless connect(2) and the kernel's table agree that nobody has it."""
        alive = is_bound(descriptor)
        if alive is False and wait_until_settled(descriptor):
            alive = is_bound(descriptor)
        owner = posix.fstat(descriptor).st_uid
        try:
            found = find(self._folder, descriptor)
        except OSError:
            # Closed to a service without AF_NETLINK. Then connect(2) alone says it, as it can.
            found = None
        if found is None and alive is False:
            return
        uid, pid = found or (owner, None)
        who = f"uid {uid}" if pid is None else f"uid {uid} pid {pid}"
        if found is not None:
            reason = f"a live socket of {who} has the name"
        elif alive:
            reason = f"a live socket of {who} has the name, perhaps from a container"
        else:
            reason = f"whether the socket of {who} that has the name is alive cannot be told"
        mend = "end that server, or take another name"
        raise NameInUse(self._path, f"{reason}: {mend}", uid=uid, pid=pid)

    def bind(self) -> Claim | None:
        """Bind, with the exact mode; None if somebody else was quicker and is to be looked at."""
        address = self._address()
        socket = Socket(AF_UNIX, self._kind)
        made = None
        try:
            # bind(2) takes the umask from this mode, so the file never has more; umask(2) itself
            # is the whole process's, and other threads make files too.
            posix.fchmod(socket.fileno(), self._mode)
            socket.bind(address)
            made = self._own(socket)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        finally:
            if made is None:
                socket.close()
        return made

    def _address(self) -> bytes:
        """Give the path to bind to: the one that people and tools know, if it is not too long."""
        places = [path_of(self._folder)]
        if self._is_where_it_was():
            places.insert(0, self._directory)
        addresses = [fsencode(f"{place}/{self._name}") for place in places]
        for address in addresses:
            if len(address) <= SUN_PATH:
                return address
        length = len(fsencode(self._name))
        room = SUN_PATH + length - min(map(len, addresses))
        raise self.failed(
            f"its name has {length} bytes: the kernel takes paths of up to {SUN_PATH}, "
            f"which leaves {room} for a name here"
        )

    def _is_where_it_was(self) -> bool:
        try:
            found = posix.stat(self._directory)
        except OSError:
            return False
        return FileIdentity((found.st_dev, found.st_ino)) == FileIdentity.of(self._folder)

    def _own(self, socket: Socket) -> Claim | None:
        """Give the file its mode; None if it is not the socket's any more."""
        try:
            descriptor = open_file(self._folder, self._name)
        except FileNotFoundError:
            return None
        try:
            status = posix.fstat(descriptor)
            if not self._is_of(socket, status):
                return None
            file = FileIdentity.of(descriptor)
            try:
                if stat.S_IMODE(status.st_mode) != self._mode:
                    self._widen(descriptor)
                held = posix.dup(self._folder)
            except BaseException:
                remove(self._folder, self._name, file)
                raise
            return Claim(held, self._path, self._name, socket=socket, file=file)
        finally:
            posix.close(descriptor)

    def _is_of(self, socket: Socket, status: posix.stat_result) -> bool:
        """Tell whether a file is what bind(2) made: somebody may have replaced it since."""
        try:
            inode = bound_inode(socket.fileno())
        except OSError:
            # The table is closed: but then only he himself can have done it who alone may write.
            return stat.S_ISSOCK(status.st_mode) and not (
                posix.fstat(self._folder).st_mode & WRITABLE_BY_OTHERS
            )
        # Both are in one folder, so on one device.
        return inode == status.st_ino & 0xFFFFFFFF

    def _widen(self, descriptor: int) -> None:
        try:
            set_mode(descriptor, self._mode)
        except FileNotFoundError:
            raise self.failed(
                "its mode cannot be set where /proc is not mounted: "
                f"mount it, or set a umask that leaves {self._mode:#o} as it is"
            ) from None


def find(folder: int, descriptor: int) -> tuple[int, int | None] | None:
    """Find the live socket that is bound to a file: its uid and, if that may be known, a pid.

    None if there is none in this network namespace; OSError if the kernel does not tell.
    """
    from sockbroker.kernel.socket_holders import find_holders
    from sockbroker.kernel.unix_sockets import SHOW_UID, SHOW_VFS, BoundFile, unix_sockets

    status = posix.fstat(descriptor)
    # Where files come from several file systems (overlayfs), the folder's device is the table's.
    file = BoundFile(posix.fstat(folder).st_dev, status.st_ino & 0xFFFFFFFF)
    bound = unix_sockets(
        SHOW_VFS | SHOW_UID, lambda each: each.file == file and not each.is_connection
    )
    if not bound:
        return None
    end = time.monotonic() + LONGEST_SEARCH

    def pace() -> None:
        if time.monotonic() > end:
            raise TimeoutError

    try:
        holder = find_holders({bound[0].number}, pace).get(bound[0].number)
    except TimeoutError:
        holder = None
    uid = status.st_uid if bound[0].uid is None else bound[0].uid
    return uid, None if holder is None else holder.pid
