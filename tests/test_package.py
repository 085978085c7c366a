"""The package as a whole: what it says of itself in more than one place is the same."""

import tomllib
from pathlib import Path

import sockbroker

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def test_version() -> None:
    """The version that the program tells is the one that it is packaged as."""
    packaged = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["version"]
    assert packaged == sockbroker.__version__
