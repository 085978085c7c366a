"""The policy's values, and how problems with it are told."""

import pytest

from sockbroker.core.policy import (
    BEGINNING,
    MAX_PROBLEMS,
    NOBODY,
    AppText,
    PolicyError,
    Position,
    Problems,
)


def test_problems_are_told_in_the_order_of_the_file() -> None:
    """FILE:LINE:COLUMN: MESSAGE, sorted by place, whatever was found first."""
    problems = Problems()
    assert not problems
    problems.add(Position(10, 3), "later")
    problems.add(Position(9, 12), "right")
    problems.add(Position(9, 2), "left")
    problems.add(BEGINNING, "whole")
    assert problems
    assert problems.render("/etc/p.yaml") == (
        "/etc/p.yaml:1:1: whole",
        "/etc/p.yaml:9:2: left",
        "/etc/p.yaml:9:12: right",
        "/etc/p.yaml:10:3: later",
    )


def test_a_million_problems_are_counted_and_not_kept() -> None:
    """A file that is all wrong costs no memory, and the number of them is told at the end."""
    problems = Problems()
    for line in range(1, MAX_PROBLEMS + 501):
        problems.add(Position(line, 1), "wrong")
    told = problems.render("p")
    assert len(told) == MAX_PROBLEMS + 1
    assert told[-1] == f"p:{MAX_PROBLEMS}:1: and 500 more; mend the others first"


def test_a_policy_error_says_everything() -> None:
    """As a text, and one by one."""
    error = PolicyError(("p:1:1: one", "p:2:1: two"))
    assert error.problems == ("p:1:1: one", "p:2:1: two")
    assert str(error) == "p:1:1: one\np:2:1: two"


def test_an_app_that_says_nothing_has_the_documented_defaults() -> None:
    """Nobody is allowed, and nothing is wider than a user needs."""
    app = AppText(name="chat", position=Position(2, 3))
    assert (app.allow, app.deny, app.at_boot) == (NOBODY, NOBODY, NOBODY)
    assert (NOBODY.users, NOBODY.groups, NOBODY.everyone) == ((), (), None)
    assert (app.mode, app.group) == (0o700, None)
    assert (app.parent_mode, app.parent_group) == (0o711, None)
    assert (app.max_directories, app.adopt) == (1000, False)


def test_a_policy_as_written_cannot_be_changed() -> None:
    """What was read stays what was read."""
    app = AppText(name="chat", position=Position(2, 3))
    with pytest.raises(AttributeError):
        app.mode = 0o777  # type: ignore[misc]
