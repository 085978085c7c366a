"""Walks through a text in YAML, hands out plain values with their places, refuses cleverness.

Built on libyaml's events, not on PyYAML's constructors: those run tags, expand aliases, let the
last of two equal keys win, read `no` as false and 0750 as 488, and take several times as long. Here
a scalar stays the text that was written, with the one difference that matters: if it was quoted.

Values are handed out as the text goes by and nothing is kept, so a caller goes through `entries`
and `items` in order; what it does not look into is passed over. Whatever the text, the only
exception is `Stopped`, after the reason for it was reported.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

from sockbroker.core.policy import BEGINNING, Position, Problems

# The largest policies anybody needs have some 10,000 entries of 100 bytes; this is four times that,
# and libyaml reads it in a second.
MAX_BYTES: Final = 4 * 1024 * 1024

# A policy needs five. libyaml itself has no limit worth the name.
MAX_DEPTH: Final = 10

# What no line may contain: controls, separators that count as line ends for YAML and not for an
# editor, what turns the direction of writing, non-characters.
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
    "|\r(?!\n)"
)


class Stopped(Exception):
    """The text cannot be read any further; why is among the problems already."""


class Scalar(NamedTuple):
    """A text, as it was written."""

    text: str
    quoted: bool
    line: int
    column: int

    @property
    def position(self) -> Position:
        return Position(self.line, self.column)


@dataclass(slots=True)
class _Place:
    """Where something stands."""

    line: int
    column: int

    @property
    def position(self) -> Position:
        return Position(self.line, self.column)


@dataclass(slots=True)
class Mapping(_Place):
    """The beginning of keys with values: see `Walk.entries`."""


@dataclass(slots=True)
class Sequence(_Place):
    """The beginning of a list of values: see `Walk.items`."""


@dataclass(slots=True)
class Refused(_Place):
    """Stands for a value that was reported already, so that nobody reports it again."""


Value: TypeAlias = Scalar | Mapping | Sequence | Refused


def decode(data: bytes, problems: Problems) -> str | None:
    """Return the text if people see it as programs read it; else report why not."""
    if len(data) > MAX_BYTES:
        message = f"{len(data)} bytes are more than {MAX_BYTES}; name groups or ranges, not users"
        problems.add(BEGINNING, message)
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        line = before.count("\n") + 1
        position = Position(line, len(before) - (before.rfind("\n") + 1) + 1)
        message = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file in that encoding"
        problems.add(position, message)
        return None
    if _UNSEEN.search(text) is None:
        return text
    *lines, last = text.split("\n")
    for number, line_text in enumerate([*(f"{line}\n" for line in lines), last], 1):
        if (match := _UNSEEN.search(line_text)) is not None:
            position = Position(number, match.start() + 1)
            message = f"character U+{ord(match.group()[0]):04X} cannot be seen; remove it"
            problems.add(position, message)
    return None


class Walk:
    """One walk through one text. What is wrong is added to `problems`."""

    def __init__(self, text: str, problems: Problems) -> None:
        # Here and not above: the client imports this package and does without PyYAML.
        from yaml import YAMLError, events
        from yaml.cyaml import CParser  # type: ignore[attr-defined]  # not in its __all__

        self._get_event: Callable[[], Any] = CParser(text).get_event
        self._error = YAMLError
        self._events = events
        # Looked up once, for the sake of speed: there is one of these for each word of the text.
        self._scalar_event = events.ScalarEvent
        self._end_events = (events.MappingEndEvent, events.SequenceEndEvent)
        self._report = problems.add
        self._depth = 0

    def root(self) -> Value | None:
        """Return the value that the text consists of; None if there is nothing but comments."""
        self._next_event()  # the beginning of the stream
        if type(self._next_event()) is self._events.StreamEndEvent:
            return None
        return self._next_value()

    def finish(self) -> None:
        """See that nothing follows the value that `root` returned."""
        self._pass_over(0)
        self._next_event()  # the end of the document
        event = self._next_event()
        if type(event) is not self._events.StreamEndEvent:
            self._stop(_position(event), "a second document begins here; keep one, without ---")

    def entries(self, _: Mapping) -> Iterator[tuple[Scalar, Value]]:
        """Yield keys with their values, of the mapping that was handed out last."""
        depth = self._depth
        lines: dict[str, int] = {}
        while (key := self._next_value()) is not None:
            if type(key) is Scalar and key.text not in lines and key.text != "<<":
                lines[key.text] = key.line
                # libyaml gives every key a value, an empty one if need be.
                yield key, self._next_value()  # type: ignore[misc]
            else:
                self._refuse_key(key, lines)
                self._pass_over(depth)
                self._next_value()
            if self._depth > depth:
                self._pass_over(depth)

    def items(self, _: Sequence) -> Iterator[Value]:
        """Yield the values of the sequence that was handed out last."""
        depth = self._depth
        while (item := self._next_value()) is not None:
            yield item
            if self._depth > depth:
                self._pass_over(depth)

    def _refuse_key(self, key: Value, lines: dict[str, int]) -> None:
        """Say why something cannot be a key here."""
        if not isinstance(key, Scalar):
            if not isinstance(key, Refused):
                message = "a list or mapping cannot be a key; write a plain word"
                self._report(key.position, message)
        elif key.text in lines:
            message = f"key {quote(key.text)} is in line {lines[key.text]} already"
            self._report(key.position, f"{message}; remove one of the two")
        else:
            self._report(key.position, "merge keys (<<) are not understood; write the keys out")

    def _pass_over(self, depth: int) -> None:
        """Go on to where the collections below `depth` are at an end."""
        while self._depth > depth:
            self._next_value()

    def _next_value(self) -> Value | None:
        """Return the next value, or None at the end of the collection that is open."""
        try:
            event = self._get_event()
        except self._error as error:
            self._stop_at_syntax(error)
        kind = type(event)
        mark = event.start_mark
        if kind is self._scalar_event:
            if event.anchor is not None or event.tag is not None:
                self._refuse_decoration(event)
            # What Scalar(...) does, in half the time.
            parts = (event.value, event.style != "", mark.line + 1, mark.column + 1)
            return tuple.__new__(Scalar, parts)
        if kind in self._end_events:
            self._depth -= 1
            return None
        line, column = mark.line + 1, mark.column + 1
        if kind is self._events.AliasEvent:
            message = "aliases (*) are not understood; write the value out"
            self._report(Position(line, column), message)
            return Refused(line, column)
        if event.anchor is not None or event.tag is not None:
            self._refuse_decoration(event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            message = f"this is deeper than {MAX_DEPTH} levels; no policy needs that"
            self._stop(Position(line, column), message)
        if kind is self._events.MappingStartEvent:
            return Mapping(line, column)
        return Sequence(line, column)

    def _next_event(self) -> Any:
        """Return the next event, where it is one about the text as a whole."""
        try:
            return self._get_event()
        except self._error as error:
            self._stop_at_syntax(error)

    def _stop_at_syntax(self, error: Exception) -> NoReturn:
        # libyaml says "while parsing a block mapping" and "did not find expected key".
        mark = getattr(error, "problem_mark", None)
        said = filter(None, (getattr(error, "context", None), getattr(error, "problem", None)))
        position = BEGINNING if mark is None else Position(mark.line + 1, mark.column + 1)
        self._stop(position, f"not YAML: {', '.join(said)}; check indentation and quotes")

    def _refuse_decoration(self, event: Any) -> None:
        position = _position(event)
        if event.anchor is not None:
            self._report(position, "anchors (&) are not understood; remove it")
        if event.tag is not None:
            self._report(position, "tags (!) are not understood; remove it")

    def _stop(self, position: Position, message: str) -> NoReturn:
        self._report(position, f"{message}; what follows was not read")
        raise Stopped


def quote(text: str) -> str:
    """Show a text from a file: what a terminal might act on is escaped, what is long is cut."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _position(event: Any) -> Position:
    return Position(event.start_mark.line + 1, event.start_mark.column + 1)
