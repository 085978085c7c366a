"""What most tests of the disk begin with."""

from collections.abc import Iterator
from pathlib import Path

import own_run
import pytest

from sockbroker.kernel.directories import Base


@pytest.fixture
def run() -> Iterator[Path]:
    """An empty /run of the test's own."""
    with own_run.mounted_run() as path:
        yield path


@pytest.fixture
def base(run: Path) -> Iterator[Base]:
    """The same as the broker has it."""
    with Base.open(str(run)) as opened:
        yield opened
