"""Lets atheris try one target, in a process of its own: its libFuzzer ends the process.

python campaign.py TARGET CORPUS OPTION...    options are libFuzzer's
"""

import sys
import time
from pathlib import Path

import atheris

sys.path.append(str(Path(__file__).parent.parent))  # what the other tests have as well

with atheris.instrument_imports(include=["sockbroker", "json"]):
    import targets
from seeds import SEEDS

SECONDS_OF_AN_INPUT = 2.0
"""Of computing, for any input: a hundred times what the slowest of them takes."""


def main() -> None:
    name, corpus, *options = sys.argv[1:]
    target = targets.TARGETS[name]

    def within_time(data: bytes) -> None:
        began = time.process_time()
        target(data)
        taken = time.process_time() - began
        assert taken < SECONDS_OF_AN_INPUT, f"{taken:.1f} s for one input"

    for number, seed in enumerate(SEEDS[name]):
        (Path(corpus) / f"seed{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options, corpus], within_time)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
