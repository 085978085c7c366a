"""Nothing that anyone sends or writes makes the broker crash, hang, grow, or contradict itself.

In the test command each fuzzer has a few seconds.  For as long as one likes, one after the other:

    SOCKBROKER_FUZZ_SECONDS=1800 sh tests/run.sh tests/fuzz

At the end it says how much was tried.  What is found fails the test, which shows the input; as an
entry of `found.py` it is tried again in every run.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from found import FOUND
from seeds import SEEDS, dictionary
from targets import TARGETS

CAMPAIGN = Path(__file__).parent / "campaign.py"

SECONDS_OF_A_HANG = 20
MOST_MEMORY = 512
"""MiB; all of them take a tenth."""

MOST_GROWTH = 32 * 1024
"""KiB between the first third of a run, when everything is loaded and warm, and its end."""


@pytest.mark.parametrize(
    ("target", "data"), [entry[1:] for entry in FOUND], ids=[entry[0] for entry in FOUND]
)
def test_what_was_found_is_mended(target: str, data: bytes) -> None:
    """What made a fuzzer fail once keeps the promise of its target now."""
    TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_what_fuzzers_begin_with_keeps_the_promise(target: str) -> None:
    """The seeds are good and bad inputs of every kind, and each is answered as promised."""
    for seed in SEEDS[target]:
        TARGETS[target](seed)


@pytest.mark.fuzzer(seconds=3)
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_breaks_a_promise(
    target: str, tmp_path: Path, fuzz_seconds: float, tried: list[str]
) -> None:
    """Led by the coverage, atheris finds no input that crashes, hangs, grows or contradicts."""
    corpus, found = tmp_path / "corpus", tmp_path / "found"
    corpus.mkdir()
    found.mkdir()
    words = tmp_path / "words"
    words.write_text(dictionary(target))
    command = [
        *(sys.executable, str(CAMPAIGN), target, str(corpus)),
        *(f"-dict={words}", f"-artifact_prefix={found}/", "-print_final_stats=1"),
        *("-max_len=20000", f"-timeout={SECONDS_OF_A_HANG}", f"-rss_limit_mb={MOST_MEMORY}"),
        f"-max_total_time={max(1, int(fuzz_seconds))}",
    ]
    log = tmp_path / "log"
    with log.open("wb") as output:
        fuzzer = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        sizes = _sizes(fuzzer, log, fuzz_seconds + 10 * SECONDS_OF_A_HANG)
    finally:
        fuzzer.kill()
        fuzzer.wait()
    said = log.read_text(errors="replace")
    inputs = [(target, path.read_bytes()) for path in found.iterdir()]
    assert fuzzer.returncode == 0, f"{said[-4000:]}\nfor found.py: {inputs}"
    executions = int(re.findall(r"number_of_executed_units: (\d+)", said)[0])
    assert executions > len(SEEDS[target]), said
    third = len(sizes) // 3
    growth = max(sizes[third:]) - max(sizes[: third + 2])
    assert growth < MOST_GROWTH, f"{growth} KiB more after {executions} executions"
    tried.append(
        f"{target}: {executions} executions in {fuzz_seconds:.0f} s, "
        f"{max(sizes) // 1024} MiB at most, {max(0, growth)} KiB more after the first third"
    )


def _sizes(fuzzer: subprocess.Popen[bytes], log: Path, seconds: float) -> list[int]:
    """KiB of memory at regular times, from the first new input until the process ends."""
    sizes = [0]
    end = time.monotonic() + seconds
    while fuzzer.poll() is None and time.monotonic() < end:
        if len(sizes) > 1 or b"INITED" in log.read_bytes():
            status = Path(f"/proc/{fuzzer.pid}/status").read_text()
            sizes += [int(size) for size in re.findall(r"VmRSS:\s+(\d+)", status)]
        time.sleep(0.1)
    return sizes
