"""Gives what `why` found out: one screen for people, one object for programs.

Names come from others, so for people they are in the escaped form.
"""

from textwrap import wrap
from typing import Final

from sockbroker.core.acl import Acl
from sockbroker.core.connecting import Cause, Judged
from sockbroker.core.escaping import escape, escape_address
from sockbroker.core.permission import Node
from sockbroker.core.way import Bound, DeadEnd, Followed, Passed, Reached, Untold
from sockbroker.tables import aligned, as_json
from sockbroker.why import Explanation
from sockbroker.why_advice import at_bind, notes, what_to_do
from sockbroker.why_words import (
    group_name,
    headline,
    of_socket,
    remark,
    shown_mode,
    target_name,
    user_name,
)

MOST_ROWS: Final = 10
MOST_MENDS: Final = 4
"""So that all of it is one screen of 24 lines."""

WIDTH: Final = 79

_MARK: Final = ">>"


def why_as_text(explanation: Explanation) -> str:
    """Give the verdict, every step with the deciding one marked, and the mend."""
    lines = [headline(explanation), ""]
    if explanation.seen.elsewhere is None:
        lines += [*aligned(_rows(explanation)).splitlines(), ""]
    mends = [each for each in what_to_do(explanation) if str(each)]
    for number, advice in enumerate(mends[:MOST_MENDS]):
        label = "mend:" if number == 0 else "     "
        if advice.command is None:
            lines += _wrapped(label, advice.words)
        else:  # which has to be copied whole
            behind = f"  # {advice.words}" if advice.words else ""
            lines.append(f"{label} {advice}{behind}")
    birth = at_bind(explanation)
    if birth is not None:
        lines += _wrapped("bind:", birth.words)
    for note in notes(explanation):
        lines += _wrapped("note:", note)
    while not lines[-1]:
        lines.pop()
    return "\n".join(lines) + "\n"


def _wrapped(label: str, words: str) -> list[str]:
    return wrap(
        f"{label} {words}",
        width=WIDTH,
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _rows(explanation: Explanation) -> list[list[str]]:
    verdict = explanation.seen.verdict
    rows: list[list[str]] = []
    for judged in verdict.judged:
        row = [_MARK if judged is verdict.deciding else "", *_cells(explanation, judged)]
        if row not in rows or row[0]:  # a folder lets him pass again as it did before
            rows.append(row)
    if len(rows) <= MOST_ROWS:
        return rows
    # Both ends, and what decides: where it is long, it is links and folders that let him pass.
    marked = next((number for number, row in enumerate(rows) if row[0]), 0)
    last = len(rows) - 1
    kept = sorted(
        {0, 1, marked - 1, marked, marked + 1, last - 2, last - 1, last} & {*range(last + 1)}
    )
    shown: list[list[str]] = []
    for before, number in zip([-1, *kept], kept, strict=False):
        if number > before + 1:
            shown.append(["", "", "", "", f"({number - before - 1} more)", ""])
        shown.append(rows[number])
    return shown


def _cells(explanation: Explanation, judged: Judged) -> list[str]:
    way = explanation.seen.way
    said = remark(explanation, judged, None if way is None else (*way.steps, way.end)[judged.step])
    if way is None:
        return ["", "", "", target_name(explanation), said]
    if judged.cause is Cause.PATH_TOO_LONG:
        return ["", "", "", f"{len(way.written)} bytes", said]
    step = (*way.steps, way.end)[judged.step]
    if judged.grant is None and isinstance(step, Reached):
        return ["", "", "", "", said]
    node = step.node if isinstance(step, Passed | Followed | Reached | DeadEnd) else None
    if node is None:
        return ["", "", "", escape(step.path, word=True), said]
    return [
        shown_mode(node),
        user_name(explanation, node.uid),
        group_name(explanation, node.gid),
        escape(step.path, word=True),
        said,
    ]


def why_as_json(explanation: Explanation) -> str:
    """Give one object; names that are no Unicode in the escaped form."""
    seen, subject = explanation.seen, explanation.subject
    deciding = seen.verdict.deciding
    known = seen.elsewhere is None
    groups = subject.who.groups
    birth = at_bind(explanation)
    return as_json(
        {
            "path": _exact(seen.name) if seen.way else escape_address(seen.name),
            "user": explanation.users.get(subject.uid),
            "uid": subject.uid,
            "groups": None if groups is None else sorted(groups),
            "pid": None if subject.process is None else subject.process.pid,
            "type": None if seen.wanted is None else seen.wanted.name.lower(),
            "can_connect": explanation.can_connect,
            "error": seen.verdict.error if known else None,
            "cause": None if deciding is None or not known else deciding.cause.value,
            "deciding": seen.verdict.judged.index(deciding) if deciding and known else None,
            "steps": [_step(explanation, each) for each in seen.verdict.judged] if known else [],
            "socket": _socket(explanation),
            "mends": [
                {"as": list(each.runners), "command": each.command, "words": each.words}
                for each in what_to_do(explanation)
            ],
            "at_bind": None
            if birth is None
            else {"umask": f"{birth.umask:04o}", "mode": f"{birth.mode:04o}", "words": birth.words},
            "notes": notes(explanation),
        }
    )


def _step(explanation: Explanation, judged: Judged) -> dict[str, object]:
    way = explanation.seen.way
    step = None if way is None else (*way.steps, way.end)[judged.step]
    node: Node | None = None
    if isinstance(step, Passed | Followed | Reached | DeadEnd):
        node = step.node
    return {
        "path": None if step is None else _exact(step.path),
        "what": judged.cause.value,
        "allowed": judged.allowed,
        "says": remark(explanation, judged, step),
        "kind": None if node is None else node.kind.value,
        "mode": None if node is None else f"{node.mode:04o}",
        "uid": None if node is None else node.uid,
        "gid": None if node is None else node.gid,
        "acl": None if node is None else isinstance(node.acl, Acl),
        "by": None if judged.grant is None else judged.grant.by.value,
    }


def _socket(explanation: Explanation) -> dict[str, object] | None:
    seen = explanation.seen
    end = None if seen.way is None else seen.way.end
    is_socket = isinstance(end, Reached) and end.node.kind.value == "socket"
    if seen.elsewhere is not None or (seen.way is not None and not is_socket):
        return None
    bound = seen.socket if isinstance(seen.socket, Bound) else None
    return {
        "says": of_socket(seen.socket, seen.wanted),
        "bound": None if isinstance(seen.socket, Untold) else bound is not None,
        "type": None if bound is None else bound.type.name.lower(),
        "listening": None if bound is None else bound.listening,
        "waiting": None if bound is None else bound.waiting,
        "backlog": None if bound is None else bound.backlog,
        "here": None if bound is None else bound.here,
    }


def _exact(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
