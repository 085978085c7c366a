"""The one fixture of the daemon's tests: a world in which to start it."""

from collections.abc import Iterator

import pytest
from running import World, private_world


@pytest.fixture
def world() -> Iterator[World]:
    """An empty /run, a place for a policy, and known users."""
    with private_world() as world:
        yield world
