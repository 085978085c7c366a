"""The real units under a real systemd.

Installed as a user installs, started, restarted, rebooted, upgraded, taken away: one machine for
all of it, in this order, as an administrator's goes through it.
"""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
import time
from collections.abc import Iterator

import pytest
from booted import ALICE, BOB, CHECKOUT, Machine

from this_kernel import LAYERS, SCOPES_SIGNALS

pytestmark = pytest.mark.booted

SOCKETS = ("sockbroker.socket", "sockbroker-path.socket", "sockbroker-operator.socket")
UNITS = (*SOCKETS, "sockbroker.service")
ABSTRACT, BY_PATH = "unix:@sockbroker", "unix:/run/sockbroker/io.sockbroker"
POLICY = """
apps:
  demo: {allow: {users: [alice]}}
  chat:
    allow: {groups: [chat], users: [bob]}
    mode: "2750"
    group: chat
    at_boot: {users: [bob]}
"""


@pytest.fixture(autouse=True)
def tell_the_journal(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print what systemd and the daemon said during a test, for when it fails."""
    machine: Machine = request.getfixturevalue("machine")
    since = machine.said("date", "+@%s")
    yield
    ask = ("journalctl", "--no-pager", "-o", "short-monotonic", f"--since={since}")
    print(machine.run(*ask, "-u", "sockbroker*", check=False).stdout)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A booted machine on which nothing of ours is installed."""
    with Machine() as machine:
        yield machine


def install(
    machine: Machine, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the installer as `sudo` of alice would."""
    variables = [f"{name}={value}" for name, value in {"SUDO_USER": "alice", **environment}.items()]
    script = f"{CHECKOUT}/systemd/install.sh"
    return machine.run("env", *variables, "sh", script, *arguments, check=False)


def request(machine: Machine, app: str, uid: int, address: str = ABSTRACT) -> str:
    """Ask by a client that nobody here wrote; give the path, or the name of the error."""
    done = machine.run(
        "varlinkctl", "call", "-j", address, "io.sockbroker.Request", json.dumps({"app": app}),
        uid=uid, check=False,
    )  # fmt: skip
    if done.returncode:
        found = re.findall(r"io\.sockbroker\.\w+", done.stderr)
        return str(found[-1]) if found else done.stderr
    path = json.loads(done.stdout)["path"]
    assert isinstance(path, str)
    return path


def status(machine: Machine) -> dict[str, object]:
    """Read what the daemon says of itself to an operator."""
    address = "unix:/run/sockbroker/operator"
    answer = json.loads(
        machine.said("varlinkctl", "call", "-j", address, "io.sockbroker.Status", "{}")
    )
    assert isinstance(answer, dict)
    return answer


def listening(machine: Machine) -> dict[str, str]:
    """Name the inode of each listening socket: another one is another socket."""
    table = machine.said("cat", "/proc/net/unix")
    rows = [line.split() for line in table.splitlines()[1:]]
    return {
        row[7]: row[6]
        for row in rows
        if len(row) == 8 and "sockbroker" in row[7] and row[3] == "00010000"
    }


def is_active(machine: Machine, unit: str) -> str:
    """Ask systemd."""
    return machine.run("systemctl", "is-active", unit, check=False).stdout.strip()


def layout(machine: Machine) -> dict[str, str]:
    """List the runtime directories, with mode, owner and group."""
    places = ("/run", "-mindepth", "2", "-maxdepth", "2", "-regex", "/run/\\(demo\\|chat\\)/[^.].*")
    found = machine.said("find", *places, "-printf", "%p %m %U %G\n")
    return dict(line.split(" ", 1) for line in found.splitlines())


def set_policy(machine: Machine, text: str) -> None:
    """Write the policy as an administrator would."""
    machine.path("/etc/sockbroker.yaml").write_text(textwrap.dedent(text))


def test_one_command_installs_and_proves_it(machine: Machine) -> None:
    """Whatever the caller's umask and environment: they are not to be trusted.

    Taken out: the clean environment of install.sh, and its umask; with each, the installation
    fails.
    """
    hostile = {"PYTHONPATH": "/srv", "PIP_TARGET": "/srv/x", "LD_LIBRARY_PATH": "/srv"}
    machine.path("/srv/yaml.py").write_text("raise SystemExit('imported from PYTHONPATH')\n")
    machine.run("chown", "-R", f"{ALICE}:{ALICE}", CHECKOUT)
    hook = f"{CHECKOUT}/hook"
    machine.path(hook).write_text("#!/bin/sh\nid -u >>/tmp/hook\n")
    machine.path(hook).chmod(0o755)
    machine.run("git", "-C", CHECKOUT, "config", "core.fsmonitor", hook, uid=ALICE)

    done = machine.run(
        "env", "SUDO_USER=alice", *(f"{name}={value}" for name, value in hostile.items()),
        "sh", "-c", f"umask 0; exec sh {CHECKOUT}/systemd/install.sh", check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert f"/run/demo/{ALICE}" in done.stdout
    assert {unit: is_active(machine, unit) for unit in UNITS} == dict.fromkeys(UNITS, "active")
    assert machine.run("cat", "/tmp/hook", check=False).stdout in {"", f"{ALICE}\n"}
    others_can_write = machine.said("find", "/opt/sockbroker", "!", "-type", "l", "-perm", "/022")
    assert others_can_write == ""
    assert "users: [1000]" in machine.path("/etc/sockbroker.yaml").read_text()


def test_the_daemon_is_ready_when_systemd_says_so(machine: Machine) -> None:
    """Type=notify, with a watchdog; the name is what a client sees, and root listens."""
    shown = machine.said(
        "systemctl", "show", "-P", "Type", "-P", "WatchdogUSec", "sockbroker.service"
    )
    assert shown.split() == ["notify", "30s"]
    assert set(listening(machine)) == {
        "@sockbroker",
        "/run/sockbroker/io.sockbroker",
        "/run/sockbroker/operator",
    }
    places = ("/run/sockbroker", "/run/sockbroker/io.sockbroker", "/run/sockbroker/operator")
    modes = machine.said("stat", "-c", "%a %u %n", *places)
    assert [line.split()[:2] for line in modes.splitlines()] == [
        ["755", "0"],
        ["666", "0"],
        ["600", "0"],
    ]


def test_the_journal_has_what_it_says(machine: Machine) -> None:
    """JSON lines of the daemon's own, each with its priority."""
    machine.run("journalctl", "--sync")
    ask = ("journalctl", "-o", "json", "--no-pager", "_COMM=sockbrokerd")
    records = [json.loads(line) for line in machine.said(*ask).splitlines()]
    said = {json.loads(record["MESSAGE"])["event"]: record["PRIORITY"] for record in records}
    assert said.get("ready") == "6"


def test_the_running_service_is_confined(machine: Machine) -> None:
    """By systemd's own judgement, as it runs."""
    shown = machine.said("systemd-analyze", "security", "--no-pager", "sockbroker.service")
    found = re.search(r"Overall exposure level for sockbroker\.service: ([0-9.]+)", shown)
    assert found is not None
    assert float(found[1]) <= 2.0


def test_a_daemon_that_has_been_taken_over_is_not_root(machine: Machine) -> None:
    """Units, PID 1, other processes, files elsewhere: tried from inside the service itself.

    That each of these succeeds without any confinement is seen in daemon/test_confinement.
    Taken out: `confinement` of the daemon, and from the unit capabilities, NoNewPrivileges and the
    paths; then it puts PID 1 out of reach.
    """
    prey = (
        "mkdir -p /srv/target /srv/mounted; mount -t tmpfs tmpfs /srv/mounted;"
        "for name in file moved removed; do echo unchanged >/srv/target/$name; done;"
        "systemd-run -q --unit=victim sleep 1000;"
        "systemctl show -P MainPID victim.service >/srv/victim.pid"
    )
    machine.run("sh", "-c", prey)
    unit = "/etc/systemd/system/sockbroker.service"
    machine.run("mkdir", f"{unit}.d")
    program = f"/opt/sockbroker/current/bin/python3 -I {CHECKOUT}/tests/daemon/attacks.py"
    machine.path(f"{unit}.d/attacks.conf").write_text(
        f"[Service]\nExecStart=\nExecStart={program} daemon\n"
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "sockbroker.service")
    shown = 'journalctl -u sockbroker.service -o cat --no-pager | grep \'"event": "attacks"\''
    machine.wait_until(lambda: not machine.run("sh", "-c", shown, check=False).returncode, 60)
    outcomes = json.loads(machine.said("sh", "-c", shown))
    status = json.loads(machine.said("sockbrokerctl", "status", "--json"))
    machine.run("rm", "-r", f"{unit}.d")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "sockbroker.service")
    machine.run("systemctl", "stop", "victim.service")

    del outcomes["event"]
    assert len(outcomes) > 40
    done = {name for name, said in outcomes.items() if said == "done"}
    assert done == (set() if SCOPES_SIGNALS else {"signal a process of root's"})
    assert outcomes["drop a unit"] == "EROFS"
    assert outcomes["ask PID 1"] == "EACCES"
    assert machine.said("sh", "-c", "cat /srv/target/*") == "unchanged\n" * 2 + "unchanged"
    # A filter of the unit makes up for what a kernel before 6.3 has not.
    assert set(status["confinement"]) == {*LAYERS, "no_new_code"}


@pytest.mark.parametrize("address", [ABSTRACT, BY_PATH])
def test_an_ordinary_user_gets_a_directory(machine: Machine, address: str) -> None:
    """And who has no rule does not."""
    assert request(machine, "demo", ALICE, address) == f"/run/demo/{ALICE}"
    assert request(machine, "demo", BOB, address) == "io.sockbroker.Denied"
    assert layout(machine)[f"/run/demo/{ALICE}"] == f"700 {ALICE} {ALICE}"


def test_a_reload_puts_a_new_policy_in_force(machine: Machine) -> None:
    """A bad one is refused with its reason, and the old one stays."""
    set_policy(machine, POLICY)
    machine.run("systemctl", "reload", "sockbroker.service")
    machine.wait_until(lambda: f"/run/chat/{BOB}" in layout(machine), 60)
    assert layout(machine)[f"/run/chat/{BOB}"] == f"2750 {BOB} 1500"

    set_policy(machine, "apps: {demo: {mode: 0700}}\n")
    assert machine.run("systemctl", "reload", "sockbroker.service", check=False).returncode == 1
    assert "/etc/sockbroker.yaml:1:" in str(status(machine)["policyError"])
    assert request(machine, "chat", BOB) == f"/run/chat/{BOB}"
    set_policy(machine, POLICY)
    machine.run("systemctl", "kill", "--signal=HUP", "sockbroker.service")
    machine.wait_until(lambda: not status(machine).get("policyError"), 60)


def test_a_killed_daemon_loses_no_request(machine: Machine) -> None:
    """Who connects meanwhile waits in the socket that systemd holds.

    Taken out: the name from sockbroker.socket (the daemon bound it itself); then the connection is
    refused.
    """
    before = listening(machine)
    for _ in range(3):
        machine.run("systemctl", "kill", "--signal=KILL", "sockbroker.service")
        assert request(machine, "demo", ALICE) == f"/run/demo/{ALICE}"
    assert listening(machine) == before


def test_an_upgrade_keeps_what_listens(machine: Machine) -> None:
    """The same command again: the sockets are the same ones, and nobody is turned away."""
    before, directories = listening(machine), layout(machine)
    asking = subprocess.Popen(
        machine.command(
            "sh", "-c",
            "while [ ! -e /tmp/enough ]; do sockbrokerctl request demo || echo FAILED; done",
            uid=ALICE,
        ),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/",
    )  # fmt: skip
    try:
        done = install(machine)
    finally:
        machine.run("touch", "/tmp/enough")
        said, _ = asking.communicate(timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(said.splitlines()) == {f"/run/demo/{ALICE}"}
    assert listening(machine) == before
    assert layout(machine) == directories
    assert "chat" in machine.path("/etc/sockbroker.yaml").read_text()
    versions = machine.said("ls", "/opt/sockbroker").split()
    assert len(versions) == 2  # `current`, and what it leads to


def test_an_upgrade_that_changes_a_socket_unit_changes_that_one(machine: Machine) -> None:
    """The others are the same ones after it."""
    before = listening(machine)
    unit = machine.path(f"{CHECKOUT}/systemd/sockbroker-path.socket")
    unit.write_text(unit.read_text() + "\n# changed\n")
    done = install(machine)
    assert (done.returncode, done.stderr) == (0, "")
    after = listening(machine)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"/run/sockbroker/io.sockbroker"}
    assert request(machine, "demo", ALICE, BY_PATH) == f"/run/demo/{ALICE}"


def test_an_installation_killed_anywhere_is_mended_by_the_next(machine: Machine) -> None:
    """Nothing that runs is harmed, nothing of the killed ones is left."""
    began = time.monotonic()
    assert install(machine).returncode == 0
    whole = time.monotonic() - began
    for part in (0.01, 0.05, 0.15, 0.3, 0.6, 0.75, 0.85, 0.95):
        machine.run("timeout", "--signal=KILL", f"{part * whole}", "sh",
                    f"{CHECKOUT}/systemd/install.sh", check=False)  # fmt: skip
        assert request(machine, "demo", ALICE) == f"/run/demo/{ALICE}"
    done = install(machine)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(machine.said("ls", "-A", "/opt/sockbroker").split()) == 3
    assert machine.said("find", "/etc", "-name", "*sockbroker*.new*") == ""


def test_a_squatted_name_does_not_stop_the_rest(machine: Machine) -> None:
    """The path serves, status says who has the name, and it is taken when it is free.

    Taken out: what catches NameTaken in `Sockets._try_name`; then the service does not start.
    """
    machine.run("systemctl", "stop", *UNITS)
    squat = (
        "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('\\0sockbroker'); "
        "s.listen(); time.sleep(600)"
    )
    squatter = subprocess.Popen(machine.command("/usr/bin/python3", "-c", squat, uid=BOB), cwd="/")
    try:
        machine.wait_until(lambda: "@sockbroker" in machine.said("cat", "/proc/net/unix"), 60)
        machine.run("systemctl", "start", "sockbroker.service")
        assert request(machine, "demo", ALICE, BY_PATH) == f"/run/demo/{ALICE}"
        told = status(machine)
        assert told["state"] == "degraded"
        assert str(BOB) in str(told["problems"])
    finally:
        machine.run("pkill", "-9", "-u", str(BOB), check=False)
        squatter.wait(timeout=30)
    machine.wait_until(lambda: request(machine, "demo", ALICE) == f"/run/demo/{ALICE}", 60)
    # What the broker took itself goes back to its unit with the next restart.
    machine.run("systemctl", "restart", "sockbroker.service")
    assert is_active(machine, "sockbroker.socket") == "active"


def test_a_broker_that_cannot_start_does_not_give_up_its_name(machine: Machine) -> None:
    """However often somebody knocks; and mending the policy is all it takes."""
    before = listening(machine)
    set_policy(machine, "apps: [")
    machine.run("systemctl", "restart", "sockbroker.service", check=False)
    knocking = machine.command(
        "sh", "-c", "for i in $(seq 60); do timeout 0.1 sockbrokerctl request demo; done", uid=ALICE
    )
    subprocess.run(knocking, capture_output=True, timeout=120, check=False, cwd="/")
    assert listening(machine) == before
    assert is_active(machine, "sockbroker.service") != "active"
    set_policy(machine, POLICY)
    machine.wait_until(lambda: is_active(machine, "sockbroker.service") == "active", 60)
    assert request(machine, "demo", ALICE) == f"/run/demo/{ALICE}"


def test_a_reboot_brings_the_layout_back(machine: Machine) -> None:
    """Exactly the policy's, before anything that is ordered after the broker."""
    after = """
        [Unit]
        After=sockbroker.service
        [Service]
        Type=oneshot
        RemainAfterExit=yes
        ExecStart=/bin/sh -c 'find /run/demo /run/chat -printf "%%p %%m %%U %%G\\n" | sort >/seen'
        [Install]
        WantedBy=multi-user.target
    """
    machine.path("/etc/systemd/system/after.service").write_text(textwrap.dedent(after))
    machine.run("systemctl", "enable", "-q", "after.service")
    machine.reboot()
    assert {unit: is_active(machine, unit) for unit in UNITS} == dict.fromkeys(UNITS, "active")
    seen = [line for line in machine.said("cat", "/seen").splitlines() if "/." not in line]
    assert seen == [
        "/run/chat 711 0 0",
        f"/run/chat/{BOB} 2750 {BOB} 1500",
        "/run/demo 711 0 0",
    ]
    failed = machine.said("systemctl", "--failed", "--plain", "--no-legend")
    assert "sockbroker" not in failed
    assert request(machine, "demo", ALICE) == f"/run/demo/{ALICE}"
    order = machine.said("systemctl", "show", "-P", "Before", "sockbroker.service")
    assert "systemd-user-sessions.service" in order.split()


def test_what_is_not_ours_is_not_replaced(machine: Machine) -> None:
    """It is named, and nothing has been changed."""
    command = machine.path("/usr/local/bin/sockbrokerctl")
    link = command.readlink()
    command.unlink()
    command.write_text("#!/bin/sh\n")
    done = install(machine)
    assert done.returncode == 1
    assert "/usr/local/bin/sockbrokerctl is there, and is not ours" in done.stderr
    assert command.read_text() == "#!/bin/sh\n"
    command.unlink()
    command.symlink_to(link)


def test_uninstalling_leaves_the_policy_and_nothing_else(machine: Machine) -> None:
    """Units, program, commands, sockets and directories are gone; a second time changes nothing."""
    for _ in range(2):
        done = install(machine, "--uninstall")
        assert (done.returncode, done.stderr) == (0, "")
        assert machine.said("find", "/opt", "/run", "/etc", "/usr/local", "-xdev", "-name",
                            "*sockbroker*", "!", "-path", "/etc/sockbroker.yaml") == ""  # fmt: skip
        assert machine.run("ls", "/run/demo", "/run/chat", check=False).returncode == 2
        assert listening(machine) == {}
        assert machine.path("/etc/sockbroker.yaml").exists()
    ask = ("systemctl", "list-units", "--all", "--plain", "--no-legend", "sockbroker*")
    known = machine.said(*ask).splitlines()
    assert [line for line in known if "not-found" not in line] == []  # after.service names it
