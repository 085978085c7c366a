"""Varlink interface definitions: the text of one as values, and which JSON values fit its types.

The text of an interface is what introspection sends and what calls are checked against, so the two
cannot disagree. The language is that of UAPI.20, whole. Definitions are part of the program, values
come from peers: reading a definition may be slow, checking a value must be neither slow nor
recursive beyond the depth that `varlink` lets through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, TypeAlias

DEPTH_LIMIT = 16
"""Levels of types within types in one member: messages have no more either."""

LARGEST_INT = 2**63 - 1
SMALLEST_INT = -(2**63)

_LARGEST_FLOAT = int(1.7976931348623157e308)


class IdlError(Exception):
    """The text is no interface definition."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}")
        self.line = line
        self.what = what


# Every type has `fault(value)`, for a value out of JSON: None if it fits, the path to what does not
# below it, or "" for itself.


def _is_float(value: object) -> bool:
    # A number without fraction is a float as well, unless no float is near it.
    return type(value) is float or (type(value) is int and abs(value) <= _LARGEST_FLOAT)


_FITS: dict[str, Callable[[object], bool]] = {
    "bool": lambda value: type(value) is bool,
    "int": lambda value: type(value) is int and SMALLEST_INT <= value <= LARGEST_INT,
    "float": _is_float,
    "string": lambda value: type(value) is str,
    "object": lambda value: type(value) is dict,
    "any": lambda value: value is not None,
}


class Primitive(NamedTuple):
    """A type that is a keyword."""

    keyword: str

    def fault(self, value: object) -> str | None:
        return None if _FITS[self.keyword](value) else ""


class Enumeration(NamedTuple):
    """One name out of several."""

    names: tuple[str, ...]

    def fault(self, value: object) -> str | None:
        return None if type(value) is str and value in self.names else ""


@dataclass(frozen=True, slots=True)
class Nullable:
    """Absent, null, or of the type."""

    of: Type

    def fault(self, value: object) -> str | None:
        return None if value is None else self.of.fault(value)


@dataclass(frozen=True, slots=True)
class Array:
    """Any number of values of one type, in order."""

    of: Type

    def fault(self, value: object) -> str | None:
        if type(value) is not list:
            return ""
        return _first_fault(self.of, enumerate(value))


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Values of one type by strings; with the empty structure as type, a set of strings."""

    of: Type

    def fault(self, value: object) -> str | None:
        if type(value) is not dict:
            return ""
        return _first_fault(self.of, value.items())


class Struct(NamedTuple):
    """Named fields, each of its own type."""

    fields: Mapping[str, Type]

    def fault(self, value: object) -> str | None:
        return self.check(value) if type(value) is dict else ""

    def check(self, value: Mapping[str, object]) -> str | None:
        """Return None if the fields fit, else the name of the first that does not.

        That is one that is missing, wrong (then dots lead to what is wrong below it) or unknown.
        """
        fields = self.fields
        for name, kind in fields.items():
            given = value.get(name)
            if given is None:
                if type(kind) is not Nullable:
                    return name
                continue
            below = kind.fault(given)
            if below is not None:
                return f"{name}.{below}" if below else name
        for name in value:
            if name not in fields:
                return name
        return None


@dataclass(frozen=True, slots=True)
class Named:
    """A reference to a type that the interface defines, before or after."""

    name: str
    definitions: Mapping[str, Struct | Enumeration] = field(repr=False, compare=False)

    def fault(self, value: object) -> str | None:
        return self.definitions[self.name].fault(value)


Type: TypeAlias = Primitive | Enumeration | Nullable | Array | Dictionary | Struct | Named


def _first_fault(kind: Type, values: Iterable[tuple[object, object]]) -> str | None:
    for place, value in values:
        below = kind.fault(value)
        if below is not None:
            return f"{place}.{below}" if below else str(place)
    return None


class Method(NamedTuple):
    """What a call carries, and each of its replies."""

    parameters: Struct
    reply: Struct


class Interface(NamedTuple):
    """A definition that was read; `description` is its text, unchanged."""

    name: str
    description: str
    types: Mapping[str, Struct | Enumeration]
    methods: Mapping[str, Method]
    errors: Mapping[str, Struct]


def parse(text: str) -> Interface:
    """Read an interface definition; raises IdlError at the first thing that is wrong."""
    return _Reader(text).interface()


_LINE_END = r"\r\n|[\n\r\u2028\u2029]"
_BLANK = r"[ \t\u00a0\ufeff\u1680\u180e\u2000-\u200a\u202f\u205f\u3000]"
_COMMENT = r"#[^\n\r\u2028\u2029]*+"
_SPACE = re.compile(rf"(?:{_BLANK}|{_LINE_END}|{_COMMENT})*+")
_REST_OF_LINE = re.compile(rf"{_BLANK}*+(?:{_COMMENT})?(?:{_LINE_END}|\Z)")
_INTERFACE_NAME = re.compile(r"[A-Za-z](?:-*[A-Za-z0-9])*(?:\.[A-Za-z0-9](?:-*[A-Za-z0-9])*)+")
_NAME = re.compile(r"[A-Z][A-Za-z0-9]*")
_FIELD_NAME = re.compile(r"[A-Za-z](?:_?[A-Za-z0-9])*")
_KEYWORD = re.compile(r"[a-z]+")


class _Reader:
    """Goes through the text once; knows where it is."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._types: dict[str, Struct | Enumeration] = {}
        self._methods: dict[str, Method] = {}
        self._errors: dict[str, Struct] = {}
        self._references: list[tuple[int, str]] = []

    def interface(self) -> Interface:
        self._space()
        if self._keyword() != "interface":
            self._fail("an interface definition begins with `interface`")
        name = self._match(_INTERFACE_NAME, "the name of an interface")
        self._end_line()
        self._member()
        while self._at < len(self._text):
            self._member()
        for at, reference in self._references:
            if reference not in self._types:
                self._fail(f"there is no type {reference}", at)
        return Interface(name, self._text, self._types, self._methods, self._errors)

    def _member(self) -> None:
        keyword = self._keyword()
        at = self._at
        if keyword not in {"type", "method", "error"}:
            self._fail("`type`, `method` or `error` is missing")
        name = self._match(_NAME, f"the name of the {keyword}")
        if name in self._types or name in self._methods or name in self._errors:
            self._fail(f"{name} is there already", at)
        self._space()
        if keyword == "type":
            self._types[name] = self._struct_or_enumeration(1)
        elif keyword == "error":
            self._errors[name] = self._struct()
        else:
            parameters = self._struct()
            self._space()
            self._expect("->")
            self._space()
            self._methods[name] = Method(parameters, self._struct())
        self._end_line()

    def _struct(self) -> Struct:
        at = self._at
        kind = self._struct_or_enumeration(1)
        if not isinstance(kind, Struct):
            self._fail("fields have types here", at)
        return kind

    def _struct_or_enumeration(self, depth: int) -> Struct | Enumeration:
        self._expect("(")
        self._space()
        if self._take(")"):
            return Struct({})
        fields: dict[str, Type] = {}
        names: list[str] = []
        while True:
            self._space()
            at = self._at
            name = self._match(_FIELD_NAME, "the name of a field")
            if name in names:
                self._fail(f"{name} is there already", at)
            names.append(name)
            self._space()
            if self._take(":"):
                self._space()
                fields[name] = self._type(depth + 1)
                self._space()
            if 0 < len(fields) < len(names):
                self._fail("all fields have a type, or none", at)
            if not self._take(","):
                break
        self._expect(")")
        return Struct(fields) if fields else Enumeration(tuple(names))

    def _type(self, depth: int) -> Type:
        if depth > DEPTH_LIMIT:
            self._fail("too many types within types")
        if self._take("?"):
            if self._text.startswith("?", self._at):
                self._fail("`??` is no more than `?`")
            return Nullable(self._type(depth + 1))
        if self._take("[]"):
            return Array(self._type(depth + 1))
        if self._take("[string]"):
            return Dictionary(self._type(depth + 1))
        if self._text.startswith("(", self._at):
            return self._struct_or_enumeration(depth)
        at = self._at
        name = self._match(_FIELD_NAME, "a type")
        if name in _FITS:
            return Primitive(name)
        if _NAME.fullmatch(name) is None:
            self._fail(f"{name} is no type", at)
        self._references.append((at, name))
        return Named(name, self._types)

    def _keyword(self) -> str:
        word = self._match(_KEYWORD, "a keyword")
        if not self._space():
            self._fail(f"a space is missing after `{word}`")
        return word

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            self._fail(f"{what} is missing")
        self._at = found.end()
        return found.group()

    def _take(self, token: str) -> bool:
        if not self._text.startswith(token, self._at):
            return False
        self._at += len(token)
        return True

    def _expect(self, token: str) -> None:
        if not self._take(token):
            self._fail(f"`{token}` is missing")

    def _space(self) -> bool:
        """Skip blanks, line ends and comments; say whether there were any."""
        before = self._at
        found = _SPACE.match(self._text, before)
        self._at = before if found is None else found.end()
        return self._at > before

    def _end_line(self) -> None:
        found = _REST_OF_LINE.match(self._text, self._at)
        if found is None:
            self._fail("the line has to end here")
        self._at = found.end()
        self._space()

    def _fail(self, what: str, at: int | None = None) -> NoReturn:
        line = 1 + self._text.count("\n", 0, self._at if at is None else at)
        raise IdlError(line, what)
