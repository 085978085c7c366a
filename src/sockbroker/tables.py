"""What the verbs of sockbrokerctl print: a table or lines for people, JSON for programs.

Loaded by the verbs that print more than a path. Names and paths come from others, so for people
they are escaped; in JSON they are exact, in ASCII.
"""

import json

from sockbroker.answers import ListedDirectory, Status
from sockbroker.core.escaping import escape, legible

# What a cell shows where there is no value: an id may have no name; the rest could not be told.
NOTHING = {"user": "-", "group": "-"}
UNKNOWN = "unknown"


def listing_as_table(directories: list[ListedDirectory]) -> str:
    """Give one line for each directory below one of headings; nothing for none."""
    if not directories:
        return ""
    headings = [field.replace("_", " ").upper() for field in ListedDirectory.FIELDS]
    return aligned([headings, *(_row(each) for each in directories)])


def _row(directory: ListedDirectory) -> list[str]:
    return [_cell(field, getattr(directory, field)) for field in ListedDirectory.FIELDS]


def _cell(field: str, value: object) -> str:
    if value is None:
        return NOTHING.get(field, UNKNOWN)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return escape(str(value), word=True)


def aligned(rows: list[list[str]]) -> str:
    """Give the rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def listing_as_json(directories: list[ListedDirectory]) -> str:
    """Give one array of objects."""
    return as_json(
        [{field: getattr(each, field) for field in ListedDirectory.FIELDS} for each in directories]
    )


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
    # DEL is the one control character that JSON lets pass.
    return json.dumps(_exact(value)).replace("\x7f", "\\u007f") + "\n"


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
