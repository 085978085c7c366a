"""Reads the policy file, if nobody but root can have written it.

The way to it is walked by descriptors, from / on: whoever can write a folder on it can put another
file in the place of this one. What is read is the file that was judged, by the same descriptor.
"""

import errno
import os
import stat
from typing import Final

from sockbroker.core.strict_yaml import MAX_BYTES
from sockbroker.kernel.root_path import DirectoryError, open_root_path

# O_NONBLOCK: a fifo in its place must not stall anything.
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class PolicyFileError(Exception):
    """The file cannot be read or cannot be trusted; the text says where, why, and the mend."""


def read(path: str, *, trusted: bool) -> bytes:
    """Read a policy; with `trusted`, only if it and the way to it are root's alone.

    Raises PolicyFileError.
    """
    if not trusted:
        return _read(path, path, folder=None)
    directory, name = os.path.split(os.path.abspath(path))
    try:
        folder = open_root_path(directory)
    except DirectoryError as error:
        raise PolicyFileError(f"{path}: {error}") from error
    except OSError as error:
        raise PolicyFileError(_said(path, error)) from error
    try:
        return _read(name, path, folder=folder)
    finally:
        os.close(folder)


def _read(name: str, path: str, *, folder: int | None) -> bytes:
    """Read the file `name`; if there is a `folder`, that is where it is, and it must be root's."""
    try:
        descriptor = os.open(name, _OPEN, dir_fd=folder)
    except OSError as error:
        raise PolicyFileError(_said(path, error)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PolicyFileError(f"{path}: not a regular file; name one that is")
        if folder is not None:
            _check(status, path)
        data = _read_all(descriptor)
    except OSError as error:
        raise PolicyFileError(_said(path, error)) from error
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise PolicyFileError(
            f"{path}: more than {MAX_BYTES} bytes; name groups or ranges instead of users"
        )
    return data


def _check(status: os.stat_result, path: str) -> None:
    if status.st_uid != 0:
        raise PolicyFileError(
            f"{path}: belongs to uid {status.st_uid}, and it must be root's; see that its content "
            "is yours, then change its owner"
        )
    if status.st_mode & _OTHERS_WRITE:
        raise PolicyFileError(
            f"{path}: others than root can write it (mode {stat.S_IMODE(status.st_mode):04o}); see "
            "that its content is yours, then take that away from them with chmod go-w"
        )


def _read_all(descriptor: int) -> bytes:
    """Read to the end, but no more than tells that there is too much."""
    chunks = []
    left = MAX_BYTES + 1
    while left > 0 and (chunk := os.read(descriptor, left)):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _said(path: str, error: OSError) -> str:
    match error.errno:
        case errno.ELOOP:
            return f"{path}: a link, which is not followed; name the file itself"
        case errno.ENOENT:
            return f"{path}: there is no such file; write one, or name another"
        case _:
            return f"{path}: {error.strerror}; it must be a file that can be read"
