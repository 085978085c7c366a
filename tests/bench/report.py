"""What was measured: judged line by line as data for JSON, and laid out as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goals import Figure, Goal
from measuring import NotMeasured, Ratio, Sample, Series
from promises import Promise

Line = dict[str, Any]
"""One line of a table, as it goes into the JSON."""

Row = Sequence[str]


def judged(goal: Goal, series: Mapping[str, Series]) -> Line:
    """What became of a goal."""
    line: Line = {
        "name": goal.name,
        "what": goal.what,
        "against": goal.against,
        "unit": goal.unit,
        "goal": goal.goal,
        "must": goal.must,
        "atLeast": goal.at_least,
    }
    try:
        ours = _figures(series, goal.ours)
        theirs = None if goal.reference is None else _figures(series, goal.reference)
    except NotMeasured as error:
        return line | {"notMeasured": str(error)}
    ratio = Ratio.of(ours, theirs)
    return line | {
        "ours": ratio.ours,
        "theirs": ratio.theirs,
        "ratio": ratio.median,
        "least": ratio.least,
        "most": ratio.most,
        "goalReached": goal.reached(ratio.median, goal.goal),
        "mustReached": goal.reached(ratio.median, goal.must),
        "oursByRound": ours,
        "theirsByRound": theirs,
    }


def _figures(series: Mapping[str, Series], figure: Figure) -> list[float]:
    return series[figure.series].figures(figure.name)


def kept(promise: Promise, waits: Sample | NotMeasured) -> Line:
    """What became of a promise."""
    line: Line = {
        "name": promise.name,
        "what": promise.what,
        "who": promise.who,
        "limitP99": promise.p99,
        "limitMost": promise.most,
    }
    if isinstance(waits, NotMeasured):
        return line | {"notMeasured": str(waits)}
    limits = {"p99": promise.p99, "most": promise.most}
    return (
        line
        | {name: waits[name] for name in ("number", "p50", "p99", "most")}
        | {"kept": all(limit is None or waits[name] <= limit for name, limit in limits.items())}
    )


def all_well(lines: Sequence[Line]) -> bool:
    """Whether each was measured, and is as good as its goal or promise."""
    return not any(
        "notMeasured" in line or line.get("goalReached") is False or line.get("kept") is False
        for line in lines
    )


def goals_as_text(lines: Sequence[Line]) -> str:
    """The table of the goals."""
    head = (
        *("name", "what", "against", "ours", "theirs", "ratio", "min", "max"),
        *("goal", "reached", "must", "reached"),
    )
    return "\n".join(
        [
            _aligned(head, [_goal_row(line) for line in lines], left=3),
            "Figures and ratios are medians of the rounds; min and max are of single rounds.",
            *_left_out(lines),
        ]
    )


def _goal_row(line: Line) -> Row:
    names = (line["name"], line["what"], line["against"])
    sign = ">=" if line["atLeast"] else ""
    goal, must = (
        "-" if line[each] is None else f"{sign}{_number(line[each])}" for each in ("goal", "must")
    )
    if "notMeasured" in line:
        return (*names, "not measured", "", "", "", "", goal, "", must, "")
    return (
        *names,
        *(_amount(line[each], line["unit"]) for each in ("ours", "theirs")),
        *(_number(line[each]) for each in ("ratio", "least", "most")),
        *(goal, _word(line["goalReached"]), must, _word(line["mustReached"])),
    )


def promises_as_text(lines: Sequence[Line]) -> str:
    """The table of the promises in time."""
    head = ("name", "what", "who", "asked", "p50", "p99", "limit", "longest", "limit", "kept")
    return "\n".join(
        [
            _aligned(head, [_promise_row(line) for line in lines], left=3),
            "Medians of the plays of each scene; the longest is that of all of them.",
            *_left_out(lines),
        ]
    )


def _promise_row(line: Line) -> Row:
    names = (line["name"], line["what"], line["who"])
    limits = [_amount(line[each], "us") for each in ("limitP99", "limitMost")]
    if "notMeasured" in line:
        return (*names, "not measured", "", "", limits[0], "", limits[1], "")
    p50, p99, most = (_amount(line[each], "us") for each in ("p50", "p99", "most"))
    return (*names, f"{line['number']}", p50, p99, limits[0], most, limits[1], _word(line["kept"]))


def _left_out(lines: Sequence[Line]) -> list[str]:
    return [
        f"not measured: {line['name']}: {line['notMeasured']}"
        for line in lines
        if "notMeasured" in line
    ]


def _aligned(head: Row, rows: Sequence[Row], *, left: int) -> str:
    """Lay out rows in columns, the first `left` of them from the left."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(row: Row) -> str:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])


def _number(value: float | None) -> str:
    """Three digits that say something, or a dash."""
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.1 else f"{value:.2g}"


def _amount(value: float | None, unit: str) -> str:
    """A number with its unit; microseconds as what reads best."""
    if value is None:
        return "-"
    if unit == "us":
        for size, name in ((1e6, "s"), (1e3, "ms")):
            if value >= size:
                return f"{_number(value / size)} {name}"
    return f"{_number(value)} {unit}".rstrip()


def _word(reached: bool | None) -> str:
    return {True: "yes", False: "NO", None: "-"}[reached]
