"""Sets of ids as pairs of numbers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sockbroker.core.spans import Spans, common, count, ids, merged, of_ids, overlap, without

SPAN = st.tuples(st.integers(0, 40), st.integers(0, 8)).map(lambda pair: (pair[0], sum(pair)))
LISTS = st.lists(SPAN, max_size=8)


def as_set(spans: Spans) -> set[int]:
    return {number for first, last in spans for number in range(first, last + 1)}


@given(LISTS)
def test_merged_is_the_union_in_its_shortest_form(spans: list[tuple[int, int]]) -> None:
    """All that was in and nothing else, ascending, and no two that touch."""
    result = merged(spans)
    assert as_set(result) == as_set(tuple(spans))
    assert all(one[1] + 1 < other[0] for one, other in pairwise(result))


@given(st.sets(st.integers(0, 20)))
def test_of_ids_is_the_union_of_single_ones(numbers: set[int]) -> None:
    """In the shortest form, and nothing for none."""
    assert of_ids(numbers) == merged((n, n) for n in numbers)


@given(LISTS, LISTS)
def test_without_and_common_are_those_of_sets(
    left: list[tuple[int, int]], right: list[tuple[int, int]]
) -> None:
    """They give what the same operations on sets would, in the same form."""
    one, other = merged(left), merged(right)
    assert without(one, other) == merged((n, n) for n in as_set(one) - as_set(other))
    assert common(one, other) == merged((n, n) for n in as_set(one) & as_set(other))


@given(SPAN, LISTS)
def test_overlap_is_common_with_one(span: tuple[int, int], spans: list[tuple[int, int]]) -> None:
    """It gives what `common` gives."""
    assert overlap(span, merged(spans)) == common((span,), merged(spans))


@given(LISTS)
def test_count_and_ids_tell_what_is_in_it(spans: list[tuple[int, int]]) -> None:
    """Each id comes once, ascending, and they are as many as counted."""
    result = merged(spans)
    assert list(ids(result)) == sorted(as_set(result))
    assert count(result) == len(as_set(result))


def test_a_wide_range_stays_two_numbers() -> None:
    """Four billion uids with a hole cost two pairs."""
    everybody = merged([(0, 2**32 - 2)])
    assert without(everybody, ((65534, 65535),)) == ((0, 65533), (65536, 2**32 - 2))
