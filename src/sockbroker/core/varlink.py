"""Varlink messages: where each one ends in a stream of bytes, and what it says.

Calls are read and replies are written, as a service does it. Strict as UAPI.20 asks: what is not
exactly a call raises `ProtocolError`, after which the connection has to be closed, because nobody
can tell any more what the peer means. Whether a well-formed call makes sense is decided in
`service`. The client has a codec of its own in `connection`, which takes less to import.
"""

from __future__ import annotations

import json
import re
from _json import encode_basestring_ascii, make_encoder
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

MESSAGE_LIMIT = 16 * 1024
"""Bytes of one message, without the NUL that ends it: a hundred times our largest call."""

NESTING_LIMIT = 16
"""Levels of objects and arrays in one message, the message itself included; ours have three."""

_SHOWN = 40
"""Characters of a peer's text that an error quotes."""


class ProtocolError(Exception):
    """The peer broke the protocol. The text is short, ASCII and without control characters."""


NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Call:
    """A method call, well-formed; at most one of the three flags is set.

    Calls are shared between connections (`service` remembers them), so nobody may change one.
    """

    method: str
    parameters: Mapping[str, object] = field(default_factory=lambda: NOTHING)
    oneway: bool = False
    more: bool = False
    upgrade: bool = False


class Inbox:
    """The bytes that a peer sent and nobody took yet, cut into messages."""

    __slots__ = ("_broken", "_buffer", "_limit", "_tail")

    def __init__(self, *, limit: int = MESSAGE_LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._tail = 0  # bytes after the last NUL; knowing it, no byte is searched twice
        self._broken = False  # what follows the whole messages is too long, and not kept

    def feed(self, data: bytes) -> None:
        """Append what was received; raises ProtocolError if an unfinished message is too long.

        Where whole messages wait before it, `next` raises that once they are taken: what a peer
        gets does not depend on how much was received at a time.
        """
        if self._broken:
            return
        newest = data.rfind(b"\0")
        tail = self._tail + len(data) if newest < 0 else len(data) - newest - 1
        if tail > self._limit:
            if newest < 0 and self._tail == len(self._buffer):
                raise self._too_long()
            self._broken = True
            if newest < 0:
                del self._buffer[len(self._buffer) - self._tail :]
            data = data[: newest + 1]
            tail = 0
        self._tail = tail
        self._buffer += data

    def next(self) -> bytes | None:
        """Take the oldest whole message, less its NUL; raises ProtocolError if it is too long."""
        if not self.whole:
            return None
        if self._tail == len(self._buffer):
            raise self._too_long()
        end = self._buffer.find(b"\0", 0, self._limit + 1)
        if end < 0:
            raise self._too_long()
        message = bytes(self._buffer[:end])
        del self._buffer[: end + 1]  # moves a pointer, not the rest
        return message

    @property
    def whole(self) -> bool:
        """Whether there is a message to take, or one that is too long to refuse."""
        return self._tail < len(self._buffer) or self._broken

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._tail > 0

    @property
    def size(self) -> int:
        """How many bytes wait."""
        return len(self._buffer)

    @property
    def empty(self) -> bool:
        """Whether everything was taken."""
        return not self._buffer and not self._broken

    def _too_long(self) -> ProtocolError:
        return ProtocolError(f"a message longer than {self._limit} bytes")


def decode_call(message: bytes) -> Call:
    """Read a call; raises ProtocolError for anything that UAPI.20 does not call one."""
    members = _decode(message)
    method = members.pop("method", None)
    parameters = members.pop("parameters", None)
    oneway = more = upgrade = False
    if members:  # unusual
        oneway = _flag("oneway", members.pop("oneway", False))
        more = _flag("more", members.pop("more", False))
        upgrade = _flag("upgrade", members.pop("upgrade", False))
        for name in members:
            _extension(name)
    if type(method) is not str:
        raise ProtocolError("a call without a method")
    if oneway + more + upgrade > 1:
        raise ProtocolError("more than one of oneway, more and upgrade")
    return Call(method, MappingProxyType(_parameters(parameters)), oneway, more, upgrade)


def encode_reply(
    parameters: Mapping[str, object] | None = None, *, continues: bool = False
) -> bytes:
    """Write a reply, with the NUL. Fields that are None are left out, at every depth.

    Raises ValueError or TypeError for what is no JSON: NaN, lone surrogates, other objects.
    """
    return _message("", parameters, ',"continues":true' if continues else "")


def encode_parameters(parameters: Mapping[str, object]) -> str:
    """Write what `encode_reply` has as its parameters, for `encode_written`; raises as it does."""
    text = _to_json(dict(parameters))
    if "null" in text:
        text = _to_json(_without_none(parameters))
    if "\\ud" in text:
        _to_text(dict(parameters)).encode("utf-8")  # refuses half a surrogate pair
    return text


def encode_written(texts: Sequence[str], *, continues: bool = False) -> bytes:
    """Write a reply, with the NUL, for each of these texts, which are parameters as JSON."""
    if not texts:
        return b""
    end = ',"continues":true}\0' if continues else "}\0"
    between = f'{end}{{"parameters":'
    return f'{{"parameters":{between.join(texts)}{end}'.encode("ascii")


def encode_error(error: str, parameters: Mapping[str, object] | None = None) -> bytes:
    """Write an error by its full name, with the NUL; otherwise as `encode_reply`."""
    return _message(f'"error":{_to_json(error)}', parameters, "")


# Reading JSON.  The standard library's is lenient in all that follows, and a peer chooses the text.


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Two readers of one message could see two different calls if the last of a kind won."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ProtocolError("an object with a member twice")
    return members


_INFINITY = float("inf")


def _finite(text: str) -> float:
    number = float(text)
    if number in (_INFINITY, -_INFINITY):  # 1e999
        raise ProtocolError("a number out of range")
    return number


def _constant(text: str) -> object:
    raise ProtocolError("NaN or Infinity")


_from_json = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_constant
).raw_decode

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Always matches from a quote to the next bare one or to the end, so a text full of quotes and
# backslashes costs one pass.
_STRING = re.compile(rb'"(?:[^"\\]|\\.?)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ALIKE = bytes.maketrans(b"{}", b"[]")


def _nested_too_deeply(message: bytes) -> bool:
    """Tell before the decoder recurses; malformed nesting may be called too deep as well."""
    brackets = _STRING.sub(b"", message).translate(_ALIKE, _NO_BRACKETS)
    for _ in range(NESTING_LIMIT):
        brackets = brackets.replace(b"[]", b"")  # the innermost level goes
    return bool(brackets)


def _decode(message: bytes) -> dict[str, object]:
    """Read one JSON object that is all of the message."""
    opened = message.count(b"{") + message.count(b"[")
    if opened > NESTING_LIMIT and _nested_too_deeply(message):
        raise ProtocolError(f"not a JSON object of at most {NESTING_LIMIT} levels")
    try:
        text = str(message, "utf-8").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"not UTF-8 at byte {error.start}") from None
    if not text.startswith("{"):
        raise ProtocolError("not a JSON object")
    try:
        members: dict[str, object]
        members, end = _from_json(text)
    except json.JSONDecodeError as error:
        raise ProtocolError(f"malformed JSON at character {error.pos}") from None
    except ValueError:  # int() has a limit of digits, because its time is quadratic
        raise ProtocolError("a number with too many digits") from None
    if end != len(text):
        raise ProtocolError(f"malformed JSON at character {end}")
    if _SURROGATE.search(message) is not None:
        try:
            _to_text(members).encode("utf-8")
        except UnicodeEncodeError:
            raise ProtocolError("half a surrogate pair") from None
    return members


def _flag(name: str, value: object) -> bool:
    if type(value) is not bool:
        raise ProtocolError(f"{name} is neither true nor false")
    return value


def _parameters(value: object) -> dict[str, object]:
    if value is None:
        return {}
    if type(value) is not dict:
        raise ProtocolError("parameters that are no object")
    return value


def _extension(name: str) -> None:
    """Let a vendor's member pass, unread; its name has a dot."""
    if "." not in name:
        raise ProtocolError(f"unknown member {name[:_SHOWN]!a}")


# Writing JSON.

# What json.JSONEncoder makes anew for each text, which takes longer than to write a reply.
_encoder = make_encoder(
    None, json.JSONEncoder().default, encode_basestring_ascii, None, ":", ",", False, False, False
)


def _to_json(value: object) -> str:
    return "".join(_encoder(value, 0))


_to_text = json.JSONEncoder(ensure_ascii=False).encode


def _message(head: str, parameters: Mapping[str, object] | None, tail: str) -> bytes:
    """Join the members before the parameters, these if there are any, and those after them."""
    body = ""
    if parameters:
        body = encode_parameters(parameters)
        body = "" if body == "{}" else f'"parameters":{body}'
    members = f"{head},{body}{tail}" if head and body else (head + body + tail).lstrip(",")
    return f"{{{members}}}\0".encode("ascii")


def _without_none(value: object) -> object:
    """Leave out the members that are None; in a list every place counts, so there they stay."""
    if isinstance(value, Mapping):
        return {name: _without_none(below) for name, below in value.items() if below is not None}
    if isinstance(value, list | tuple):
        return [_without_none(below) for below in value]
    return value
