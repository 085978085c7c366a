"""The broker's three sockets: adopted or bound, and the abstract name taken back when it is free.

Any user can have @sockbroker before the broker does.  Then the broker serves the paths, says who
has the name, and tries again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable

from sockbroker.kernel.listeners import Address, NameTaken, adopt, listen
from sockbroker.kernel.loop import Loop
from sockbroker.logs import Logger

SECONDS_BEFORE_RETRY = 1.0
"""Between two tries for a taken name; only while it is taken."""


class Sockets:
    """Owns the listening sockets."""

    def __init__(self, *, control_name: str, runtime_directory: str, log: Logger) -> None:
        self.control = Address(name=control_name)
        self.path = Address(path=f"{runtime_directory}/io.sockbroker", mode=0o666)
        self.operator = Address(path=f"{runtime_directory}/operator", mode=0o600)
        self._log = log
        self._open: dict[Address, socket.socket] = {}
        self._bound: list[Address] = []
        self._holder: int | None = None  # the uid that has the name, where that is known
        self.problem: str | None = None
        """Why the abstract name is not served, or None."""

    def set_up(self, passed: Iterable[int]) -> None:
        """Adopt what a service manager passed and bind the rest.

        Raises ListenerError and OSError for a path; a taken name is only a problem.
        """
        self._open, refused = adopt(passed, (self.control, self.path, self.operator))
        for text in refused:
            self._log.warning("passed socket refused", why=text)
        for address in (self.path, self.operator):
            if address not in self._open:
                self._bind(address)
        if self.control not in self._open:
            self._try_name()

    def _bind(self, address: Address) -> None:
        try:
            self._open[address] = listen(address)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(address)) from error
        self._bound.append(address)

    def _try_name(self) -> None:
        try:
            self._bind(self.control)
        except NameTaken as taken:
            # Who hides later (by a full queue) was seen before; one line for each who comes.
            if self._holder is None or (taken.uid is not None and taken.uid != self._holder):
                self._holder = taken.uid
                self.problem = str(taken)
                self._log.error(
                    "abstract name taken", name=str(self.control), uid=taken.uid, pid=taken.pid
                )
        except OSError as error:
            self.problem = f"{self.control}: {error.strerror}"
        else:
            if self.problem is not None:
                self._log.info("abstract name served", name=str(self.control))
            self.problem = self._holder = None

    def serve(
        self,
        loop: Loop,
        listen_on: Callable[[socket.socket, bool], None],
        changed: Callable[[], None],
    ) -> None:
        """Hand each socket to the server, and the abstract one later if its name is taken."""
        for address, listener in self._open.items():
            listen_on(listener, address == self.operator)

        def again() -> None:
            before = self.problem
            self._try_name()
            if self.control in self._open:
                listen_on(self._open[self.control], False)
            else:
                loop.call_later(SECONDS_BEFORE_RETRY, again)
            if self.problem != before:
                changed()

        if self.control not in self._open:
            loop.call_later(SECONDS_BEFORE_RETRY, again)

    def names(self) -> list[str]:
        return [str(address) for address in self._open]

    def close(self) -> None:
        """Let go of all, to be closed by the end of the process.

        The files of those that were bound here go, an adopted one's stays.
        """
        for address, listener in self._open.items():
            if address in self._bound and address.path is not None:
                try:
                    os.unlink(address.path)
                except OSError:
                    self._log.warning("socket file not removed", path=address.path)
            # Who has connected and was not let in may have sent what lingers: see `closing`.
            listener.detach()
        self._open.clear()
