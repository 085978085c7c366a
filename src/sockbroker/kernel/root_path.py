"""Opens a directory at a path that root alone decides on, component by component.

For what an administrator names: the base, and the daemon's own directory.  Whoever can write to any
directory on the way can put another one in the place of the next; then nothing that is checked
further down holds.  The sticky bit is no excuse: it does not keep anyone from being first.
"""

import errno
import os
import stat
from contextlib import ExitStack
from typing import Final

from sockbroker.kernel.entries import look_at, set_mode
from sockbroker.kernel.syscalls import Status

_OPEN: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_NOT_SUCH: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class DirectoryError(Exception):
    """A directory that the broker needs cannot be used; the text says why, and the mend."""


def open_root_path(path: str, *, make_mode: int | None = None) -> int:
    """Open the directory at `path` with O_PATH; the caller closes the descriptor.

    With `make_mode` the last component is made if it is not there, and brought to that mode.
    DirectoryError unless every component is a directory of root's that nobody else can write to.
    """
    components = [name for name in path.split("/") if name]
    if not path.startswith("/") or {".", ".."} & set(components):
        raise DirectoryError(f"{path}: must be an absolute path without '.' and '..'")
    with ExitStack() as stack:
        descriptor, walked = os.open("/", _OPEN), ""
        stack.callback(os.close, descriptor)
        _check("/", look_at(descriptor))
        for depth, name in enumerate(components, start=1):
            walked = f"{walked}/{name}"
            parent = descriptor
            last = depth == len(components)
            try:
                if last and make_mode is not None:
                    _make(name, parent)
                # Mounts may be crossed here: /run is one.
                descriptor = os.open(name, _OPEN, dir_fd=parent)
            except OSError as error:
                if error.errno not in _NOT_SUCH:
                    raise OSError(error.errno, error.strerror, walked) from error
                raise DirectoryError(
                    f"{walked}: {error.strerror}; it must be a directory, and no link to one"
                ) from error
            stack.callback(os.close, descriptor)
            status = look_at(descriptor)
            _check(walked, status)
            if last and make_mode is not None and stat.S_IMODE(status.mode) != make_mode:
                try:
                    set_mode(descriptor, make_mode)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, walked) from error
        return os.dup(descriptor)


def _make(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return  # it is looked at like all others


def _check(path: str, status: Status) -> None:
    if status.uid != 0:
        raise DirectoryError(f"{path}: belongs to uid {status.uid}; it must be root's")
    if status.mode & _OTHERS_WRITE:
        raise DirectoryError(
            f"{path}: others than root can write to it (mode {stat.S_IMODE(status.mode):04o});"
            " take that away from them, or choose another directory"
        )
