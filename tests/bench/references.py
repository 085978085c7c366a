"""The other programs that answer requests: references of our own, systemd-userdbd, dbus-daemon.

Each is started as its own project ships it, pinned to the CPU that the broker is pinned to, and
ended with the `with` block that started it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from measuring import NotMeasured
from programs import Programs

USERDBD = "/lib/systemd/systemd-userdbd"
USERDB_SOCKET = "/run/systemd/userdb/io.systemd.Multiplexer"
BUS_SOCKET = "/run/bench-bus"

BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
"""The system bus, without the services and rules of one machine."""

PATIENCE = 10.0


@contextmanager
def reference(programs: Programs, name: str, job: str, folder: Path, cpu: int) -> Iterator[None]:
    """While entered, the C reference serves that abstract name."""
    folder.mkdir(mode=0o711, exist_ok=True)
    with _ready([programs.path("reference"), name, job, str(folder)], cpu):
        yield


@contextmanager
def usual_server(name: str, folder: Path, cpu: int) -> Iterator[int]:
    """While entered, an asyncio server serves that abstract name; gives its pid."""
    source = Path(__file__).with_name("usual_server.py")
    with _ready([sys.executable, "-I", str(source), name, str(folder)], cpu) as process:
        yield process.pid


@contextmanager
def userdbd(cpu: int) -> Iterator[str]:
    """While entered, systemd-userdbd serves at the path that this gives; NotMeasured."""
    _demand(USERDBD, "systemd-userdbd")
    _demand("systemd-socket-activate", "systemd")
    Path(USERDB_SOCKET).parent.mkdir(parents=True, exist_ok=True)
    with _pinned(["systemd-socket-activate", "-l", USERDB_SOCKET, USERDBD], cpu):
        _until("systemd-userdbd", lambda: os.path.exists(USERDB_SOCKET))
        os.chmod(USERDB_SOCKET, 0o666)  # as its socket unit has it
        yield USERDB_SOCKET


@contextmanager
def bus(own: Path, cpu: int) -> Iterator[str]:
    """While entered, a dbus-daemon serves at the path that this gives; NotMeasured."""
    _demand("dbus-daemon", "dbus-daemon")
    configuration = own / "bus.conf"
    configuration.write_text(BUS.format(socket=BUS_SOCKET))
    command = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--nopidfile"]
    with _pinned(command, cpu):
        _until("dbus-daemon", lambda: os.path.exists(BUS_SOCKET))
        yield BUS_SOCKET


def _demand(command: str, package: str) -> None:
    if shutil.which(command) is None:
        raise NotMeasured(f"{command} is not installed: the package {package}")


def _until(what: str, look: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not look():
        if time.monotonic() > end:
            raise NotMeasured(f"{what} does not start")
        time.sleep(0.01)


@contextmanager
def _ready(command: Sequence[str], cpu: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run one that says when it is ready."""
    with _pinned(command, cpu) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise NotMeasured(f"{command[0]} does not start")
        yield process


@contextmanager
def _pinned(command: Sequence[str], cpu: int) -> Iterator[subprocess.Popen[bytes]]:
    # A group of its own: systemd-userdbd has workers.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()
