"""A runtime directory in the hands of the program that asked for it: checked, and held open.

What the broker's reply names is opened here once, component by component and without following
links, and judged by the descriptor; so neither a link on the way nor a directory of somebody else
is ever taken for the caller's own.
"""

import posix
from _socket import SOCK_STREAM

from sockbroker.core.escaping import escape
from sockbroker.errors import Closed, UnexpectedDirectory

# O_PATH opens nothing of the directory itself: neither a mode without read permission nor a stuck
# mount matters.
STEP = posix.O_PATH | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC

WRITABLE_BY_OTHERS = 0o002

# How many may wait to be accepted: what the kernel cuts it down to by default anyway,
# net.core.somaxconn. Whoever may connect can fill the queue, and everybody else is turned away.
BACKLOG = 4096

TYPE_CHECKING = False  # `typing` itself would take longer to import than all the rest
if TYPE_CHECKING:
    from sockbroker.listening import Listener


class Directory:
    """A runtime directory, held by a close-on-exec O_PATH descriptor until closed; path-like."""

    __slots__ = ("_descriptor", "_locks", "app", "outcome", "path", "uid")

    _descriptor: int
    _locks: list[int]  # the mark's descriptor first, then that of the directory's own lock

    def __init__(self, *, app: str, uid: int, path: str, outcome: str, verify: bool = True) -> None:
        self._descriptor = -1  # first of all, because __del__ runs also when what follows fails
        self._locks = []
        self.app = app
        self.uid = uid
        self.path = path
        self.outcome = outcome
        # In a user namespace the name, which is the uid outside, is not the uid inside;
        # verify=False is said there.
        self._descriptor = open_checked(path, app=app, uid=uid, name=str(uid) if verify else None)

    def fileno(self) -> int:
        """Return the O_PATH descriptor, good as a `dir_fd`; it stays this object's to close."""
        if self._descriptor < 0:
            raise Closed(f"the directory {self.path} was closed: request it again")
        return self._descriptor

    def listen(
        self, name: str, mode: int = 0o600, type: int = SOCK_STREAM, backlog: int = BACKLOG
    ) -> "Listener":
        """Return a socket that listens as `name` in this directory, with exactly that mode.

        The process's umask does not matter and is not touched. A dead socket of that name is
        replaced; of a live one NameInUse tells whose it is. Also raises InvalidSocket, Obstructed,
        or ListenFailed.
        """
        from sockbroker.listening import listen

        return listen(self.fileno(), self.path, name, mode=mode, type=type, backlog=backlog)

    def mark(self) -> None:
        """Mark the directory in use until it is closed; warns with Unmarked if it cannot.

        The directory of another user, which an operator requested, is not marked: that is his.
        """
        if self._locks or posix.fstat(self.fileno()).st_uid != posix.geteuid():
            return
        from sockbroker.errors import Unmarked
        from sockbroker.mark import keep_from_cleaners, take

        try:
            self._locks.append(take(self.fileno(), self.path))
        except Unmarked as warning:
            import warnings

            warnings.warn(warning, stacklevel=3)
            return
        lock = keep_from_cleaners(self.fileno())
        if lock is not None:
            self._locks.append(lock)

    @property
    def marked(self) -> bool:
        """Whether it is marked in use."""
        return bool(self._locks)

    def close(self) -> None:
        """Let go of the directory and its mark; more than once is no error."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            posix.close(descriptor)
        while self._locks:
            posix.close(self._locks.pop())

    def __enter__(self) -> "Directory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            import warnings

            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<sockbroker.Directory {escape(self.path)}>"


def open_checked(path: str, *, app: str, uid: int, name: str | None) -> int:
    """Open the directory that a reply names and return its descriptor, for the caller to close.

    Raises UnexpectedDirectory unless it is one of that app, owned by that uid, reached without a
    link, and not writable for others. `name` is what its last component has to be, where that is
    known.
    """
    root, *components = path.split("/")
    if (
        root != ""
        or len(components) < 2
        or not path.isprintable()
        or any(component in ("", ".", "..") for component in components)
    ):
        raise UnexpectedDirectory(path, "that is no absolute path in its plain form")
    if components[-2] != app or name not in (None, components[-1]):
        raise UnexpectedDirectory(path, f"its path does not end in {escape(app)}/{name or 'UID'}")
    descriptor = _step(path, "/", None)
    try:
        for component in components[:-1]:
            descriptor = _step(path, component, descriptor)
        folder_mount = None if uid == posix.geteuid() else _mount_id(descriptor)
        descriptor = _step(path, components[-1], descriptor)
        # Looking at a directory on which its owner mounted a file system of his can wait for him
        # for ever. In a container one's own may well be a mount, and who stalls there is who made
        # it stall.
        if folder_mount is not None and _mount_id(descriptor) != folder_mount:
            raise UnexpectedDirectory(path, "a file system is mounted on it; unmount that first")
        _judge(path, posix.fstat(descriptor), uid)
    except OSError as error:
        posix.close(descriptor)
        raise UnexpectedDirectory(path, _why(error, components[-1])) from None
    except BaseException:
        posix.close(descriptor)
        raise
    return descriptor


def _step(path: str, component: str, folder: int | None) -> int:
    """Open one component below `folder`, which is closed if that works."""
    try:
        descriptor = posix.open(component, STEP, dir_fd=folder)
    except OSError as error:
        raise UnexpectedDirectory(path, _why(error, component)) from None
    if folder is not None:
        posix.close(folder)
    return descriptor


def _why(error: OSError, component: str) -> str:
    shown = escape(component)
    match error:
        case FileNotFoundError():
            return f"{shown} is not there; in a container, mount it from the host"
        case NotADirectoryError():
            return f"{shown} is a link or no directory; an operator has to look what put it there"
        case PermissionError():
            return f"the way to {shown} is closed to you; `parent` in the policy can open it"
    return f"{shown} cannot be opened: {posix.strerror(error.errno or 0)}"


def _judge(path: str, found: posix.stat_result, uid: int) -> None:
    if found.st_uid != uid:
        raise UnexpectedDirectory(path, f"it is owned by uid {found.st_uid}, not by uid {uid}")
    if found.st_mode & WRITABLE_BY_OTHERS:
        raise UnexpectedDirectory(
            path, f"everybody may write in it; run `chmod o-w {escape(path)}`"
        )


def _mount_id(descriptor: int) -> bytes | None:
    """Return the number of the mount that a descriptor is on, without asking its file system."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb", buffering=0) as file:
            lines = file.read(4096).splitlines()
    except OSError:
        return None
    return next((line for line in lines if line.startswith(b"mnt_id:")), None)
