"""One connection's calls and answers: in which order they are served, and what is sent.

The engine between the bytes of a connection and the handlers of a `service`. Whoever owns the
socket carries the bytes, and says when there is a turn to take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, assert_never

from sockbroker.core.service import (
    Answer,
    C,
    Deferred,
    Encoded,
    Failed,
    Failure,
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


class Conversation(Generic[C]):
    """One connection's calls and answers, in order; whoever owns the socket carries the bytes."""

    __slots__ = (
        "_call",
        "_deferred",
        "_held",
        "_inbox",
        "_message",
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
        # Nearly every message comes whole and by itself; what else comes needs an inbox, until that
        # is empty again.
        self._message: bytes | None = None
        self._inbox: Inbox | None = None
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
        if self._message is not None or self._replies is not None:
            return True
        return self._inbox is not None and self._inbox.whole

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._inbox is not None and self._inbox.partial

    @property
    def unserved(self) -> int:
        """How many bytes wait to be served, or for the end of their message."""
        if self._message is not None:
            return len(self._message) + 1
        return 0 if self._inbox is None else self._inbox.size

    @property
    def idle(self) -> bool:
        """Whether nothing runs, waits to be served or has begun."""
        return (
            self._message is None
            and self._inbox is None
            and self._deferred is None
            and self._replies is None
        )

    def receive(self, data: bytes) -> None:
        """Take what the peer sent; raises ProtocolError if that is too much."""
        inbox = self._inbox
        if inbox is None:
            if self._message is None and 0 <= data.find(b"\0") == len(data) - 1 <= MESSAGE_LIMIT:
                self._message = data[:-1]
                return
            inbox = self._inbox = Inbox()
            if self._message is not None:
                inbox.feed(self._message + b"\0")
                self._message = None
        inbox.feed(data)
        if inbox.size > BACKLOG_LIMIT:
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
            return self._send(self._call, answer)
        message, self._message = self._message, None
        if message is None:
            message = self._next()
            if message is None:
                return None
        call, action = self._service.prepare(message)
        if isinstance(action, Failure):
            return self._send(call, action)
        try:
            answer = action(self.context, call)
        except Failed as failed:
            answer = failed.failure
        return self._send(call, answer)

    def _next(self) -> bytes | None:
        """Take the oldest whole message out of the inbox, and let an empty one go."""
        if self._inbox is None:
            return None
        message = self._inbox.next()
        if not self._inbox.size and not self._inbox.whole:
            self._inbox = None
        return message

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
        self._message = self._inbox = None
        self.on_ready = None

    def _send(self, call: Call, answer: Answer) -> bytes:
        match answer:
            case Encoded(message):
                return b"" if call.oneway else message
            case Reply(parameters):
                # Even an error is not sent to who wants no reply: he takes the next message for
                # the answer to his next call.
                return b"" if call.oneway else encode_reply(parameters)
            case Failure(error, parameters):
                return b"" if call.oneway else encode_error(error, parameters)
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
                return self._send(call, answer.answer)
            case _:
                assert_never(answer)

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
