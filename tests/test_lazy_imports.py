"""What is imported lazily is imported when it is first used, and the daemon never uses it."""

from __future__ import annotations

import subprocess
import sys

LOGGING = """
import sys
import sockbroker.daemon
from sockbroker.logs import plain_logger
left_out = {"asyncio", "uuid"}
if sys.version_info[:2] != (3, 13):  # whose dataclasses call it
    left_out.add("inspect")
assert not left_out & set(sys.modules), sorted(sys.modules)
plain_logger(2).info("event", number=1)
assert not (left_out | {"ssl"}) & set(sys.modules), sorted(sys.modules)
"""

READING = """
import sys
import sockbroker.daemon
from sockbroker.core.policy_reader import read_policy
before = set(sys.modules)
read_policy(b"apps: {}", "policy")
assert set(sys.modules) == before, set(sys.modules) - before
"""

AFTERWARDS = """
import sys
import sockbroker.logs
import structlog.stdlib
assert structlog.stdlib.asyncio.get_running_loop.__module__ == "_asyncio"
import asyncio
assert sys.modules["asyncio"] is asyncio and asyncio.__spec__.name == "asyncio"
assert asyncio.run(asyncio.sleep(0, 7)) == 7
assert structlog.stdlib.asyncio.run is asyncio.run
"""

USED_MEANWHILE = """
import sys
from sockbroker.lazy_imports import lazily
with lazily("asyncio"):
    import asyncio
    assert not asyncio  # as logging asks for it
    assert "asyncio.events" not in sys.modules
    assert asyncio.run.__module__ == "asyncio.runners"
    assert "asyncio.events" in sys.modules
import asyncio
assert sys.modules["asyncio"].__spec__.name == "asyncio"
"""

BEFORE = """
import asyncio
from sockbroker.lazy_imports import lazily
with lazily("asyncio"):
    import asyncio as again
assert again is asyncio
"""


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr


def test_the_daemon_does_not_import_what_it_never_calls() -> None:
    """Neither asyncio nor what that imports (ssl, subprocess) is there, even after a log line.

    Seen to fail with a plain `import structlog`, and with `dataclasses` imported before.
    """
    run(LOGGING)


def test_whoever_uses_it_gets_the_real_one() -> None:
    """structlog's own methods, and everybody who imports it afterwards.

    Seen to fail without the lines that take the stand-in out of sys.modules.
    """
    run(AFTERWARDS)
    run(USED_MEANWHILE)


def test_what_is_there_already_stays() -> None:
    """No second copy of a module that somebody has imported before."""
    run(BEFORE)


def test_reading_a_policy_imports_nothing() -> None:
    """A start has everything by then, and a reload is not held up.

    Seen to fail without yaml in `libraries`.
    """
    run(READING)
