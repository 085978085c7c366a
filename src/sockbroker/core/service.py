"""What a Varlink service does with calls: whom it asks, in which order it answers, and how.

The engine between the bytes of one connection and the handlers of the interfaces that are served;
it implements org.varlink.service itself. It knows neither sockets nor what the interfaces are
about. A handler returns its answer as a value, so that what may take long (`Deferred`, `Series`)
never makes another connection wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeAlias, TypeVar, assert_never

from sockbroker.core.idl import Interface, Struct
from sockbroker.core.varlink import (
    MESSAGE_LIMIT,
    Call,
    Inbox,
    ProtocolError,
    decode_call,
    encode_error,
    encode_parameters,
    encode_reply,
    encode_written,
)

STANDARD = "org.varlink.service"
"""The interface that every service has; its errors can answer any call."""

REPLIES_A_TURN = 64
"""Replies of a series before the others have their turn: under a millisecond."""

BACKLOG_LIMIT = 16 * MESSAGE_LIMIT
"""Bytes that wait in one conversation, whatever the server reads: pipelining needs no more."""

REMEMBERED = 256
"""Calls whose preparation is remembered: usual traffic has as many distinct ones as apps."""

REMEMBERED_LENGTH = 512
"""Bytes of the longest call that is remembered; the memory stays under half a megabyte."""

ECHOED = 256
"""Characters of a name that an error sends back: a peer cannot have a reply of any length made."""

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Reply:
    """The one reply to a call."""

    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The one reply to a call as `encode_reply` wrote it, for what is answered again and again."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that a call ends with, by its full name."""

    error: str
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Series:
    """The replies to a call with `more`, one at least.

    None instead of a reply means: nothing yet, ask again in a later turn. A list has the
    replies of a whole turn, one at least, as `encode_parameters` writes them. The iterator may
    raise `Failed` to end with an error, and is closed if the peer goes before its end.
    """

    replies: Replies


class Deferred:
    """An answer that will come later, from the thread that runs the conversation."""

    __slots__ = ("_answer", "_wake", "cancelled")

    def __init__(self) -> None:
        self.cancelled = False
        """True once nobody waits for the answer any more."""
        self._answer: Answer | None = None
        self._wake: Callable[[], None] | None = None

    def resolve(self, answer: Answer) -> None:
        """Give the answer. Only the first one counts, and none after `cancelled`."""
        if self._answer is None and not self.cancelled:
            self._answer = answer
            if self._wake is not None:
                self._wake()


Answer: TypeAlias = Encoded | Reply | Failure | Series | Deferred
Replies: TypeAlias = Iterator[Mapping[str, object] | list[str] | None]
Handler: TypeAlias = Callable[[C, Call], Answer]


class Failed(Exception):
    """Raised by a handler or in a series, where that is simpler than returning the failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error)
        self.failure = failure


@dataclass(frozen=True)  # without slots, which break `Binding[Session](...)`
class Binding(Generic[C]):
    """An interface, and what answers its methods; those without a handler are not implemented."""

    interface: Interface
    handlers: Mapping[str, Handler[C]] = field(default_factory=dict)
    needs_more: frozenset[str] = frozenset()
    """Methods that answer ExpectedMore to a call without `more`."""

    def __post_init__(self) -> None:
        for name in (*self.handlers, *self.needs_more):
            if name not in self.interface.methods:
                raise ValueError(f"{self.interface.name} has no method {name}")


class Prepared(NamedTuple, Generic[C]):
    """A call that was read and checked, and whom to ask; or why nobody will be asked."""

    call: Call
    action: Handler[C] | Failure


@dataclass(frozen=True, slots=True)
class _Method(Generic[C]):
    parameters: Struct
    handler: Handler[C] | None
    needs_more: bool


class Service(Generic[C]):
    """What is served, the same for every connection."""

    def __init__(
        self, vendor: str, product: str, version: str, url: str, bindings: Iterable[Binding[C]]
    ) -> None:
        """Serve the interfaces, and say so when asked.

        One binding is that of org.varlink.service, without handlers: those are here. Raises
        ValueError if it is missing, has handlers, or if an interface is there twice.
        """
        interfaces: dict[str, Interface] = {}
        self._methods: dict[str, _Method[C]] = {}
        for binding in bindings:
            name = binding.interface.name
            handlers = binding.handlers
            if name in interfaces or (name == STANDARD and handlers):
                raise ValueError(f"{name} is answered twice")
            if name == STANDARD:
                handlers = {
                    "GetInfo": self._get_info,
                    "GetInterfaceDescription": self._get_interface_description,
                }
            interfaces[name] = binding.interface
            for method, signature in binding.interface.methods.items():
                self._methods[f"{name}.{method}"] = _Method(
                    signature.parameters, handlers.get(method), method in binding.needs_more
                )
        if STANDARD not in interfaces:
            raise ValueError(f"{STANDARD} is missing")
        self._interfaces = interfaces
        self._about = {
            "vendor": vendor,
            "product": product,
            "version": version,
            "url": url,
            "interfaces": [STANDARD, *(name for name in interfaces if name != STANDARD)],
        }
        self._remembered: dict[bytes, Prepared[C]] = {}

    def prepare(self, message: bytes) -> Prepared[C]:
        """Read a call and find its handler; raises ProtocolError.

        What comes out depends on the bytes alone, not on who sent them or on any policy, so it may
        be remembered, which makes a call that came before nearly free. What is remembered is shared
        by all peers: only good calls, so that rubbish pushes nothing out, and only those without
        anything in them that a handler could change.
        """
        prepared = self._remembered.get(message)
        if prepared is not None:
            return prepared
        call = decode_call(message)
        action = self._action(call)
        prepared = Prepared(call, action)
        if len(message) > REMEMBERED_LENGTH or isinstance(action, Failure):
            return prepared
        for value in call.parameters.values():
            if type(value) is dict or type(value) is list:
                return prepared
        if len(self._remembered) >= REMEMBERED:
            del self._remembered[next(iter(self._remembered))]  # the oldest
        self._remembered[message] = prepared
        return prepared

    def _action(self, call: Call) -> Handler[C] | Failure:
        method = self._methods.get(call.method)
        if method is None:
            interface, _, name = call.method.rpartition(".")
            if interface in self._interfaces:
                return _standard_failure("MethodNotFound", method=call.method)
            return _standard_failure("InterfaceNotFound", interface=interface or name)
        if method.handler is None or call.upgrade:  # nothing here takes a connection over
            return _standard_failure("MethodNotImplemented", method=call.method)
        if method.needs_more and not call.more:
            return _standard_failure("ExpectedMore")
        wrong = method.parameters.check(call.parameters)
        if wrong is not None:
            return _standard_failure("InvalidParameter", parameter=wrong)
        return method.handler

    def _get_info(self, _context: C, _call: Call) -> Answer:
        return Reply(self._about)

    def _get_interface_description(self, _context: C, call: Call) -> Answer:
        name = str(call.parameters["interface"])
        interface = self._interfaces.get(name)
        if interface is None:
            return _standard_failure("InterfaceNotFound", interface=name)
        return Reply({"description": interface.description})


def _standard_failure(error: str, **names: str) -> Failure:
    return Failure(f"{STANDARD}.{error}", {key: name[:ECHOED] for key, name in names.items()})


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
            return self._deferred._answer is not None
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
            answer = self._deferred._answer
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
                if answer._answer is None:
                    answer._wake = self._ready
                    return b""
                self._deferred = None
                return self._send(call, answer._answer)
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
