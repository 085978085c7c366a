"""Sets of ids as spans: a range of 60,000 uids is one pair of numbers, never 60,000.

A span is (first, last), both included. Every function returns spans that ascend, do not touch and
do not overlap, and those are what `without` and `common` take.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
Spans: TypeAlias = tuple[Span, ...]


def merged(spans: Iterable[Span]) -> Spans:
    """Bring spans in any order into the form described above."""
    result: list[Span] = []
    for first, last in sorted(spans):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return tuple(result)


def of_ids(numbers: Iterable[int]) -> Spans:
    """Return the spans of single ids, of which none may be there twice."""
    ascending = sorted(numbers)
    gaps = [(one, after) for one, after in pairwise(ascending) if after != one + 1]
    firsts = [*ascending[:1], *(after for _, after in gaps)]
    lasts = [*(one for one, _ in gaps), *ascending[-1:]]
    return tuple(zip(firsts, lasts, strict=True))


def without(spans: Spans, holes: Spans) -> Spans:
    """Return what is in `spans` and not in `holes`."""
    result: list[Span] = []
    remaining = iter(holes)
    hole = next(remaining, None)
    for first, last in spans:
        while hole is not None and hole[1] < first:
            hole = next(remaining, None)
        while hole is not None and hole[0] <= last:
            if first < hole[0]:
                result.append((first, hole[0] - 1))
            first = hole[1] + 1
            if first > last:
                break
            hole = next(remaining, None)
        if first <= last:
            result.append((first, last))
    return tuple(result)


def common(one: Spans, other: Spans) -> Spans:
    """Return what is in both."""
    return without(one, without(one, other))


def overlap(span: Span, spans: Spans) -> Spans:
    """Return what is in `spans` and in the one `span`, without going through all of them."""
    start = bisect_left(spans, span[0], key=lambda one: one[1])
    stop = bisect_right(spans, span[1], key=lambda one: one[0])
    return tuple((max(first, span[0]), min(last, span[1])) for first, last in spans[start:stop])


def count(spans: Spans) -> int:
    """Return how many ids there are in `spans`."""
    return sum(last - first + 1 for first, last in spans)


def ids(spans: Spans) -> Iterator[int]:
    """Give every id in `spans`, ascending."""
    return chain.from_iterable(range(first, last + 1) for first, last in spans)
