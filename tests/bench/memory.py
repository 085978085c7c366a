"""What the broker costs while nobody asks it anything: memory, and wake-ups."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installed import Installed
from measuring import Effort, NotMeasured, Run, Sample
from policies import ONE_APP
from programs import Programs
from running import Daemon, World, private_world
from serving import BROKER, CLIENT, ONE

CONNECTIONS = 4000
"""As many as the broker keeps, nearly."""

SECONDS_TO_SETTLE = 1.0
MINUTE = 60.0


class _Idle:
    """A daemon that has answered once, and what it is compared with."""

    def __init__(self, programs: Programs, world: World) -> None:
        self._programs = programs
        self._world = world
        self._installed = Installed(world.own)

    @contextmanager
    def _daemon(self) -> Iterator[Daemon]:
        with self._installed.running(ONE_APP, self._world.own / "log") as daemon:
            self._programs.figures("load", "-u", CLIENT, BROKER, 1, 10, "each", ONE)
            time.sleep(SECONDS_TO_SETTLE)
            yield daemon

    def resident(self) -> Sample:
        """The memory of the daemon."""
        with self._daemon() as daemon:
            return {"KiB": daemon.resident()}

    def python(self) -> Sample:
        """The memory of an interpreter that waits."""
        command = [sys.executable, "-I", "-c", "print(flush=True); input()"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            found = _status(process.pid, "VmRSS")
            process.communicate(b"\n")
            return {"KiB": found}

    def connections(self) -> Sample:
        """What each of many connections adds that have asked once and are kept."""
        with self._daemon() as daemon:
            before = daemon.resident()
            options = ("-h", "-u", CLIENT, BROKER, CONNECTIONS, 1, "kept", ONE)
            command = [self._programs.path("load"), *map(str, options)]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as process:
                assert process.stdout is not None
                said = json.loads(process.stdout.readline() or "{}")
                if said.get("failed") != 0 or daemon.descriptors() < CONNECTIONS:
                    raise NotMeasured(f"not all {CONNECTIONS} connections are there: {said}")
                added = daemon.resident() - before
                process.communicate()
            return {"KiB": added / CONNECTIONS}

    def minute(self) -> Sample:
        """How often any of its threads was woken in a minute in which nobody came."""
        with self._daemon() as daemon:
            before = _switches(daemon.pid)
            time.sleep(MINUTE)
            return {"number": _switches(daemon.pid) - before}


def _status(process: object, field: str) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise NotMeasured(f"/proc does not tell {field}")


def _switches(pid: int) -> int:
    """How often its threads have given up a processor because they had nothing to do."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(_status(f"{pid}/task/{each.name}", "voluntary_ctxt_switches") for each in threads)


@contextmanager
def idle(_effort: Effort, programs: Programs) -> Iterator[dict[str, Run]]:
    """Memory with nobody there, and with many who say nothing."""
    with private_world() as world:
        it = _Idle(programs, world)
        yield {"ours": it.resident, "python": it.python, "connections": it.connections}


@contextmanager
def asleep(_effort: Effort, programs: Programs) -> Iterator[dict[str, Run]]:
    """A minute of nothing, which is the same in every round."""
    with private_world() as world:
        yield {"ours": _Idle(programs, world).minute}
