"""One connection's calls and answers: in which order they are served, and what is sent.

The engine between the bytes of a connection and the handlers of a `service`. Whoever owns the
socket carries the bytes, and says when there is a turn to take. Nearly every peer sends one call
and is answered at once, by `converse`; what goes on longer is a `Conversation`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from sockbroker.core.service import (
    Answer,
    C,
    Deferred,
    Encoded,
    Failed,
    Failure,
    Handler,
    Replies,
    Reply,
    Series,
    Service,
)
from sockbroker.core.varlink import (
    MESSAGE_LIMIT,
    Call,
    Inbox,
    ProtocolError,
    encode_error,
    encode_parameters,
    encode_reply,
    encode_written,
)

REPLIES_A_TURN = 64
"""Replies of a series before the others have their turn: under a millisecond."""

BACKLOG_LIMIT = 16 * MESSAGE_LIMIT
"""Bytes that wait in one conversation, whatever the server reads: pipelining needs no more."""

_NO_CALL = Call("")

_AT_ONCE = (Encoded, Reply, Failure)  # a tuple: a union would be made anew for each call


def converse(
    service: Service[C], context: C, data: bytes
) -> tuple[bytes | None, Conversation[C] | None]:
    """Serve the first call of what a peer has sent with whom no conversation goes on.

    Returns what to send, as `Conversation.turn` does, and the conversation if it does not end with
    that. Raises ProtocolError for a bad message, and whatever a handler raises, except `Failed`.
    """
    prepared = service.known(data)
    if prepared is None and 0 <= data.find(b"\0") == len(data) - 1 <= MESSAGE_LIMIT:
        prepared = service.prepare(data)
    if prepared is None:
        conversation = Conversation(service, context)
        conversation.receive(data)
        sent = conversation.turn()
    else:
        call = prepared.call
        answer = _ask(context, call, prepared.handler)
        if isinstance(answer, _AT_ONCE):
            return _written(call, answer), None
        conversation = Conversation(service, context)
        sent = conversation.answer(call, answer)
    return sent, None if conversation.idle else conversation


def _ask(context: C, call: Call, handler: Handler[C]) -> Answer:
    try:
        return handler(context, call)
    except Failed as failed:
        return failed.failure


def _written(call: Call, answer: Encoded | Reply | Failure) -> bytes:
    if call.oneway:
        # Not even an error: he takes the next message for the answer to his next call.
        return b""
    if isinstance(answer, Encoded):
        return answer.message
    if isinstance(answer, Reply):
        return encode_reply(answer.parameters)
    return encode_error(answer.error, answer.parameters)


class Conversation(Generic[C]):
    """One connection's calls and answers, in order; whoever owns the socket carries the bytes."""

    __slots__ = (
        "_call",
        "_deferred",
        "_held",
        "_inbox",
        "_replies",
        "_service",
        "context",
        "on_ready",
    )

    def __init__(self, service: Service[C], context: C) -> None:
        self.context = context
        self.on_ready: Callable[[], None] | None = None
        """Called when a deferred answer has come, so that there is a turn to take."""
        self._service = service
        self._inbox = Inbox()
        self._call = _NO_CALL  # the one that runs, while one of the next two is set
        self._deferred: Deferred | None = None
        self._replies: Replies | None = None
        self._held: list[str] = []  # the newest of a series, until it is known if it is the last

    @property
    def waiting(self) -> bool:
        """Whether a deferred answer has not been sent."""
        return self._deferred is not None

    @property
    def streaming(self) -> bool:
        """Whether a series has not ended."""
        return self._replies is not None

    @property
    def ready(self) -> bool:
        """Whether there is a turn to take."""
        if self._deferred is not None:
            return self._deferred.answer is not None
        return self._replies is not None or self._inbox.whole

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._inbox.partial

    @property
    def unserved(self) -> int:
        """How many bytes wait to be served, or for the end of their message."""
        return self._inbox.size

    @property
    def idle(self) -> bool:
        """Whether nothing runs, waits to be served or has begun."""
        return self._deferred is None and self._replies is None and self._inbox.empty

    def receive(self, data: bytes) -> None:
        """Take what the peer sent; raises ProtocolError if that is too much."""
        self._inbox.feed(data)
        if self._inbox.size > BACKLOG_LIMIT:
            raise ProtocolError(f"more than {BACKLOG_LIMIT} bytes of calls that wait")

    def turn(self) -> bytes | None:
        """Serve one call, or go on with one; return what to send, None if there is nothing to do.

        No bytes (b"") means that something was done which sends nothing, or not yet. Raises
        ProtocolError for a bad message, and whatever a handler raises, except `Failed`.
        """
        if self._replies is not None:
            return self._go_on(self._replies)
        if self._deferred is not None:
            answer = self._deferred.answer
            if answer is None:
                return None
            self._deferred = None
            return self.answer(self._call, answer)
        message = self._inbox.next()
        if message is None:
            return None
        prepared = self._service.prepare(message + b"\0")
        return self.answer(prepared.call, _ask(self.context, prepared.call, prepared.handler))

    def close(self) -> None:
        """Forget everything: the peer is gone, so nobody waits for what still runs."""
        if self._deferred is not None:
            self._deferred.cancelled = True
            self._deferred = None
        replies, self._replies = self._replies, None
        if replies is not None:
            close = getattr(replies, "close", None)  # a generator has one
            if close is not None:
                close()
        self._inbox = Inbox()
        self.on_ready = None

    def answer(self, call: Call, answer: Answer) -> bytes:
        """Return what to send of an answer now; the rest comes in turns."""
        match answer:
            case Series(replies):
                if not call.more:
                    raise TypeError(f"{call.method} has a series for a call without more")
                self._call = call
                self._held = []
                self._replies = replies
                return self._go_on(replies)
            case Deferred():
                self._call = call
                self._deferred = answer
                if answer.answer is None:
                    answer.wake = self._ready
                    return b""
                self._deferred = None
                return self.answer(call, answer.answer)
            case _:
                return _written(call, answer)

    def _ready(self) -> None:
        if self.on_ready is not None:
            self.on_ready()

    def _go_on(self, replies: Replies) -> bytes:
        """Take a turn's worth from a series."""
        sent: list[bytes] = []
        for _ in range(REPLIES_A_TURN):
            try:
                reply = next(replies)
            except StopIteration:
                self._replies = None
                if not self._held:
                    raise RuntimeError(f"{self._call.method} has no reply at all") from None
                sent.append(encode_written(self._held))
                break
            except Failed as failed:
                self._replies = None
                sent.append(encode_written(self._held, continues=True))
                sent.append(encode_error(failed.failure.error, failed.failure.parameters))
                break
            if reply is None:
                break
            texts = reply if isinstance(reply, list) else [encode_parameters(reply)]
            sent.append(encode_written([*self._held, *texts[:-1]], continues=True))
            self._held = texts[-1:]
            if texts is reply:
                break
        return b"".join(sent)
