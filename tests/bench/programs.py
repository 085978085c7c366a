"""The C programs of the bench: compiled on the spot, and run for the figures that they print."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from measuring import NotMeasured, Sample

SOURCES = Path(__file__).parent
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")


class ProgramFailed(NotMeasured):
    """A program of the bench did not do what it was asked to; its figures are worth nothing."""


def compile_program(name: str, folder: Path, *more: str) -> Path:
    """Compile NAME.c, with these flags as well, and return the program."""
    program = folder / name
    source = SOURCES / f"{name}.c"
    command = ["cc", *FLAGS, *more, "-o", str(program), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProgramFailed(f"{' '.join(command)}:\n{done.stderr}")
    return program


class Programs:
    """Compiles each program when it is first wanted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._compiled: dict[str, str] = {}

    def path(self, name: str) -> str:
        """Where the program is."""
        if name not in self._compiled:
            self._compiled[name] = str(compile_program(name, self._folder))
        return self._compiled[name]

    def figures(self, name: str, *arguments: object) -> list[Sample]:
        """Run it, and return what it printed, a line each; ProgramFailed if it failed."""
        return self.figures_and_errors(name, *arguments)[0]

    def figures_and_errors(self, name: str, *arguments: object) -> tuple[list[Sample], str]:
        """The same, with what it or what it ran wrote to standard error."""
        command = [self.path(name), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr[-500:] or done.stdout[-500:]
            raise ProgramFailed(f"{name} ended with status {done.returncode}: {said}")
        return [json.loads(line) for line in done.stdout.splitlines()], done.stderr
