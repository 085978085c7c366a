"""Lets these tests start the daemon as its own tests do, and tells how much was tried."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "daemon"))

TRIED: list[str] = []
"""One sentence for each fuzzer that ran."""


@pytest.fixture
def fuzz_seconds(request: pytest.FixtureRequest) -> float:
    """How long this fuzzer has: as the test says, or the person who runs it."""
    marker = request.node.get_closest_marker("fuzzer")
    return float(os.environ.get("SOCKBROKER_FUZZ_SECONDS") or marker.kwargs["seconds"])


@pytest.fixture
def tried() -> list[str]:
    """Where a fuzzer says how much it has tried."""
    return TRIED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was tried, which is what a fuzzer that found nothing is worth."""
    if TRIED:
        terminalreporter.section("fuzzed")
        for sentence in TRIED:
            terminalreporter.write_line(sentence)
