"""One blocking Varlink connection to the broker: send a call, read its replies, by a deadline.

The engine in core.varlink answers strangers and is strict in every way that UAPI.20 asks for. This
end has seen that root answers, needs none of it, and must start in a few milliseconds; so it stands
on the C parts of `socket` and `json` alone (importing the whole of both takes longer than the
interpreter itself).
"""

import time
from _json import encode_basestring_ascii, make_scanner
from _socket import MSG_NOSIGNAL

from sockbroker.address import Address, connect
from sockbroker.errors import ConnectionLost, ProtocolFault, TimedOut, from_reply

# Replies are a few hundred bytes; Status lists every problem there is. More than this is not the
# broker.
REPLY_LIMIT = 16 * 1024 * 1024

READ_SIZE = 64 * 1024

# A timeout without end is a caller's to choose, but more than the kernel's clock takes.
LONGEST_WAIT = 86_400.0

# What a call may carry; the interface has no other types on the way in.
Value = str | int | bool


class _Decoding:
    """What json.JSONDecoder would tell the scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> object:
        raise ValueError(f"{name} is no JSON")


# The C scanner behind json.loads; it is all of it but the blanks around the text.
_scan = make_scanner(_Decoding())  # type: ignore[arg-type]  # typeshed names no type for it


class Connection:
    """A connection to the broker for one call; a context manager that closes it."""

    __slots__ = ("_deadline", "_received", "_scanned", "_socket")

    def __init__(self, addresses: tuple[Address, ...], *, deadline: float, verify: bool) -> None:
        self._deadline = deadline
        self._received = bytearray()
        self._scanned = 0
        self._socket = connect(addresses, deadline=deadline, verify=verify)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, method: str, parameters: dict[str, Value], *, more: bool = False) -> None:
        """Send one call. If the other end has gone, that shows when its reply is read."""
        try:
            self._socket.settimeout(self._remaining())
            self._socket.sendall(encode_call(method, parameters, more=more), MSG_NOSIGNAL)
        except TimeoutError:
            raise self._timed_out() from None
        except OSError:
            pass

    def receive(self) -> tuple[list[dict[str, object]], bool]:
        """Return the parameters of what replies have come, one at least, and if more follow.

        Raises what an error means.
        """
        received = self._received
        while (end := received.rfind(0, self._scanned)) < 0:
            self._scanned = len(received)
            if len(received) > REPLY_LIMIT:
                raise ProtocolFault("the broker sends a reply without end: look at its log")
            try:
                self._socket.settimeout(self._remaining())
                chunk = self._socket.recv(READ_SIZE)
            except TimeoutError:
                raise self._timed_out() from None
            except OSError:
                chunk = b""
            if not chunk:
                raise ConnectionLost(
                    "the broker closed the connection before it answered: try again"
                )
            received += chunk
        messages = bytes(received[: end + 1])
        del received[: end + 1]
        self._scanned = 0
        return decode_replies(messages)

    def _remaining(self) -> float:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise self._timed_out()
        return min(remaining, LONGEST_WAIT)

    def _timed_out(self) -> TimedOut:
        return TimedOut(
            "the broker did not answer in time: try again with a longer timeout, "
            "or ask an operator to look at `systemctl status sockbroker`"
        )


def encode_call(method: str, parameters: dict[str, Value], *, more: bool = False) -> bytes:
    """Give the message for a call, with its NUL."""
    fields = ",".join(
        [f"{encode_basestring_ascii(k)}:{_literal(v)}" for k, v in parameters.items()]
    )
    named = f',"parameters":{{{fields}}}' if fields else ""
    flag = ',"more":true' if more else ""
    return f'{{"method":{encode_basestring_ascii(method)}{named}{flag}}}\0'.encode("ascii")


def decode_replies(messages: bytes) -> tuple[list[dict[str, object]], bool]:
    """Give the parameters of each reply up to the last of its call, and whether more follow.

    What every reply of a long list is like is read in one go, and all else by `decode_reply`.
    """
    replies: list[dict[str, object]] = []
    start = 0
    try:
        text = messages.decode("utf-8")
        start = _read_usual(text, replies)
        if start == len(text):
            return replies, True
        messages = text[start:].encode("utf-8")
    except UnicodeDecodeError:
        pass
    for message in messages[:-1].split(b"\0"):
        parameters, continues = decode_reply(message)
        replies.append(parameters)
        if not continues:
            return replies, False
    return replies, True


def _read_usual(text: str, replies: list[dict[str, object]]) -> int:
    """Read replies that others follow; return where the first begins that is anything else.

    No message goes on behind its NUL, which is no part of JSON, not even of a string.
    """
    start = 0
    try:
        while True:
            value, end = _scan(text, start)
            parameters = value["parameters"]
            if value["continues"] is not True or len(value) != 2 or type(parameters) is not dict:
                return start
            if text[end] != "\0":
                return start
            replies.append(parameters)
            start = end + 1
    except Exception:  # see _read_json
        return start


def decode_reply(message: bytes) -> tuple[dict[str, object], bool]:
    """Give a reply's parameters, and whether more follow; raises what an error means."""
    match _read_json(message):
        case {"error": str(error), **others}:
            parameters = others.get("parameters")
            raise from_reply(error, parameters if isinstance(parameters, dict) else {})
        case {**others} if others.get("error") is None:
            parameters = others.get("parameters")
            continues = others.get("continues")
            if isinstance(parameters, dict | None) and isinstance(continues, bool | None):
                return parameters or {}, bool(continues)
    raise ProtocolFault("the broker sent something that is no reply: look at its log")


def _read_json(message: bytes) -> object:
    try:
        text = message.decode("utf-8").strip(" \t\r\n")
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except Exception:  # noqa: S110
        # The scanner takes its exceptions from json.decoder, which is not imported; without it
        # anything may come out (a SystemError in 3.11). So what it cannot read is read again by
        # json itself.
        pass
    from json import loads

    try:
        return loads(message, parse_constant=_Decoding.parse_constant)
    except (ValueError, RecursionError):
        raise ProtocolFault("the broker sent something that is no JSON: look at its log") from None


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
