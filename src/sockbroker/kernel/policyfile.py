"""Reads the policy file, if nobody but root can have written it.

The whole way is walked by descriptors, from / on: whoever can write a folder on it can put another
file in the place of this one, whether that folder is sticky or not. What is read is the file that
was judged, through the same descriptor.
"""

import errno
import os
import stat
from typing import Final

from sockbroker.core.strict_yaml import MAX_BYTES

_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A fifo or a device in its place must not stall or do anything.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class PolicyFileError(Exception):
    """The file cannot be read or cannot be trusted; the text says where, why, and the mend."""


def read(path: str, *, trusted: bool) -> bytes:
    """Read a policy; with `trusted`, only if it and the way to it are root's alone.

    Raises PolicyFileError.
    """
    if not trusted:
        return _read_file(path, None, path, trusted=False)
    absolute = os.path.join(os.getcwd(), path) if not path.startswith("/") else path
    *folders, name = [part for part in absolute.split("/") if part] or [""]
    if ".." in (*folders, name):
        raise PolicyFileError(f"{path}: the way to it has '..' in it; write it without")
    descriptor = _open_folder("/", None, "/")
    try:
        way = ""
        for folder in folders:
            if folder == ".":
                continue
            way = f"{way}/{folder}"
            below = _open_folder(folder, descriptor, way)
            os.close(descriptor)
            descriptor = below
        return _read_file(name, descriptor, path, trusted=True)
    finally:
        os.close(descriptor)


def _open_folder(name: str, parent: int | None, way: str) -> int:
    """Open one folder on the way; the caller closes it."""
    try:
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
    except OSError as error:
        raise PolicyFileError(_said(way, error, "name the real folder")) from error
    fault = _fault(os.fstat(descriptor), way)
    if fault is not None:
        os.close(descriptor)
        raise PolicyFileError(fault)
    return descriptor


def _read_file(name: str, parent: int | None, path: str, *, trusted: bool) -> bytes:
    try:
        descriptor = os.open(name, _FILE, dir_fd=parent)
    except OSError as error:
        raise PolicyFileError(_said(path, error, "name the file itself")) from error
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PolicyFileError(f"{path}: not a regular file; a policy is one")
        if trusted and (fault := _fault(status, path)) is not None:
            raise PolicyFileError(fault)
        try:
            return _read_all(file.fileno(), path)
        except OSError as error:
            raise PolicyFileError(f"{path}: {error.strerror}") from error


def _read_all(descriptor: int, path: str) -> bytes:
    chunks = []
    left = MAX_BYTES + 1
    while left > 0 and (chunk := os.read(descriptor, left)):
        chunks.append(chunk)
        left -= len(chunk)
    if left == 0:
        raise PolicyFileError(
            f"{path}: more than {MAX_BYTES} bytes; name groups or ranges instead of users"
        )
    return b"".join(chunks)


def _fault(status: os.stat_result, way: str) -> str | None:
    """Say why somebody else than root could have a hand in it, and the mend."""
    if status.st_uid != 0:
        return f"{way}: belongs to uid {status.st_uid}, not to root; run: chown root {way}"
    if stat.S_IMODE(status.st_mode) & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        return f"{way}: others than root can write it (mode {mode:04o}); run: chmod go-w {way}"
    return None


def _said(way: str, error: OSError, mend: str) -> str:
    """Say what went wrong; that O_NOFOLLOW met a link has two forms."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return f"{way}: a link, or not a folder; links are not followed on the way, {mend}"
    if error.errno == errno.ENOENT:
        return f"{way}: there is none; write one, or name another file"
    return f"{way}: {error.strerror}"
