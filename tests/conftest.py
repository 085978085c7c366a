"""Options, markers and settings, nothing else: what tests build values with stands beside them."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# How busy the machine is says nothing of what is tested.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run say that it has everything that tests need."""
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="a skipped test fails the run: whatever it misses was to be there (tests/run.sh)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs root where there is none: as told at the end, not as skipped."""
    if os.geteuid() == 0:
        return
    needs_root = [
        item
        for item in items
        if item.get_closest_marker("root") or item.get_closest_marker("booted")
    ]
    config.hook.pytest_deselected(items=needs_root)
    items[:] = [item for item in items if item not in needs_root]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --no-skips, do not let a skipped test pass for one that ran."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--no-skips") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out, and what failed the run by being skipped."""
    left_out = len(terminalreporter.stats.get("deselected", []))
    if left_out and os.geteuid() != 0:
        terminalreporter.section("NOT ROOT", sep="!", red=True, bold=True)
        terminalreporter.write_line(f"{left_out} tests that need root were left out", red=True)
    skipped = len(terminalreporter.stats.get("skipped", []))
    if skipped and terminalreporter.config.getoption("--no-skips"):
        terminalreporter.write_line(f"{skipped} skipped tests fail this run", red=True, bold=True)
