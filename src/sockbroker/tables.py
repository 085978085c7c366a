"""What the verbs of sockbrokerctl print: a table or lines for people, JSON for programs.

Loaded by the verbs that print more than a path. Names and paths come from others, so for people
they are escaped; in JSON they are exact, in ASCII.
"""

import json
from _operator import attrgetter

from sockbroker.answers import ListedDirectory, Status
from sockbroker.core.escaping import escape, legible

# What a cell shows where there is no value: an id may have no name; the rest could not be told.
NOTHING = {"user": "-", "group": "-"}
UNKNOWN = "unknown"

FEW = 64
"""Distinct values in a column; where there are more they are judged together."""


def listing_as_table(directories: list[ListedDirectory]) -> str:
    """Give one line for each directory below one of headings; nothing for none."""
    if not directories:
        return ""
    fields = ListedDirectory.FIELDS
    columns = [_column(field, list(map(attrgetter(field), directories))) for field in fields]
    return _lines(columns)


def _column(field: str, values: list[object]) -> list[str]:
    """Give a heading and a cell for each value, as wide as the widest of them."""
    heading = field.replace("_", " ").upper()
    distinct = set(values)
    if len(distinct) > FEW and _are_plain_words(values):
        cells = list(map(str, values))
        width = max(len(heading), *map(len, cells))
        return [cell.ljust(width) for cell in [heading, *cells]]
    shown = {value: _cell(field, value) for value in distinct}
    width = max(map(len, [heading, *shown.values()]))
    padded = {value: cell.ljust(width) for value, cell in shown.items()}
    return [heading.ljust(width), *map(padded.__getitem__, values)]


def _are_plain_words(values: list[object]) -> bool:
    """Tell whether each value is shown as it is; all at once, and True only where that is sure."""
    kinds = set(map(type, values))
    if kinds != {str}:
        return kinds == {int}
    text = "".join(map(str, values))
    return text.isascii() and text.isprintable() and not any(each in text for each in " @\\")


def _cell(field: str, value: object) -> str:
    if value is None:
        return NOTHING.get(field, UNKNOWN)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return escape(str(value), word=True)


def aligned(rows: list[list[str]]) -> str:
    """Give the rows as lines, each column as wide as its widest cell."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    return _lines(
        [
            [cell.ljust(width) for cell in column]
            for column, width in zip(columns, widths, strict=True)
        ]
    )


def _lines(columns: list[list[str]]) -> str:
    lines = map("  ".join, zip(*columns, strict=True))
    return "\n".join([line.rstrip() for line in lines]) + "\n"


def listing_as_json(directories: list[ListedDirectory]) -> str:
    """Give one array of objects."""
    fields = ListedDirectory.FIELDS
    rows = map(attrgetter(*fields), directories)
    return as_json([dict(zip(fields, row, strict=True)) for row in rows])


def status_as_lines(status: Status) -> str:
    """Give `name: value` lines, without what the broker did not tell."""
    lines = [
        f"state: {status.state}",
        f"version: {status.version}",
        f"policy generation: {status.policy_generation}",
    ]
    lines += [f"policy error: {problem}" for problem in (status.policy_error or "").splitlines()]
    lines += [f"problem: {problem}" for problem in status.problems or ()]
    if status.confinement is not None:
        lines.append(f"confinement: {', '.join(status.confinement) or 'none'}")
    lines += [f"{name}: {number}" for name, number in (status.counters or {}).items()]
    return "".join(f"{legible(line)}\n" for line in lines)


def status_as_json(status: Status) -> str:
    """Give one object."""
    return as_json({field: getattr(status, field) for field in Status.FIELDS})


def as_json(value: object) -> str:
    """Give JSON in printable ASCII, on one line; text that is no Unicode in its escaped form."""
    text = json.dumps(value)
    if "\\ud" in text:  # half a surrogate pair, or a whole one
        text = json.dumps(_exact(value))
    # DEL is the one control character that JSON lets pass.
    return text.replace("\x7f", "\\u007f") + "\n"


def _exact(value: object) -> object:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return escape(value)
        return value
    if isinstance(value, dict):
        return {_exact(name): _exact(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(each) for each in value]
    return value
