"""Of whom a look at the kernel tells: everybody in turn, and nobody under another's number."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from sockbroker.kernel.loop import CROWDS_A_TURN, EVENTS_OF_A_CROWD, Descriptors, Loop

MANY = 5 * EVENTS_OF_A_CROWD

PATIENCE = 10.0
"""Seconds until something else than what is to end a sleep ends it, so that the test fails."""


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(params=["loop", "crowd"])
def descriptors(loop: Loop, request: pytest.FixtureRequest) -> Descriptors:
    """Give the loop itself, and a crowd in it."""
    return loop if request.param == "loop" else loop.crowd()


@pytest.fixture
def ready() -> Iterator[Callable[[], int]]:
    """Give descriptors that can be read from, which are closed after the test."""
    with ExitStack() as stack:

        def make() -> int:
            ours, theirs = map(stack.enter_context, socket.socketpair())
            theirs.send(b"x")
            return ours.fileno()

        yield make


def look(loop: Loop) -> None:
    """Have one look at the kernel, without a sleep before."""

    def once() -> float | None:
        loop.stop()
        return None

    loop.call_later(0, lambda: None)
    loop._running = True
    loop.run(once)


def test_a_crowd_is_told_of_in_turn_and_hides_nobody(loop: Loop, ready: Callable[[], int]) -> None:
    """Who is ready last is told of at the first look, however many are ready in a crowd.

    Seen to fail where all of a crowd are told of, where each of them is one among the loop's, and
    where the same ones are told of at each look.
    """
    told: Counter[str] = Counter()

    def tell(who: str, _events: int) -> None:
        told[who] += 1

    crowd = loop.crowd()
    for number in range(MANY):
        crowd.watch(ready(), tell, f"{number} of the crowd")
    loop.watch(ready(), tell, "alone")
    look(loop)
    assert told["alone"] == 1
    assert told.total() == 1 + EVENTS_OF_A_CROWD
    assert loop.found == told.total()
    for _ in range(MANY // EVENTS_OF_A_CROWD - 1):
        look(loop)
    assert len(told) == MANY + 1


def test_who_is_new_is_not_told_what_another_had_to_hear(
    loop: Loop, descriptors: Descriptors, ready: Callable[[], int]
) -> None:
    """Though he has the number of one who was ready, and was closed in the same look.

    Seen to fail where each is looked up when its turn comes.
    """
    told: list[str] = []
    first, second = ready(), ready()
    new = ready()

    def replace(_who: str, _events: int) -> None:
        told.append("first")
        descriptors.unwatch(second)
        os.dup2(new, second)
        descriptors.watch(second, lambda who, _events: told.append(who), "new")
        descriptors.unwatch(first)

    descriptors.watch(first, replace, "first")
    descriptors.watch(second, lambda who, _events: told.append(who), "second")
    look(loop)
    assert "new" not in told
    look(loop)
    assert told[-1] == "new"


@pytest.mark.parametrize("by", ["a crowd", "the loop", "a timer"])
def test_a_sleep_is_ended(loop: Loop, ready: Callable[[], int], by: str) -> None:
    """By whatever there is first, while there is a crowd.

    Seen to fail where the sleep is one of the loop's epoll alone, or one of the crowds.
    """
    told: list[str] = []

    def tell(who: str, _events: int = 0) -> None:
        told.append(who)
        loop.stop()

    silent, other = socket.socketpair()
    with silent, other:
        too_late = threading.Timer(PATIENCE, other.send, [b"x"])
        too_late.start()
        loop.crowd().watch(silent.fileno(), tell, "the silent one")
        loop.call_later(2 * PATIENCE, lambda: tell("nothing"))
        if by == "a timer":
            loop.call_later(0.1, lambda: tell(by))
        else:
            (loop.crowd() if by == "a crowd" else loop).watch(ready(), tell, by)
        loop.run(lambda: None)
        too_late.cancel()
        too_late.join()
    assert told == [by]


def test_many_crowds_are_told_of_in_turn(loop: Loop, ready: Callable[[], int]) -> None:
    """A few at a look, and who has been told of is the last to be told of again.

    Seen to fail where all are told of, and where the same ones are at each look.
    """
    told: Counter[int] = Counter()

    def tell(number: int, _events: int) -> None:
        told[number] += 1

    for number in range(3 * CROWDS_A_TURN):
        loop.crowd().watch(ready(), tell, number)
    for looks in range(1, 7):
        look(loop)
        assert told.total() == looks * CROWDS_A_TURN
        assert max(told.values()) == (looks + 2) // 3


def test_a_crowd_may_be_given_back_while_it_has_something_to_tell(
    loop: Loop, ready: Callable[[], int]
) -> None:
    """By what another is told in the same look.

    Seen to fail where it is asked all the same, and where it stays another's when it is given back.
    """
    told: list[str] = []
    crowd, of_it = loop.crowd(), ready()

    def give_back(_who: str, _events: int) -> None:
        told.append("alone")
        crowd.unwatch(of_it)
        loop.give_back(crowd)

    def tell(who: str, _events: int) -> None:
        told.append(who)

    loop.watch(ready(), give_back, "")
    crowd.watch(of_it, tell, "of the crowd")
    look(loop)
    assert told == ["alone"]
    assert loop.crowd() is crowd
    assert loop.crowd() is not crowd


@pytest.fixture
def three_descriptors() -> Iterator[None]:
    """Have the process be allowed three, whatever it has."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_more_crowds_than_the_kernel_can_wait_for(
    loop: Loop, ready: Callable[[], int], request: pytest.FixtureRequest
) -> None:
    """The limit of descriptors has been lowered: all are told still, and nothing spins.

    Seen to fail where poll(2) is taken for what never fails, and without a pause.
    """
    told: Counter[int] = Counter()

    def tell(number: int, _events: int) -> None:
        told[number] += 1
        crowds[number].unwatch(numbers[number])

    crowds = [loop.crowd() for _ in range(3 * CROWDS_A_TURN)]
    numbers = [ready() for _ in crowds]
    for number, crowd in enumerate(crowds):
        crowd.watch(numbers[number], tell, number)
    request.getfixturevalue("three_descriptors")
    for _ in range(3):
        look(loop)
    assert told == Counter(range(len(crowds)))

    looks: list[float] = []
    loop.call_later(0.2, loop.stop)
    loop._running = True
    loop.run(lambda: looks.append(time.monotonic()))
    assert len(looks) < 400
