"""Turns this process into another program that has a runtime directory and sockets in it.

The sockets are passed as systemd passes them, sd_listen_fds(3), so a program that knows socket
activation needs nothing of this package. What the program inherits besides is the mark, and
whatever it would have inherited without this; but no descriptor of a directory, because `..` leads
out of it, also for a program that was confined since.
"""

import posix
import stat

# `signal` takes as long to import as all the rest; typeshed does not know what is below it.
from _signal import SIG_DFL, SIGPIPE, SIGXFSZ, signal  # type: ignore[import-not-found]
from _socket import SOCK_STREAM
from errno import ENOEXEC
from fcntl import F_DUPFD, fcntl
from os import fsencode

from sockbroker.claiming import Claim, check, claim
from sockbroker.client import obtain
from sockbroker.command_line import CommandFailed, UsageError
from sockbroker.core.escaping import escape
from sockbroker.directory import BACKLOG, Directory
from sockbroker.errors import InvalidSocket, Unmarked
from sockbroker.mark import take

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

FIRST = 3  # SD_LISTEN_FDS_START

CANNOT_RUN, NOT_FOUND = 126, 127  # as shells, env(1) and others have it

# Where execvp(3) looks without PATH.
DEFAULT_PATH = b"/bin:/usr/bin"

DEFAULT_MODE = 0o600


class CannotRun(CommandFailed):
    """The program cannot be run; with the exit status that says so."""

    def __init__(self, program: str, reason: str, status: int) -> None:
        super().__init__(f"cannot run {escape(program, word=True)}: {reason}")
        self.status = status


def read_sockets(texts: "Sequence[str]") -> dict[str, int]:
    """Read NAME[:MODE] words into modes by name; raises UsageError."""
    sockets: dict[str, int] = {}
    for text in texts:
        name, colon, digits = text.partition(":")
        if colon and not (3 <= len(digits) <= 4 and all(digit in "01234567" for digit in digits)):
            raise UsageError(f"--socket {text}: a mode has 3 or 4 octal digits")
        mode = int(digits, 8) if colon else DEFAULT_MODE
        try:
            check(name, mode=mode, kind=SOCK_STREAM)
        except InvalidSocket as error:
            raise UsageError(f"--socket {text}: {error}") from None
        if not (name.isascii() and name.isprintable()):
            raise UsageError(f"--socket {text}: LISTEN_FDNAMES takes printable ASCII only")
        if name in sockets:
            raise UsageError(f"--socket {name} is given twice")
        sockets[name] = mode
    return sockets


def execute(
    app: str,
    sockets: dict[str, int],
    command: list[str],
    *,
    timeout: float,
    address: str | None,
    warn: "Callable[[str], object]",
) -> "NoReturn":
    """Become the command, with the app's directory, marked in use, and these sockets in it.

    Raises what `request` and `listen` raise, and CannotRun; then no socket's file is left.
    """
    environment = _environment()
    program = _find(command[0], environment)
    _reserve(len(sockets))
    with obtain(app, timeout=timeout, address=address) as directory:
        environment[b"RUNTIME_DIRECTORY"] = fsencode(directory.path)
        claims: list[Claim] = []
        try:
            _mark(directory, FIRST + len(sockets), warn)
            for name, mode in sockets.items():
                claims.append(
                    claim(
                        directory.fileno(),
                        directory.path,
                        name,
                        mode=mode,
                        kind=SOCK_STREAM,
                        backlog=BACKLOG,
                    )
                )
            if claims:
                environment.pop(b"LISTEN_PIDFDID", None)  # it would say that they are another's
                environment |= _pass(claims, list(sockets))
            _keep_directories()
            _become(program, command, environment)
        finally:
            # Only reached if the program does not run.
            for made in claims:
                made.remove()


def _mark(directory: Directory, lowest: int, warn: "Callable[[str], object]") -> None:
    """Mark the directory by a descriptor that the program inherits, above its sockets."""
    try:
        mark = take(directory.fileno(), directory.path)
    except Unmarked as warning:
        warn(f"warning: {warning}")
    else:
        fcntl(mark, F_DUPFD, lowest)


def _environment() -> dict[bytes, bytes]:
    """Give the environment as the caller set it."""
    environment = dict(posix.environ)
    try:
        with open("/proc/self/environ", "rb", buffering=0) as file:
            names = [word.partition(b"=")[0] for word in file.read().split(b"\0")]
    except OSError:
        return environment
    if b"LC_CTYPE" not in names:
        # In the C locale the interpreter sets it, for itself and its children: PEP 538.
        environment.pop(b"LC_CTYPE", None)
    return environment


def _find(program: str, environment: dict[bytes, bytes]) -> bytes:
    """Find the program as execvp(3) does; raises CannotRun."""
    name = fsencode(program)
    if b"/" in name:
        places = [name]
    else:
        folders = environment.get(b"PATH", DEFAULT_PATH).split(b":")
        places = [folder + b"/" + name if folder else name for folder in folders] if name else []
    there = False
    for place in places:
        try:
            status = posix.stat(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            there = True
            continue
        if stat.S_ISREG(status.st_mode) and posix.access(place, posix.X_OK):
            return place
        there = True
    if there:
        raise CannotRun(program, "it is not executable, or no program", CANNOT_RUN)
    raise CannotRun(program, "it is not there", NOT_FOUND)


def _reserve(number: int) -> None:
    """Take the descriptors that will be the sockets', so that nothing else is put there."""
    for descriptor in range(FIRST, FIRST + number):
        try:
            posix.fstat(descriptor)
        except OSError:
            placeholder = posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
            if placeholder != descriptor:
                posix.dup2(placeholder, descriptor, inheritable=False)
                posix.close(placeholder)


def _pass(claims: list[Claim], names: list[str]) -> dict[bytes, bytes]:
    """Put the sockets where a program looks for them; returns the variables that tell of them."""
    for descriptor, made in enumerate(claims, FIRST):
        posix.dup2(made.socket.fileno(), descriptor)
    return {
        b"LISTEN_FDS": b"%d" % len(claims),
        b"LISTEN_PID": b"%d" % posix.getpid(),
        b"LISTEN_FDNAMES": fsencode(":".join(names)),
    }


def _keep_directories() -> None:
    """Have no directory inherited that was opened by us or before us."""
    try:
        descriptors = [int(name) for name in posix.listdir("/proc/self/fd")]
    except OSError:
        descriptors = list(range(min(posix.sysconf("SC_OPEN_MAX"), 65536)))
    for descriptor in descriptors:
        try:
            if not stat.S_ISDIR(posix.fstat(descriptor).st_mode):
                continue
        except OSError:
            continue
        # Not one of the first three: with such the interpreter would not have started.
        posix.set_inheritable(descriptor, False)


def _become(program: bytes, command: list[str], environment: dict[bytes, bytes]) -> "NoReturn":
    # The interpreter ignores these two, and what is ignored stays so in a new program.
    for number in (SIGPIPE, SIGXFSZ):
        signal(number, SIG_DFL)
    try:
        try:
            posix.execve(program, command, environment)
        except OSError as error:
            if error.errno != ENOEXEC:
                raise
            # A script without #!, as execvp(3) takes it
            posix.execve(b"/bin/sh", [b"sh", program, *map(fsencode, command[1:])], environment)
    except OSError as error:
        status = NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
        raise CannotRun(command[0], posix.strerror(error.errno or 0), status) from None
