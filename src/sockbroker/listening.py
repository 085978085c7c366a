"""A listening socket in one's own runtime directory that takes its file with it when it is closed.

The part that `sockbrokerctl exec` has no use for, and that needs the whole of `socket`.
"""

import os
import warnings
from socket import socket as Socket

from sockbroker.claiming import Claim, claim
from sockbroker.core.escaping import escape
from sockbroker.errors import ListenFailed


class Listener(Socket):
    """A socket as `socket.socket` is, made by `Directory.listen`; closing it removes its file.

    Only if the file is still its own, and only in the process that made it: what a forked one
    closes is its parent's too. `detach()` leaves the file. So does the end of a process that does
    not close it, and the next `listen` replaces it.
    """

    _claim: Claim | None = None  # of what dup() returns there is none: the file is not its own

    @property
    def path(self) -> str | None:
        """The path that it was bound to; None if it does not own a file (any more)."""
        return None if self._claim is None else self._claim.path

    def close(self) -> None:
        """Remove the file and close the socket; more than once is no error."""
        claim, self._claim = self._claim, None
        try:
            if claim is not None:
                claim.remove()  # while the socket is open no other file can have its inode
        finally:
            super().close()

    def detach(self) -> int:
        """Return the descriptor, for the caller to close, and leave the file where it is."""
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.keep()
        return super().detach()

    def __del__(self) -> None:
        if self.fileno() >= 0:
            path = self.path
            warnings.warn(
                f"unclosed {self!r}" if path is None else f"unclosed listener {escape(path)}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            self.close()


def listen(folder: int, path: str, name: str, *, mode: int, type: int, backlog: int) -> Listener:
    """Make a listener in the directory that `folder` refers to and `path` names."""
    try:
        own = os.dup(folder)  # whatever another thread does with the directory meanwhile
    except OSError as error:
        raise ListenFailed(f"{path}/{name}", os.strerror(error.errno or 0)) from None
    try:
        made = claim(own, path, name, mode=mode, kind=type, backlog=backlog)
    finally:
        os.close(own)
    listener = Listener(fileno=made.socket.detach())
    listener._claim = made
    return listener
