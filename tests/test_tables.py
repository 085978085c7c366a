"""The table and the JSON of a long list are those of each directory by itself."""

from __future__ import annotations

import json

import pytest

from sockbroker.answers import ListedDirectory
from sockbroker.core.escaping import escape
from sockbroker.tables import FEW, NOTHING, UNKNOWN, listing_as_json, listing_as_table

MANY = 2 * FEW


def directories(odd: str, number: int) -> list[ListedDirectory]:
    """Give so many, all different, with one path and user that are odd."""
    return [
        ListedDirectory(
            {
                "app": "chat",
                "uid": uid,
                "userName": f"u{uid}" if uid != 1001 else odd,
                "gid": 1 if uid % 2 else uid,
                "groupName": f"g{uid}",
                "path": f"/run/chat/{uid}" if uid != 1001 else f"/run{odd}",
                "mode": "0700",
                "state": "ok",
                "inUse": (True, False, None)[uid % 3],
                **({"sockets": uid % 5} if uid % 5 else {}),
            }
        )
        for uid in range(1000, 1000 + number)
    ]


def cell(field: str, value: object) -> str:
    """Say what a cell shows, as the manual has it."""
    if value is None:
        return NOTHING.get(field, UNKNOWN)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return escape(str(value), word=True)


ODD = ["plain", "a b", "\x1b[2J", "\u202e", "back\\slash", "@at", "\ud800", "\x7f", "\u00e4", "\n"]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("number", [2, FEW, FEW + 1, MANY])
def test_nothing_reaches_a_terminal_raw(odd: str, number: int) -> None:
    """However many there are: what is judged together is judged as strictly.

    Seen to fail without each of the four things that make a word a plain one.
    """
    listed = directories(odd, number)
    fields = ListedDirectory.FIELDS
    rows = [[cell(field, getattr(each, field)) for field in fields] for each in listed]
    rows.insert(0, [field.replace("_", " ").upper() for field in fields])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(each.ljust(width) for each, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    table = listing_as_table(listed)
    assert table.splitlines() == lines
    assert table.replace("\n", "").isascii()
    assert table.replace("\n", "").isprintable()


@pytest.mark.parametrize("odd", ODD)
def test_json_is_exact(odd: str) -> None:
    """Every value as it came, in printable ASCII; what is no Unicode is escaped."""
    listed = directories(odd, MANY)
    text = listing_as_json(listed)
    assert text.rstrip("\n").isascii()
    assert text.rstrip("\n").isprintable()
    for each, read in zip(listed, json.loads(text), strict=True):
        assert list(read) == list(ListedDirectory.FIELDS)
        for field in ListedDirectory.FIELDS:
            value = getattr(each, field)
            assert read[field] == (escape(value) if value in ("\ud800", "/run\ud800") else value)


def test_no_directories_are_no_table() -> None:
    """Without a heading, and an empty array."""
    assert listing_as_table([]) == ""
    assert listing_as_json([]) == "[]\n"
