"""How many lines of the log a uid may have, by a clock that passes as told."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sockbroker.rate_limit import LINES_A_MINUTE, MOST_UIDS, RateLimit


class Clock:
    """A time that passes as told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admitted(limit: RateLimit, uid: int, lines: int) -> int:
    """How many of these lines may be written."""
    return sum(limit.admit(uid) is not None for _ in range(lines))


def test_sixty_lines_a_minute_for_each_uid() -> None:
    """The sixty-first is left out, and nobody else's."""
    limit = RateLimit(Clock())
    assert LINES_A_MINUTE == 60
    assert admitted(limit, 1004, 1000) == 60
    assert limit.admit(1001) == 0
    assert limit.admit(1004) is None


def test_the_first_line_after_the_minute_says_how_many_were_left_out() -> None:
    """Once, to the one whose lines they were."""
    clock = Clock()
    limit = RateLimit(clock)
    admitted(limit, 1004, 100)
    clock.now += 59.9
    assert limit.admit(1004) is None
    clock.now += 0.1
    assert limit.admit(1001) == 0
    assert limit.admit(1004) == 41
    assert limit.admit(1004) == 0
    clock.now += 3600
    assert limit.admit(1004) == 0


def test_a_minute_begins_with_its_first_line() -> None:
    """Not by the clock on the wall, where two minutes' lines could come within a second."""
    clock = Clock()
    limit = RateLimit(clock)
    clock.now += 59.5
    assert admitted(limit, 1004, 100) == 60
    clock.now += 1
    assert admitted(limit, 1004, 100) == 0


def test_many_uids_cost_no_more_memory_than_some() -> None:
    """The one that is counted longest is forgotten, and may speak again; the others may not."""
    limit = RateLimit(Clock())
    for uid in range(MOST_UIDS + 1):
        assert admitted(limit, uid, 61) == 60
    assert limit.admit(MOST_UIDS) is None
    assert limit.admit(2) is None
    assert limit.admit(0) == 0


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 90), st.sampled_from([0, 0.5, 20, 60, 61])),
        max_size=30,
    )
)
def test_every_line_is_written_or_counted(steps: list[tuple[int, int, float]]) -> None:
    """Whoever says how much and when: nothing is lost without being told in the end."""
    clock = Clock()
    limit = RateLimit(clock)
    offered: Counter[int] = Counter()
    accounted: Counter[int] = Counter()

    def offer(uid: int) -> None:
        offered[uid] += 1
        left_out = limit.admit(uid)
        if left_out is not None:
            accounted[uid] += 1 + left_out

    for uid, lines, pause in steps:
        for _ in range(lines):
            offer(uid)
        clock.now += pause
    clock.now += 60
    for uid in list(offered):
        offer(uid)
    assert accounted == offered
