"""The bench works: its programs compile without a warning, and it measures what it is asked for.

What it finds is not judged here; a test that fails on a busy machine would say nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"


@pytest.mark.parametrize("source", sorted(BENCH.glob("*.c")), ids=lambda path: path.name)
def test_its_programs_compile(source: Path, tmp_path: Path) -> None:
    """Without a warning, as strict as the compiler has them."""
    flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    done = subprocess.run(
        ["cc", *flags, "-o", str(tmp_path / "program"), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.root
def test_it_measures(tmp_path: Path) -> None:
    """A goal of requests, with little effort: figures of each round, their ratio, and a verdict."""
    file = tmp_path / "found.json"
    command = [sys.executable, str(BENCH), "--rounds", "2", "--requests", "100", "--json", file]
    done = subprocess.run(
        [*map(str, command), "existing-p50", "fresh-p50"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode in {0, 1}  # as the goals are reached or not
    found = json.loads(file.read_text())
    assert found["conditions"]["rounds"] == 2
    assert found["promises"] == []
    for line in found["goals"]:
        assert line["name"] in done.stdout
        ours, theirs = line["oursByRound"], line["theirsByRound"]
        assert len(ours) == len(theirs) == 2
        assert min(*ours, *theirs) > 0
        assert line["least"] <= line["ratio"] <= line["most"]
        assert line["goalReached"] is (line["ratio"] <= line["goal"])
    assert [line["name"] for line in found["goals"]] == ["existing-p50", "fresh-p50"]


def test_it_says_what_it_does_not_know() -> None:
    """A name that no goal has is an error, and the names are told."""
    done = subprocess.run(
        [sys.executable, str(BENCH), "no-such-goal"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "existing-p50\n" in done.stdout
