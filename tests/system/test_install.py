"""The installer where PID 1 is not systemd, and where something is in its way.

One machine for all of it, in this order.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
from booted import ALICE, BOB, CHECKOUT, Machine

pytestmark = pytest.mark.root

PID_FILE = "/run/sockbroker/sockbrokerd.pid"
INSTALL = ("sh", f"{CHECKOUT}/systemd/install.sh")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine without systemd, on which uid 1000 is nobody."""
    with Machine(systemd=False) as machine:
        passwd = machine.path("/etc/passwd")
        passwd.write_text(re.sub(r"(?m)^alice:.*\n", "", passwd.read_text()))
        yield machine


def install(machine: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installer as root who has logged in."""
    return machine.run(*INSTALL, *arguments, check=False)


def installed(machine: Machine) -> str:
    """Tell which installation is in use, and its daemon."""
    return machine.said("readlink", "/opt/sockbroker/current") + machine.said("cat", PID_FILE)


def allow(machine: Machine, uid: int) -> None:
    """Write a policy that allows one uid the app demo."""
    text = f"apps: {{demo: {{allow: {{users: [{uid}]}}}}}}\n"
    machine.path("/etc/sockbroker.yaml").write_text(text)


def refused(machine: Machine, reason: str) -> None:
    """Install, and find that it says why not, and what to do, and that all is as before."""
    before = installed(machine)
    done = install(machine)
    assert done.returncode == 1
    assert reason in done.stdout + done.stderr
    assert "run again" in done.stderr
    assert installed(machine) == before
    assert machine.said("sockbrokerctl", "list", "--json") != "[]"


def test_it_needs_root(machine: Machine) -> None:
    """And says how to become it.

    Taken out: the look at the uid in install.sh.
    """
    done = machine.run(*INSTALL, uid=BOB, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "sudo sh " in done.stderr


def test_it_tells_how_it_is_used(machine: Machine) -> None:
    """An argument that it does not know changes nothing.

    Taken out: the words of install.sh for other arguments; then it does something.
    """
    done = install(machine, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")


def test_a_uid_that_nobody_has_is_enough(machine: Machine) -> None:
    """On a machine with root only, the first ordinary uid is allowed, and makes the proof.

    Taken out: the first ordinary uid in `choose_user` of install.sh (it was root).
    """
    done = install(machine)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"as uid {ALICE}: sockbrokerctl request demo" in done.stdout
    assert machine.said("stat", "-c", "%a %u %g", f"/run/demo/{ALICE}") == f"700 {ALICE} {ALICE}"
    denied = machine.run("sockbrokerctl", "request", "demo", uid=BOB, check=False)
    assert denied.returncode == 77


def test_the_units_are_there_for_a_machine_that_has_systemd(machine: Machine) -> None:
    """It may be started with it another time.

    Taken out: `systemctl enable` of install.sh.
    """
    machine.run("systemctl", "is-enabled", "sockbroker.service", "sockbroker.socket")


def test_an_upgrade_replaces_the_daemon(machine: Machine) -> None:
    """Directories stay as they are, the policy as well, and what it denies is no failure.

    Taken out: `stop_by_hand` of install.sh; then the new one does not start.
    """
    before = machine.said("cat", PID_FILE)
    inode = machine.said("stat", "-c", "%i", f"/run/demo/{ALICE}")
    allow(machine, BOB)
    done = install(machine)
    assert (done.returncode, done.stderr) == (0, "")
    assert "denied, as the policy" in done.stdout
    assert machine.said("cat", PID_FILE) != before
    assert machine.run("kill", "-0", before, check=False).returncode == 1
    assert machine.said("stat", "-c", "%i", f"/run/demo/{ALICE}") == inode


def test_a_bad_policy_stops_an_upgrade_before_anything_changes(machine: Machine) -> None:
    """The broker that runs has read it when it was good.

    Taken out: `check_policy` of install.sh; then the old daemon is gone.
    """
    policy = machine.path("/etc/sockbroker.yaml")
    good = policy.read_text()
    policy.write_text("apps: {demo: {mode: 0700}}\n")
    refused(machine, "/etc/sockbroker.yaml:1:")
    policy.write_text(good)


def test_a_package_that_is_not_the_locked_one_is_not_installed(machine: Machine) -> None:
    """Its hash is not the one in the lock file.

    Taken out: the hashes of the lock file; then it is installed.
    """
    lock = machine.path(f"{CHECKOUT}/systemd/requirements.lock")
    good = lock.read_text()
    lock.write_text(re.sub("sha256:.{8}", "sha256:00000000", good))
    refused(machine, "HASHES")
    lock.write_text(good)


def test_a_link_among_the_tracked_files_is_not_followed(machine: Machine) -> None:
    """Whoever owns the checkout could have root copy a secret to where all can read it.

    Taken out: O_NOFOLLOW of install.sh; then it is.
    """
    page = machine.path(f"{CHECKOUT}/LICENSE")
    text = page.read_text()
    page.unlink()
    page.symlink_to("/etc/shadow")
    refused(machine, "'LICENSE' is not a plain file")
    page.unlink()
    page.write_text(text)


def test_only_one_installs_at_a_time(machine: Machine) -> None:
    """The other one says so.

    Taken out: flock(1) of install.sh; then both do.
    """
    lock = "/run/.sockbroker-install.lock"
    hold = "echo >/run/held; exec sleep 60"
    holder = subprocess.Popen(machine.command("flock", lock, "sh", "-c", hold), cwd="/")
    machine.wait_until(lambda: machine.path("/run/held").exists(), 60)
    try:
        done = install(machine)
    finally:
        holder.kill()
        holder.wait()
        machine.run("pkill", "-f", "^sleep 60", check=False)
    assert done.returncode == 1
    assert "another install.sh is at work" in done.stderr


def test_a_folder_that_others_can_write_is_not_trusted(machine: Machine) -> None:
    """What root runs from below it could be changed.

    Taken out: `is_roots` of install.sh; then it is.
    """
    machine.run("chmod", "o+w", "/opt")
    refused(machine, "/opt is not root's alone")
    machine.run("chmod", "o-w", "/opt")


def test_what_is_in_use_outlives_the_program(machine: Machine) -> None:
    """It is named and kept; forced, it goes, but never what is mounted in it.

    Taken out: the look at who uses it in `uninstall._clear_one`, and RESOLVE_NO_XDEV of
    `open_entry`; with each, something is lost.
    """
    allow(machine, ALICE)
    machine.path("/srv/data").mkdir()
    machine.path("/srv/data/precious").touch()
    machine.run("install", "-d", "-o", str(ALICE), f"/run/demo/{ALICE}/mount")
    machine.run("mount", "--bind", "/srv/data", f"/run/demo/{ALICE}/mount")
    server = (
        f"import socket, time; s = socket.socket(1); s.bind('/run/demo/{ALICE}/s'); s.listen(); "
        "time.sleep(600)"
    )
    asking = machine.command("/usr/bin/python3", "-c", server, uid=ALICE)
    serving = subprocess.Popen(asking, cwd="/")
    machine.wait_until(machine.path(f"/run/demo/{ALICE}/s").is_socket, 60)

    done = install(machine, "--uninstall")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"/run/demo/{ALICE}" in done.stdout
    assert machine.path(f"/run/demo/{ALICE}/s").is_socket()
    assert not machine.path("/opt/sockbroker").exists()

    assert install(machine).returncode == 0
    serving.kill()
    serving.wait()
    machine.run("pkill", "-u", str(ALICE), check=False)
    done = install(machine, "--uninstall", "--force")
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.path("/srv/data/precious").exists()
    machine.run("sh", "-c", "umount /run/demo/*/mount /run/demo/.old*/* 2>/dev/null; :")


def test_uninstalling_leaves_the_policy_and_nothing_else(machine: Machine) -> None:
    """No process, no socket, no file; a second time changes nothing.

    Taken out: that install.sh removes the lock; then it stays.
    """
    machine.run("sh", "-c", "rm -rf --one-file-system /run/demo")
    assert install(machine).returncode == 0
    for _ in range(2):
        done = install(machine, "--uninstall")
        assert (done.returncode, done.stderr) == (0, "")
        found = machine.said("find", "/opt", "/run", "/etc", "/usr/local", "-xdev", "-name",
                             "*sockbroker*", "!", "-path", "/etc/sockbroker.yaml")  # fmt: skip
        assert found == ""
        assert not machine.path("/run/demo").exists()
        assert "sockbroker" not in machine.said("cat", "/proc/net/unix")
    assert machine.run("pgrep", "-f", "sockbrokerd", check=False).returncode == 1
