"""The broker as it ships: installed with compiled modules, and started as its unit starts it.

Nothing of it is switched off: limits, deadlines, checks, the record and all that confines it are as
a user has them.  Its record goes to a file, as lines of JSON.
"""

from __future__ import annotations

import compileall
import os
import resource
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from running import Daemon

import sockbroker

PACKAGE = Path(sockbroker.__file__).parent

LAUNCHER = """\
#!{python} -IS
import sys
sys.path += [{installed!r}, {packages!r}]
from sockbroker.{module} import main
sys.exit(main())
"""
"""As the installer writes it, but that the package is a copy beside it."""

DESCRIPTORS = 8192
"""LimitNOFILE of the unit."""


class Installed:
    """A copy of the package in a folder of its own, with its two commands."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.copytree(PACKAGE, folder / "sockbroker", ignore=lambda *_: ["__pycache__"])
        prefix, sys.pycache_prefix = sys.pycache_prefix, None
        try:
            compileall.compile_dir(folder / "sockbroker", quiet=2)
        finally:
            sys.pycache_prefix = prefix
        self.daemon = self._launcher("sockbrokerd", "daemon")
        self.command = self._launcher("sockbrokerctl", "ctl")

    def _launcher(self, name: str, module: str) -> str:
        path = self._folder / name
        path.write_text(
            LAUNCHER.format(
                python=sys.executable,
                installed=str(self._folder),
                packages=sysconfig.get_path("purelib"),
                module=module,
            )
        )
        path.chmod(0o755)
        return str(path)

    @contextmanager
    def running(
        self,
        policy: str,
        log: Path,
        *arguments: str,
        cpu: int | None = None,
        under: Sequence[str] = (),
    ) -> Iterator[Daemon]:
        """While entered, the daemon runs with this policy, pinned where a CPU is named."""
        file = log.with_suffix(".yaml")
        file.write_text(policy)
        log.unlink(missing_ok=True)  # what an earlier one has said is not this one's
        command = [*under, self.daemon, "--policy", str(file), *arguments]
        daemon = Daemon(command, log, environment=ENVIRONMENT, before=as_a_service(cpu))
        try:
            yield daemon.wait_until_ready()
        finally:
            daemon.kill()


ENVIRONMENT = {"PATH": os.environ["PATH"]}


def as_a_service(cpu: int | None) -> Callable[[], None]:
    """What a service manager does between fork and exec."""

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})

    return prepare
