"""What tools say about the code, the scripts, the units and the manual is a test like any other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

TOP = Path(__file__).parent.parent
UNITS = sorted([*TOP.glob("systemd/*.service"), *TOP.glob("systemd/*.socket")])
SCRIPTS = [TOP / ".ci/run", TOP / "systemd/install.sh", TOP / "tests/run.sh"]
PAGES = sorted(TOP.glob("systemd/man/*"))


def said_by(*command: str | Path) -> str:
    """Everything that a tool has to say, with its exit status if that was not 0."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout + (f"exit status {done.returncode}" if done.returncode else "")


def test_ruff_has_nothing_to_say() -> None:
    """Each exception stands with its reason in pyproject.toml or on its line."""
    said = said_by("ruff", "check", "--quiet", ".")
    assert said == "", said


def test_the_code_is_formatted() -> None:
    """By the formatter, so that nobody has to talk about it."""
    said = said_by("ruff", "format", "--quiet", "--check", ".")
    assert said == "", said


def test_types_are_right() -> None:
    """Mypy, strict, for all of the package."""
    said = said_by(sys.executable, "-m", "mypy")
    assert said.startswith("Success"), said


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_sound(script: Path) -> None:
    """As shellcheck sees it."""
    said = said_by("shellcheck", script)
    assert said == "", said


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_manual_pages_are_well_formed(page: Path) -> None:
    """Groff warns of nothing."""
    command = ("man", "--warnings", "--encoding=UTF-8", "--troff-device=utf8", "--ditroff", "-l")
    done = subprocess.run([*command, page], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_units_are_valid(tmp_path: Path) -> None:
    """Also where nothing is installed: only the programs that they run are replaced."""
    copies = []
    for unit in UNITS:
        text = re.sub(r"(?m)^(Exec\w+)=.*", r"\1=/bin/true", unit.read_text())
        copies.append(tmp_path / unit.name)
        copies[-1].write_text(text)
    said = said_by("systemd-analyze", "verify", "--man=no", *copies)
    assert said == "", said


def test_the_service_is_confined() -> None:
    """As far as a daemon can be that gives directories away: exposure 2.0 at most."""
    service = TOP / "systemd/sockbroker.service"
    done = said_by("systemd-analyze", "security", "--offline=true", "--threshold=20", service)
    found = re.search(r"Overall exposure level for sockbroker\.service: ([0-9.]+)", done)
    assert found is not None, done
    assert float(found[1]) <= 2.0


def test_the_service_keeps_what_the_broker_needs() -> None:
    """Each of these looks like hardening, and breaks what the daemon promises."""
    service = (TOP / "systemd/sockbroker.service").read_text()
    settings = dict(re.findall(r"(?m)^([A-Za-z]+)=(.*)$", service))
    for broken in (
        "PrivateNetwork",  # an abstract name belongs to a network namespace
        "ProcSubset",  # /proc/locks
        "RestrictSUIDSGID",  # setgid directories, openat2
        "PrivateUsers",  # every peer would be nobody
        "Requires",  # a socket that cannot be had must not keep the service from running
        "BindsTo",
    ):
        assert broken not in settings
    assert set(settings["CapabilityBoundingSet"].split()) <= {
        "CAP_CHOWN", "CAP_FOWNER", "CAP_FSETID", "CAP_DAC_READ_SEARCH",
    }  # fmt: skip


def test_units_name_pages_that_are_there() -> None:
    """`systemctl help sockbroker` finds something."""
    pages = {page.name for page in PAGES}
    for unit in UNITS:
        for name, section in re.findall(r"man:([a-z.]+)\((\d)\)", unit.read_text()):
            assert f"{name}.{section}" in pages


def locked(file: str) -> dict[str, str]:
    """The packages of a lock file, each with its version."""
    text = (TOP / file).read_text()
    found = re.findall(
        r"(?m)^([A-Za-z0-9_.-]+)==([^ ]+) \\\n((?: +--hash=sha256:[0-9a-f]{64}.*\n)+)", text
    )
    assert len(found) == len(re.findall(r"(?m)^[^# ]", text)), "a package without hashes"
    return {canonicalize_name(name): version for name, version, _hashes in found}


def test_the_lock_file_is_in_step() -> None:
    """It has what pyproject.toml wants and what that wants in turn, within the ranges."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    lock = locked("systemd/requirements.lock")
    waiting = [*map(Requirement, project["dependencies"])]
    seen = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        assert name in lock, f"{wanted} is not locked"
        assert wanted.specifier.contains(Version(lock[name])), (
            f"{wanted}, but {lock[name]} is locked"
        )
        if name not in seen:
            seen.add(name)
            waiting += map(Requirement, requires(name) or [])
    assert set(lock) == seen


def test_the_ranges_take_in_what_debian_12_has() -> None:
    """So that the daemon can also run on the distribution's own packages."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    debian = {"PyYAML": "6.0", "structlog": "22.3.0", "python-daemon": "2.3.2"}
    for wanted in map(Requirement, project["dependencies"]):
        assert wanted.specifier.contains(debian.pop(wanted.name))
    assert debian == {}


def test_there_is_nothing_else_at_the_top() -> None:
    """Every file has its place below one of these."""
    tracked = subprocess.run(
        ["git", "-c", f"safe.directory={TOP}", "ls-files", "-z"],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    tops = {name.split("/")[0] for name in tracked.split("\0") if name}
    assert {top for top in tops if not top.startswith(".")} <= {
        "LICENSE", "README.md", "etc", "pyproject.toml", "src", "systemd", "tests",
    }  # fmt: skip
