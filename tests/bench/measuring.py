"""Measures in turns: in each round every series once, in the same order, and a ratio of each round.

Another program on the same machine disturbs both of two neighbours in a round, and the ratio of
the two much less than either.  What is judged is the median of the ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Sample = dict[str, float]
"""The figures of one series in one round, by name."""

Run = Callable[[], Sample]


def middle(samples: Sequence[Sample]) -> Sample:
    """The sample in the middle of those that were made in a row in one round."""
    return sorted(samples, key=lambda sample: sample["whole"])[len(samples) // 2]


class NotMeasured(Exception):
    """It cannot be measured here; the text says why."""


@contextmanager
def reasons() -> Iterator[None]:
    """What goes wrong in here is why something is not measured, and does not end the bench."""
    try:
        yield
    except (OSError, AssertionError) as error:
        raise NotMeasured(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done: so many rounds, and so many requests in each."""

    rounds: int
    requests: int


@dataclass(slots=True)
class Series:
    """What one series came to: a sample for each round, or why there is none."""

    samples: list[Sample]
    why_not: str | None = None

    def figures(self, name: str) -> list[float]:
        """One figure of every round; NotMeasured."""
        if self.why_not is not None:
            raise NotMeasured(self.why_not)
        return [sample[name] for sample in self.samples]


def in_turns(
    runs: Mapping[str, Run], rounds: int, tell: Callable[[str], None]
) -> dict[str, Series]:
    """Run all of them in turns, so many times; `tell` is told what is under way."""
    found = {name: Series([]) for name in runs}
    for number in range(1, rounds + 1):
        for name, run in runs.items():
            series = found[name]
            if series.why_not is None:
                tell(f"round {number} of {rounds}: {name}")
                try:
                    with reasons():
                        series.samples.append(run())
                except NotMeasured as error:
                    series.why_not = str(error)
    return found


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours to the reference's; or ours alone, where there is none."""

    ours: float
    theirs: float | None
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float] | None) -> Ratio:
        """Divide round by round."""
        ratios = list(ours)
        if theirs is not None:
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        return cls(
            ours=statistics.median(ours),
            theirs=None if theirs is None else statistics.median(theirs),
            median=statistics.median(ratios),
            least=min(ratios),
            most=max(ratios),
        )
