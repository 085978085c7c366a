"""What owners do to their directories, and what comes of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def attempt(act: Callable[[], object]) -> str:
    """Run it; what it raised, by name."""
    try:
        act()
    except (OSError, EOFError) as error:
        return type(error).__name__
    return ""


def fill_up(path: Path) -> None:
    """Put in what makes a deletion hard."""
    path.chmod(0o700)
    below = path / f"{time.monotonic_ns()}"
    deep = below / "a/b/c"
    for directory in (below, below / "a", below / "a/b", deep):
        directory.mkdir()
        directory.chmod(0o700)  # a default ACL may have left its owner nothing
    (deep / "file").touch()
    (deep / "link").symlink_to("/etc/passwd")
    (below / "up").symlink_to("..")
    os.mkfifo(below / "fifo\n\x1b[31m")
    os.link(deep / "file", path / f"{below.name}.hard")
    (below / "a/b").chmod(0)
    below.chmod(0o500)
