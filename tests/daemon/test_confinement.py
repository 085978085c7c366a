"""A daemon that has been taken over is not all of root: tried from inside the running one.

Taken out, to see these fail: every attack is also tried without any confinement, and has to succeed
there; and each of the four capabilities is taken away, and something has to be missing then.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from errno import EINVAL, ENOPROTOOPT, ENOSYS, EOPNOTSUPP, EPERM
from mmap import PROT_EXEC, PROT_READ, PROT_WRITE
from pathlib import Path

import attacks
import pytest
from peers import (
    DENIED,
    OBSTRUCTED,
    REQUEST,
    Line,
    as_mallory,
    ask_all,
    granted,
    listed,
    operator_asks,
    refused,
    user_asks,
)
from refusing import PR_SET_SECCOMP, SO_PASSRIGHTS, Refusal, refuse
from running import (
    ALICE,
    BOB,
    CACHE,
    CAROL,
    CHAT,
    OPERATOR,
    RUN,
    Daemon,
    World,
    eventually,
    mount,
    state,
)
from starting import seen_of

from this_kernel import LAYERS, MISSING_LAYERS, SCOPES_SIGNALS

pytestmark = pytest.mark.root

PROGRAM = [sys.executable, "-I", *CACHE, str(Path(attacks.__file__))]
POLICY = 'apps: {demo: {allow: {everyone: true}, mode: "2750", group: chat}}'

NOT_STOPPED = {
    attack
    for attack, there in (
        ("signal a process of root's", SCOPES_SIGNALS),
        ("make code", "no_new_code" in LAYERS),
    )
    if not there
}
"""What the daemon by itself cannot have this kernel refuse."""


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


def start_taken_over(world: World, before: Callable[[], None] | None = None) -> Daemon:
    """Start the daemon with the attacks inside of it."""
    world.write(POLICY)
    with_file = [*PROGRAM, "daemon", "--policy", str(world.policy)]
    environment = {"PATH": os.environ["PATH"]}
    daemon = Daemon(with_file, world.own / "log", environment=environment, before=before)
    try:
        daemon.wait_for("attacks")
    except BaseException:
        daemon.kill()
        raise
    return daemon


def test_from_inside_the_daemon(prey: World) -> None:
    """Nothing is written elsewhere, nothing run, nobody asked, no privilege gained."""
    daemon = start_taken_over(prey)
    try:
        found = outcomes(daemon.text())
        assert {name for name, said in found.items() if said == "done"} == NOT_STOPPED
        assert {said for said in found.values()} <= {
            "done",
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
            (RUN / f"demo/{ALICE}/file").touch()  # nobody has to look into an empty one
            [row] = listed(ask_all("List", app="demo", at=OPERATOR))
            found |= {"in use"} if row.get("inUse") is False else set()
        daemon.kill()
        return found

    under: list[str] = []
    assert works() == {"created", "repaired", "setgid", "in use"}
    under = ["setpriv", f"--bounding-set=-{capability}"]
    assert lacking not in works()


# On a kernel, or in a container, that lacks something.

PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, PR_GET_MDWE = 23, 24, 38, 65, 66

Calls = list[tuple[str | int, ...]]

NO_MDWE: Calls = [("prctl", PR_SET_MDWE), ("prctl", PR_GET_MDWE)]

MEMORY_FILTER: Calls = [
    ("mmap", -1, -1, PROT_READ | PROT_WRITE | PROT_EXEC),
    ("mprotect", -1, -1, PROT_READ | PROT_EXEC),
]
"""As MemoryDenyWriteExecute= of a unit has it, systemd.exec(5)."""

LACKING: dict[str, tuple[Calls, set[str], list[int]]] = {
    "landlock": ([("landlock_create_ruleset",)], {"landlock"}, [ENOSYS, EOPNOTSUPP]),
    "seccomp": ([("prctl", PR_SET_SECCOMP)], {"system_calls"}, [EINVAL]),
    "mount namespaces": ([("unshare",)], {"mounts"}, [EPERM]),
    "mount": ([("mount",)], {"mounts"}, [EPERM]),
    "mount_setattr": ([("mount_setattr",)], {"mounts"}, [ENOSYS]),
    "capset": ([("capset",)], {"capabilities"}, [EPERM]),
    "the bounding set": ([("prctl", PR_CAPBSET_DROP)], {"capabilities"}, [EPERM]),
    "a look at it": ([("prctl", PR_CAPBSET_READ)], {"capabilities"}, [EINVAL, EPERM]),
    "MDWE": (NO_MDWE, {"no_new_code"}, [EINVAL]),
    "MDWE, which a filter makes up for": ([*NO_MDWE, *MEMORY_FILTER], set(), [EPERM]),
    "MDWE, for which half a filter does not": (
        [*NO_MDWE, MEMORY_FILTER[0]],
        {"no_new_code"},
        [EPERM],
    ),
    # Without it the kernel takes neither a rule nor a filter from one that gave up the rest.
    "no_new_privs": (
        [("prctl", PR_SET_NO_NEW_PRIVS)],
        {"no_new_privs", "landlock", "system_calls"},
        [EPERM],
    ),
    "openat2": ([("openat2",)], set(), [ENOSYS, EPERM]),
    "SO_PASSRIGHTS": ([("setsockopt", -1, socket.SOL_SOCKET, SO_PASSRIGHTS)], set(), [ENOPROTOOPT]),
}
"""By what is refused: the calls, with the first arguments that make it up (-1: any); the layers
that cannot be had then; and the answers that are known for it."""

LACKING["everything"] = (
    [
        call
        for calls, _layers, _answers in LACKING.values()
        for call in calls
        if call not in MEMORY_FILTER
    ],
    set().union(*(layers for _calls, layers, _answers in LACKING.values())),
    [ENOSYS, EPERM],
)

ONLY = {
    "mounts": "chmod elsewhere",
    "no_new_code": "make code",
    "landlock": "make a file in the base",
    "system_calls": "open an IPv4 socket",
}
"""For each layer an attack that no other layer stops."""


@pytest.mark.parametrize(
    ("what", "answer"),
    [(what, answer) for what, (*_, answers) in LACKING.items() for answer in answers],
    ids=lambda each: errno.errorcode.get(each, each),
)
def test_a_kernel_that_lacks_something(prey: World, what: str, answer: int) -> None:
    """It starts, names what it lacks and no layer too many, and serves as with all of it.

    What it says that holds is held against attacks from inside, and against what the kernel shows
    of the process.

    Seen to fail when a kernel without MDWE (before Linux 6.3) counted as one that has it on, when a
    bounding set that cannot be read counted as narrow, and when no line of the log warned of it.
    """
    calls, layers, _answers = LACKING[what]
    refusals = [
        Refusal(str(name), answer, tuple(int(each) for each in arguments))
        for name, *arguments in calls
    ]
    daemon = start_taken_over(prey, before=lambda: refuse(refusals))
    try:
        came_of = outcomes(daemon.text())
        for moved in RUN.glob("systemd/*/e.service.d"):  # where two of the attacks have put it
            moved.rename(RUN / "sockbroker")
        held = {layer for layer, attack in ONLY.items() if came_of[attack] != "done"}
        held |= seen_of(daemon.pid) & {"no_new_privs", "capabilities"}
        said = operator_asks("Status")["parameters"]["confinement"]
        assert set(said) == held == set(LAYERS) - layers
        layers = layers | MISSING_LAYERS
        warnings = daemon.log("not all that confines holds")
        assert {layer for warning in warnings for layer in warning["missing"]} == layers
        assert {warning["level"] for warning in warnings} == ({"warning"} if layers else set())
        all_is_right(daemon)
    finally:
        daemon.kill()


def test_mounts_that_are_half_set_up(world: World) -> None:
    """With all read-only and no way to take the base out of it, there is no start; it says so.

    Seen to fail without a look: then a lock that could not be written was all that it said.
    """
    not_recursive = Refusal("mount_setattr", EPERM, (-1, -1, 0))
    daemon = world.begin(policy=POLICY, before=lambda: refuse([not_recursive]))
    assert daemon.ended() == 1
    (event,) = daemon.log()
    (problem,) = event["problems"]
    assert problem.startswith("/run: read-only for this process"), problem
    assert "mount_setattr /run: Operation not permitted" in problem
    assert state("/run/sockbroker") == (0, 0, "0755")
    assert os.listdir("/run/sockbroker") == []


def all_is_right(daemon: Daemon) -> None:
    """Ask, list, repair, refuse and release, and the answers are what they always are."""
    path = RUN / f"demo/{ALICE}"
    for outcome in ("created", "existing"):
        assert granted(user_asks(ALICE, "Request", app="demo")) == (str(path), outcome)
        assert state(path) == (ALICE, CHAT, "2750")
    path.chmod(0o777)
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "repaired"
    assert state(path) == (ALICE, CHAT, "2750")
    assert refused(user_asks(ALICE, "Request", app="other")) == DENIED
    (RUN / f"demo/{BOB}").symlink_to("/etc")
    (RUN / f"demo/{CAROL}").mkdir()
    mount("tmpfs", RUN / f"demo/{CAROL}", "tmpfs")
    for uid in (BOB, CAROL):
        for method in ("Request", "Release"):
            assert refused(user_asks(uid, method, app="demo")) == OBSTRUCTED
    rows = listed(ask_all("List", at=OPERATOR))
    shown = {row["uid"]: row["state"] for row in rows}
    assert shown == {ALICE: "ok", BOB: "obstructed", CAROL: "obstructed"}
    assert as_mallory(sends_a_descriptor)
    assert user_asks(ALICE, "Release", app="demo") == {}
    # Whatever else is there was left by an attack that nothing stopped.
    eventually("deleted", lambda: not [*path.parent.glob(f".old-{ALICE}-*")])
    assert not path.exists()
    assert operator_asks("Reload")["parameters"]["policyGeneration"] == 2
    assert daemon.log("fault") == []


def sends_a_descriptor() -> bool:
    """Send one with a request; whether the kernel refuses it or the connection is closed."""
    with Line() as line, open("/etc/passwd") as file:
        try:
            socket.send_fds(line.socket, [REQUEST], [file.fileno()])
        except PermissionError:
            return True
        return line.closed()
