"""One peer's connection: where it came in, who is at the other end, and how far they are."""

from __future__ import annotations

from _socket import socket as Socket
from dataclasses import dataclass
from typing import NamedTuple

from sockbroker.core.conversation import Conversation
from sockbroker.core.peer import Peer
from sockbroker.core.service import Service

OPERATORS = -1
"""The account of all operators; every other account is a uid."""


class Session(NamedTuple):
    """What a handler may know about who calls: the kernel's word, and the socket it came by."""

    peer: Peer
    operator: bool


@dataclass(slots=True)
class Listening:
    """What the server knows of a listening socket."""

    operator: bool
    refuses: bool  # descriptors, at the sender
    caught_up: bool = False  # all have been accepted who connected before it refused them
    alone: int = 0  # so many of the next are taken without a look at who else is there
    resting: bool = False  # for want of descriptors


class Connection:
    """The state that the server keeps of one connection; owns its socket."""

    __slots__ = (
        "account",
        "begun",
        "bytes",
        "clean",
        "closed",
        "conversation",
        "deadline",
        "descriptor",
        "ending",
        "heard",
        "outgoing",
        "paused",
        "queued",
        "session",
        "socket",
    )

    def __init__(
        self, connected: Socket, session: Session, service: Service[Session], *, clean: bool
    ) -> None:
        self.socket = connected
        self.descriptor = connected.fileno()
        self.clean = clean  # the peer never could send descriptors: closing takes no time
        self.session = session
        self.account = OPERATORS if session.operator else session.peer.uid
        self.conversation = Conversation(service, session)
        self.outgoing = b""
        self.bytes = 0  # that wait in it, as they were last weighed
        self.deadline: float | None = None
        self.begun = False  # it has had its first turn, and is watched from then on
        self.heard = False  # it has sent something
        self.queued = False  # waits for its turn
        self.paused = False  # is not read while earlier messages wait
        self.ending = False  # the peer has sent all it will
        self.closed = False
