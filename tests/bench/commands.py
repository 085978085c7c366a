"""How long a user or an administrator waits for a command, from its start to its end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import policies
from installed import Installed
from measuring import Effort, NotMeasured, Run, Sample, middle
from peers import user_asks
from programs import Programs
from running import ALICE, MS_BIND, OPERATOR, RUN, World, mount, private_world

TIMES = 20
"""Of each command in each round."""

LIST = '{"method":"io.sockbroker.List","parameters":{},"more":true}'
DIRECTORIES = 10_000

SUDO_ACCOUNTS = {
    "/etc/sudoers": (0o440, "alice ALL=(ALL:ALL) NOPASSWD: ALL\n"),
    "/etc/shadow": (0o600, "root:*:19000:0:99999:7:::\nalice:*:19000:0:99999:7:::\n"),
}


class _Commands:
    def __init__(self, programs: Programs, world: World, installed: Installed) -> None:
        self._programs = programs
        self._world = world
        self._installed = installed

    def whole(self, *command: object, uid: int = ALICE, times: int = TIMES) -> Sample:
        """The middle one of some runs of a command by that user."""
        options = ("-n", times, "-u", uid)
        return middle(self._programs.figures("launch", *options, *command))

    def request(self) -> Sample:
        """Ask for a directory that is there."""
        return self.whole(self._installed.command, "request", "demo")

    def systemctl(self) -> Sample:
        """A command of systemd's that asks nobody anything."""
        if shutil.which("systemctl") is None:
            raise NotMeasured("systemctl is not installed: the package systemd")
        return self.whole("systemctl", "--version")

    def sudo(self) -> Sample:
        """What a user could do instead, if he were let: make the directory by sudo."""
        if shutil.which("sudo") is None:
            raise NotMeasured("sudo is not installed: the package sudo")
        if not (self._world.own / "sudoers").exists():
            for name, (mode, text) in SUDO_ACCOUNTS.items():
                own = self._world.own / Path(name).name
                own.write_text(text)
                own.chmod(mode)
                mount(str(own), Path(name), flags=MS_BIND)
        made = RUN / "by-sudo"
        install = ("install", "-d", "-o", ALICE, "-m", "0700", made)
        return self.whole("sudo", "-n", *install)

    def list_command(self) -> Sample:
        """List all directories, for root."""
        return self.whole(self._installed.command, "list", uid=0, times=1)

    def list_call(self) -> Sample:
        """Only the call and its replies, taken by a client in C."""
        (sample,) = self._programs.figures("load", "-s", OPERATOR, 1, 1, "each", LIST)
        return {"whole": sample["p50"]}

    def walk(self) -> Sample:
        """Look at the same directories."""
        (sample,) = self._programs.figures("walk", RUN / "demo", 1)
        return {"whole": sample["p50"]}


@contextmanager
def command(_effort: Effort, programs: Programs) -> Iterator[dict[str, Run]]:
    """`sockbrokerctl request`, and what takes as long."""
    with private_world() as world:
        installed = Installed(world.own)
        with installed.running(policies.ONE_APP, world.own / "log"):
            it = _Commands(programs, world, installed)
            user_asks(ALICE, "Request", app="demo")
            yield {"request": it.request, "systemctl": it.systemctl, "sudo": it.sudo}


@contextmanager
def listing(_effort: Effort, programs: Programs) -> Iterator[dict[str, Run]]:
    """`sockbrokerctl list` of many directories."""
    with private_world() as world:
        installed = Installed(world.own)
        with installed.running(policies.as_range(DIRECTORIES), world.own / "log"):
            if len(os.listdir(RUN / "demo")) < DIRECTORIES:
                raise NotMeasured("the directories are not there")
            it = _Commands(programs, world, installed)
            yield {"command": it.list_command, "call": it.list_call, "walk": it.walk}
