"""One peer's connection: where it came in, who is at the other end, and how far they are."""

from __future__ import annotations

from _socket import socket as Socket

from sockbroker.core.conversation import Conversation
from sockbroker.core.peer import Groups, Peer
from sockbroker.kernel.loop import Descriptors
from sockbroker.kernel.peercred import groups_of

OPERATORS = -1
"""The account of all operators; every other account is a uid."""


class Session:
    """What a handler may know about who calls: the kernel's word, and the socket it came by."""

    __slots__ = ("operator", "peer")

    def __init__(self, peer: Peer, operator: bool) -> None:
        self.peer = peer
        self.operator = operator

    def groups(self) -> Groups:
        """Ask for the supplementary groups of who calls."""
        raise NotImplementedError


class Connection(Session):
    """The state that the server keeps of one connection; owns its socket."""

    __slots__ = (
        "account",
        "begun",
        "bytes",
        "clean",
        "closed",
        "conversation",
        "descriptor",
        "ending",
        "heard",
        "outgoing",
        "paused",
        "queued",
        "received",
        "socket",
        "watched",
    )

    def __init__(self, connected: Socket, peer: Peer, operator: bool, clean: bool) -> None:
        self.peer = peer
        self.operator = operator
        self.socket = connected
        self.descriptor = connected.fileno()
        self.clean = clean  # the peer never could send descriptors: closing takes no time
        self.account = OPERATORS if operator else peer.uid
        self.conversation: Conversation[Session] | None = None  # while one goes on
        self.received = b""  # before there is one
        self.outgoing = b""
        self.bytes = 0  # that wait in it, as they were last weighed
        self.begun = False  # it has had its first turn
        self.watched: Descriptors | None = None  # by the loop, or a crowd in it
        self.heard = False  # it has sent something
        self.queued = False  # waits for its turn
        self.paused = False  # is not read while earlier messages wait
        self.ending = False  # the peer has sent all it will
        self.closed = False

    def groups(self) -> Groups:
        """Ask the kernel for the supplementary groups of the peer; None once its socket is closed.

        They are not kept: a thousand of them for each of thousands of connections are too many.
        """
        return groups_of(self.socket)

    @property
    def idle(self) -> bool:
        """Whether nothing runs, waits to be served or sent, or has begun."""
        return not (self.conversation or self.received or self.outgoing or self.queued)

    @property
    def ready(self) -> bool:
        """Whether what has come can be served, if something has."""
        return self.conversation is None or self.conversation.ready

    @property
    def unserved(self) -> int:
        """How many bytes wait to be served, or for the end of their message."""
        return len(self.received) if self.conversation is None else self.conversation.unserved
