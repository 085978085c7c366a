"""What `sockbrokerctl sockets` prints: a table for people, JSON for programs.

In pieces, since anybody can bind as many abstract names as he may have descriptors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice

from sockbroker.core.escaping import escape, legible
from sockbroker.socket_listing import ListedSocket
from sockbroker.tables import UNKNOWN, as_json

_AT_ONCE = 1000
"""Rows in a piece."""

_HEADINGS = ("SOCKET", "TYPE", "STATE", "MODE", "OWNER", "PID", "COMMAND", "QUEUE", "NOTE")
_NOTHING = "-"


def sockets_as_json(sockets: Iterable[ListedSocket]) -> Iterator[str]:
    """Give one array of objects."""
    begin = "["
    for objects in _pieces(_object(each) for each in sockets):
        yield begin + ", ".join(objects)
        begin = ", "
    yield "]\n" if begin != "[" else "[]\n"


def _object(listed: ListedSocket) -> str:
    described = listed._asdict()
    owner = listed.owner_name
    if owner is None or (owner.isascii() and owner.isprintable()):
        return json.dumps(described)  # all else is escaped
    return as_json(described).rstrip("\n")


def sockets_as_table(sockets: Iterable[ListedSocket]) -> Iterator[str]:
    """Give one line for each socket below one of headings, nothing for none; reads them twice."""
    widths = [len(heading) for heading in _HEADINGS[:-1]]
    empty = True
    for each in sockets:
        empty = False
        widths = [max(pair) for pair in zip(widths, map(len, _cells(each)), strict=False)]
    if empty:
        return
    yield _line(_HEADINGS, widths)
    for lines in _pieces(_line(_cells(each), widths) for each in sockets):
        yield "".join(lines)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    *aligned, note = cells
    padded = [cell.ljust(width) for cell, width in zip(aligned, widths, strict=True)]
    return "  ".join([*padded, note]).rstrip() + "\n"


def _cells(listed: ListedSocket) -> tuple[str, ...]:
    shown = listed.path if listed.kind != "abstract" else listed.name
    held = listed.state == "live"
    owner = listed.owner_name or (None if listed.owner is None else str(listed.owner))
    queue = None if listed.queue is None else f"{listed.queue}/{listed.backlog}"
    return (
        _word(shown or UNKNOWN),
        listed.type or _NOTHING,
        listed.state,
        listed.mode or _NOTHING,
        _NOTHING if owner is None else escape(owner, word=True),
        str(listed.pid or (UNKNOWN if held else _NOTHING)),
        _word(listed.command or (UNKNOWN if held else _NOTHING)),
        queue or _NOTHING,
        legible(listed.note or ""),
    )


def _word(shown: str) -> str:
    """Make one word of what is escaped already."""
    return shown.replace(" ", "\\x20")


def _pieces(parts: Iterator[str]) -> Iterator[list[str]]:
    while piece := list(islice(parts, _AT_ONCE)):
        yield piece
