"""What somebody is told whose start or reload failed by an error of the system."""

from __future__ import annotations

import errno
import os

import pytest

from sockbroker.loading import problems_of


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_a_reload_that_fails_does_not_ask_for_a_start(number: int) -> None:
    """The daemon goes on with the policy before; to end it would do harm, and mends nothing.

    Taken out: the advice for what has none of its own (it was to start again).
    """
    (problem,) = problems_of(OSError(number, os.strerror(number)))
    what, _, advice = problem.partition("; ")
    assert what == f"looking up the names of the policy: {os.strerror(number)}"
    assert advice
    assert "start" not in advice
