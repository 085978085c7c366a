"""What a Varlink service does with a call: checks it, knows whom to ask, and what an answer can be.

It is the same for every connection, and implements org.varlink.service itself. It knows neither
sockets nor what the interfaces are about. A handler returns its answer as a value, so that what may
take long (`Deferred`, `Series`) never makes another connection wait; `conversation` sends it.

What every call makes or reads is a frozen dataclass with slots: a named tuple takes longer to make,
and twice as long to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from sockbroker.core.idl import Interface, Struct
from sockbroker.core.varlink import NOTHING, Call, decode_call

STANDARD = "org.varlink.service"
"""The interface that every service has; its errors can answer any call."""

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

    parameters: Mapping[str, object] = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The one reply to a call as `encode_reply` wrote it, for what is answered again and again."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that a call ends with, by its full name."""

    error: str
    parameters: Mapping[str, object] = field(default_factory=lambda: NOTHING)

    def __call__(self, _context: object, _call: Call) -> Failure:
        """Answer a call of which is known before that it fails."""
        return self


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

    __slots__ = ("answer", "cancelled", "wake")

    def __init__(self) -> None:
        self.cancelled = False
        """True once nobody waits for the answer any more."""
        self.answer: Answer | None = None
        self.wake: Callable[[], None] | None = None
        """Called when the answer has come."""

    def resolve(self, answer: Answer) -> None:
        """Give the answer. Only the first one counts, and none after `cancelled`."""
        if self.answer is None and not self.cancelled:
            self.answer = answer
            if self.wake is not None:
                self.wake()


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


@dataclass(frozen=True, slots=True)
class Prepared(Generic[C]):
    """A call that was read and checked, and whom to ask: a `Failure` where it is wrong."""

    call: Call
    handler: Handler[C]


class _Method(NamedTuple, Generic[C]):
    """Something that can be called."""

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
        self.known: Callable[[bytes], Prepared[C] | None] = self._remembered.get
        """What `prepare` made of a call before; None for anything but one such call."""

    def prepare(self, data: bytes) -> Prepared[C]:
        """Read a call as it was sent, with its NUL, and find its handler; raises ProtocolError.

        What comes out depends on the bytes alone, not on who sent them or on any policy, so it may
        be remembered, which makes a call that came before nearly free. What is remembered is shared
        by all peers: only good calls, so that rubbish pushes nothing out, and only those without
        anything in them that a handler could change.
        """
        prepared = self._remembered.get(data)
        if prepared is not None:
            return prepared
        call = decode_call(data[:-1])
        handler = self._handler(call)
        prepared = Prepared(call, handler)
        if len(data) > REMEMBERED_LENGTH or isinstance(handler, Failure):
            return prepared
        for value in call.parameters.values():
            if type(value) is dict or type(value) is list:
                return prepared
        if len(self._remembered) >= REMEMBERED:
            del self._remembered[next(iter(self._remembered))]  # the oldest
        self._remembered[data] = prepared
        return prepared

    def _handler(self, call: Call) -> Handler[C]:
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
