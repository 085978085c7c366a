"""The pid file: for information only.  What keeps a base to one broker is a lock elsewhere."""

from __future__ import annotations

import os
from types import TracebackType

from sockbroker.logs import Logger


class PidFile:
    """While entered, the file names this process; a full file system is no reason not to run."""

    def __init__(self, directory: int, name: str, log: Logger) -> None:
        """`directory` is the descriptor of a folder of root's alone; it stays the caller's."""
        self._directory = directory
        self._name = name
        self._log = log
        self._mine: tuple[int, int] | None = None

    def __enter__(self) -> PidFile:
        fresh = f".{self._name}.new"
        try:
            descriptor = os.open(
                fresh,
                os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o644,
                dir_fd=self._directory,
            )
            try:
                os.fchmod(descriptor, 0o644)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                status = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            os.rename(fresh, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            self._mine = (status.st_dev, status.st_ino)
        except OSError as error:
            self._log.warning("no pid file", why=error.strerror)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._mine is None:
            return
        try:
            status = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            if (status.st_dev, status.st_ino) == self._mine:
                os.unlink(self._name, dir_fd=self._directory)
        except OSError as error:
            self._log.warning("pid file not removed", why=error.strerror)
