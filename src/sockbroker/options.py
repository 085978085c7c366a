"""The command line of sockbrokerd."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from sockbroker import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says; paths are absolute."""

    policy: str
    base: str
    runtime_directory: str
    control_name: str
    daemonize: bool
    remove_directories: bool
    force: bool


def read_options(arguments: Sequence[str] | None) -> Options:
    """Read these, or those of the process; what is no command line ends it, with status 2."""
    parser = argparse.ArgumentParser(
        prog="sockbrokerd", description="Hands out runtime directories, /run/<app>/<uid>."
    )
    add = parser.add_argument
    add("--policy", metavar="FILE", default="/etc/sockbroker.yaml", help="default: %(default)s")
    add("--base", metavar="DIR", default="/run", help="where apps have folders; default: /run")
    add("--runtime-directory", metavar="DIR", help="the daemon's own; default: BASE/sockbroker")
    add("--control-name", metavar="NAME", default="sockbroker", help="the abstract socket's name")
    add("--daemonize", action="store_true", help="go to the background once the broker answers")
    add(
        "--remove-directories",
        action="store_true",
        help="instead of serving, remove all directories that nobody uses (to uninstall)",
    )
    add("--force", action="store_true", help="with --remove-directories: those in use as well")
    add("--version", action="version", version=f"sockbrokerd {__version__}")
    given = parser.parse_args(arguments)
    if not given.control_name or "\0" in given.control_name or len(given.control_name) > 100:
        parser.error("--control-name: 1 to 100 characters; an empty one would be any free name")
    base = os.path.abspath(given.base)
    return Options(
        policy=os.path.abspath(given.policy),
        base=base,
        runtime_directory=os.path.abspath(given.runtime_directory or f"{base}/sockbroker"),
        control_name=given.control_name,
        daemonize=given.daemonize,
        remove_directories=given.remove_directories,
        force=given.force,
    )
