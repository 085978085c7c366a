"""A daemon that has been taken over is not all of root: tried from inside the running one.

Taken out, to see these fail: every attack is also tried without any confinement, and has to succeed
there; and each of the four capabilities is taken away, and something has to be missing then.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attacks
import pytest
from peers import ask_all, granted, listed, operator_asks, user_asks
from running import ALICE, CACHE, OPERATOR, RUN, Daemon, World, mount, state

pytestmark = pytest.mark.root

PROGRAM = [sys.executable, "-I", *CACHE, str(Path(attacks.__file__))]
POLICY = 'apps: {demo: {allow: {everyone: true}, mode: "2750", group: chat}}'
LAYERS = ["mounts", "no_new_privs", "capabilities", "no_new_code", "landlock", "system_calls"]


@pytest.fixture
def prey(world: World) -> Iterator[World]:
    """A world with all that is attacked, none of it the machine's own."""
    mount("tmpfs", Path("/srv"), "tmpfs", 0, "mode=0755")
    Path(attacks.TARGET).mkdir()
    for name in ("file", "moved", "removed"):
        Path(attacks.TARGET, name).write_text("unchanged")
    Path("/srv/mounted").mkdir()
    mount("tmpfs", Path("/srv/mounted"), "tmpfs")
    for folder in ("systemd/system", "udev/rules.d", "dbus"):
        (RUN / folder).mkdir(parents=True, mode=0o755)
    listeners = []
    for name in ("systemd/private", "dbus/system_bus_socket", "docker.sock"):
        listeners.append(socket.socket(socket.AF_UNIX))
        listeners[-1].bind(str(RUN / name))
        listeners[-1].listen(8)
    # A new session: what it is sent by mistake reaches nobody else.
    victim = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    Path(attacks.VICTIM).write_text(str(victim.pid))
    try:
        yield world
    finally:
        victim.kill()
        victim.wait()
        for listener in listeners:
            listener.close()


def outcomes(text: str) -> dict[str, str]:
    """What came of each attack, from the output of the program."""
    lines = [json.loads(line) for line in text.splitlines() if '"event": "attacks"' in line]
    assert len(lines) == 1, text
    del lines[0]["event"]
    assert lines[0].keys() == attacks.ATTACKS.keys()
    return dict(lines[0])


def start_taken_over(world: World) -> Daemon:
    """Start the daemon with the attacks inside of it."""
    world.write(POLICY)
    with_file = [*PROGRAM, "daemon", "--policy", str(world.policy)]
    daemon = Daemon(with_file, world.own / "log", environment={"PATH": os.environ["PATH"]})
    daemon.wait_for("attacks")
    return daemon


def test_from_inside_the_daemon(prey: World) -> None:
    """Nothing is written elsewhere, nothing run, nobody asked, no privilege gained."""
    daemon = start_taken_over(prey)
    try:
        found = outcomes(daemon.text())
        assert [name for name, said in found.items() if said == "done"] == []
        assert {said for said in found.values()} <= {
            "EACCES", "EAFNOSUPPORT", "ECONNREFUSED", "ENOENT", "EPERM", "EROFS", "EXDEV", "EBUSY",
        }  # fmt: skip
        assert [path.read_text() for path in Path(attacks.TARGET).iterdir()] == ["unchanged"] * 3
        assert operator_asks("Status")["parameters"]["confinement"] == LAYERS
        assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    finally:
        daemon.kill()


def test_each_attack_succeeds_without(prey: World) -> None:
    """So that what the daemon's confinement stops is what it seems to be."""
    (RUN / "demo").mkdir()
    (RUN / "demo/file").touch()
    (RUN / "sockbroker").mkdir()
    done = subprocess.run(PROGRAM, capture_output=True, text=True, check=True, timeout=100)
    found = outcomes(done.stderr)
    assert {name: said for name, said in found.items() if said != "done"} == {}


@pytest.mark.parametrize(
    ("capability", "lacking"),
    [
        ("chown", "created"),
        ("fowner", "repaired"),
        ("fsetid", "setgid"),
        ("dac_read_search", "in use"),
    ],
)
def test_each_capability_is_needed(world: World, capability: str, lacking: str) -> None:
    """With it all of these are right, and without it that one is not."""

    def works() -> set[str]:
        for entry in RUN.iterdir():
            shutil.rmtree(entry, ignore_errors=True)
        daemon = world.start(POLICY, under=under)
        found = set()
        if "error" not in user_asks(ALICE, "Request", app="demo"):
            found.add("created")
            (RUN / f"demo/{ALICE}").chmod(0o755)
            user_asks(ALICE, "Request", app="demo")
            mode = state(f"/run/demo/{ALICE}")[2]
            found |= {"repaired"} if mode[1:] == "750" else set()
            found |= {"setgid"} if mode == "2750" else set()
            [row] = listed(ask_all("List", app="demo", at=OPERATOR))
            found |= {"in use"} if row.get("inUse") is False else set()
        daemon.kill()
        return found

    under: list[str] = []
    assert works() == {"created", "repaired", "setgid", "in use"}
    under = ["setpriv", f"--bounding-set=-{capability}"]
    assert lacking not in works()
