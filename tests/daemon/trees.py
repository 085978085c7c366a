"""Large trees that an owner leaves in his directory, each of which takes long to delete."""

from __future__ import annotations

import os
import stat

from running import MALLORY, RUN

HIS = RUN / f"demo/{MALLORY}"


def deep() -> None:
    """20,000 levels."""
    os.chdir(HIS)
    for _ in range(20_000):
        os.mkdir("d", 0o700)
        os.chdir("d")


def wide() -> None:
    """300,000 files with long names in one directory."""
    os.chdir(HIS)
    for number in range(300_000):
        os.mknod(f"{number:0100}", stat.S_IFREG | 0o600)


def large() -> None:
    """One file of 200 MiB, and one that only seems to be large."""
    with (HIS / "large").open("wb") as file:
        for _ in range(200):
            file.write(b"x" * (1 << 20))
    with (HIS / "hollow").open("wb") as file:
        file.truncate(1 << 40)


def branching() -> None:
    """100,000 directories in directories."""
    os.chdir(HIS)
    for a in range(100):
        os.mkdir(f"{a}")
        for b in range(30):
            os.mkdir(f"{a}/{b}")
            for c in range(30):
                os.mkdir(f"{a}/{b}/{c}")


TREES = [deep, wide, large, branching]
