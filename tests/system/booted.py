"""A machine of its own over a throw-away copy of this one, with a real systemd as PID 1.

It is made of namespaces and an overlay of `/`, for what only a whole machine shows: units, boot,
reboot, installation.  What is installed here is there too, so the tests need no image; nothing of
it can be changed, and whatever services this machine starts are not started there.  Without
systemd, PID 1 is a process that does nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

TOP = Path(__file__).parent.parent.parent
CACHE = Path(os.environ.get("SOCKBROKER_TEST_CACHE", "/var/cache/sockbroker-tests"))
CHECKOUT = "/srv/sockbroker"
PATH = f"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{CACHE}/bin"
ALICE, BOB = 1000, 1001

# Runs in the new namespaces. The overlay's own folders are in a tmpfs that outlives it, so that a
# reboot finds what was written.
SETUP = r"""
set -eu
umask 022
cd "$SCRATCH"
mkdir -p upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work,index=off root
cd root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs run
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --rbind /dev dev
mkdir -p ".$CACHE" ./srv/old
mount --bind "$CACHE" ".$CACHE"
mount -o remount,bind,ro ".$CACHE"
pivot_root . srv/old
umount --lazy /srv/old
mount --make-rshared / # as a real machine has it: what is mounted reaches the services
exec env -i container=sockbroker-test "PATH=$PATH" $INIT
"""


class Machine:
    """Boots when entered, and is gone with all of its processes when left."""

    def __init__(self, *, systemd: bool = True) -> None:
        self.systemd = systemd
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._generation = 0

    def __enter__(self) -> Machine:
        assert "SOCKBROKER_TEST_CACHE" in os.environ, "only by tests/run.sh, in its namespaces"
        self._scratch = Path(tempfile.mkdtemp(prefix="sockbroker-machine-", dir="/run"))
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "mode=0700", "tmpfs", self._scratch], check=True
        )
        self._cgroups = self._scratch / "cgroups"
        self._cgroups.mkdir()
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", self._cgroups], check=True)
        try:
            self._furnish()
            self.boot()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.power_off()
        for place in (self._cgroups, self._scratch):
            subprocess.run(["umount", "--lazy", place], check=False)
        self._scratch.rmdir()

    def _furnish(self) -> None:
        """Write what the machine has more than, or different from, this one."""
        root = self._scratch / "upper"
        for folder in ("etc/systemd/system", "root", "srv"):
            (root / folder).mkdir(parents=True)
        (root / "root").chmod(0o700)
        # Nothing that this machine starts by itself; what systemd itself is made of is in /usr.
        for enabled in [
            *Path("/etc/systemd/system").glob("*.wants/*"),
            *Path("/etc/systemd/system").glob("*.service"),
            *Path("/etc").glob("rc[S2345].d/S*"),
        ]:
            self._hide(enabled)
        for unit in ("getty.target", "systemd-networkd.service", "systemd-resolved.service"):
            (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
        for config in ("/root/.config/pip/pip.conf", "/root/.pip/pip.conf"):
            if Path(config).exists():
                self._hide(Path(config))
        # In place of systemd: a shell that waits for its children, so that none stays a zombie.
        (root / "srv/idle").write_text(
            "printf idle >/proc/self/comm\nwhile :; do sleep 0.2; done\n"
        )
        # There is no network: pip finds here what it would fetch, and still checks the hashes.
        (root / "etc/pip.conf").write_text(
            f"[global]\nno-index = true\nfind-links = {CACHE}/wheels\n"
        )
        for name, users in (
            ("passwd", [f"alice:x:{ALICE}:{ALICE}::/:/bin/sh", f"bob:x:{BOB}:{BOB}::/:/bin/sh"]),
            ("group", [f"alice:x:{ALICE}:", f"bob:x:{BOB}:", "chat:x:1500:alice,bob"]),
        ):
            lines = Path("/etc", name).read_text().splitlines()
            system = [line for line in lines if not 1000 <= int(line.split(":")[2]) < 60000]
            (root / "etc" / name).write_text("\n".join([*system, *users, ""]))
        self._copy_checkout(root / CHECKOUT.lstrip("/"))

    def _hide(self, path: Path) -> None:
        """Leave a whiteout for `path`: in the overlay it is not there."""
        below = self._scratch / "upper" / path.relative_to("/")
        below.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(below, 0o20000, os.makedev(0, 0))

    def _copy_checkout(self, destination: Path) -> None:
        """Copy the tree as it is, what is not committed yet included, as a checkout."""
        git = ["git", "-c", f"safe.directory={TOP}"]
        listing = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, cwd=TOP, capture_output=True, text=True, check=True).stdout
        for name in filter(None, names.split("\0")):
            if (TOP / name).is_file():
                (destination / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(TOP / name, destination / name)
        for command in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *command], cwd=destination, check=True, capture_output=True)

    def boot(self) -> None:
        """Start PID 1, and wait until it says that all is up."""
        self._generation += 1
        cgroup = self._cgroups / f"sockbroker-{os.getpid()}-{id(self)}-{self._generation}"
        cgroup.mkdir()
        init = "/lib/systemd/systemd --log-target=journal --show-status=0"
        with (self._scratch / "console").open("ab") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", f"echo $$ >{cgroup}/cgroup.procs; exec \"$@\"", "sh",
                 "unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork",
                 "--kill-child", "--propagation", "private", "sh", "-c", SETUP],
                env={
                    "PATH": PATH,
                    "SCRATCH": str(self._scratch),
                    "CACHE": str(CACHE),
                    "INIT": init if self.systemd else "sh /srv/idle",
                },
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip
        self._cgroup = cgroup
        self.wait_until(self._is_up, 60)

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError((self._scratch / "console").read_text())
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self._init = int(children or 0)
        if not self._init:
            return False
        name = Path(f"/proc/{self._init}/comm").read_text().strip()
        if not self.systemd:
            return name == "idle"
        if name != "systemd":
            return False
        return self.run("systemctl", "is-system-running", check=False).stdout in {
            "running\n",
            "degraded\n",
        }

    def power_off(self) -> None:
        """End PID 1, and with it everything."""
        if self._process is None:
            return
        if self._init:
            os.kill(self._init, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._process, self._init = None, 0
        events = self._cgroup / "cgroup.events"
        self.wait_until(lambda: "populated 0" in events.read_text(), 30)
        # systemd made cgroups for its units below ours.
        for folder, _folders, _files in os.walk(self._cgroup, topdown=False):
            os.rmdir(folder)

    def reboot(self) -> None:
        """Lose /run and every process, keep the disk."""
        self.power_off()
        self.boot()

    def command(self, *command: str, uid: int = 0) -> list[str]:
        """Name what runs `command` inside, as somebody who has logged in there would."""
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        enter = ["nsenter", "-t", str(self._init), "-a", "--"]
        return [*enter, "env", "-i", f"PATH={PATH}", "HOME=/", *user, *command]

    def run(
        self, *command: str, uid: int = 0, check: bool = True, timeout: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` inside; what it printed is part of the failure if there is one."""
        done = subprocess.run(
            self.command(*command, uid=uid), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=timeout, check=False, cwd="/",
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def said(self, *command: str, uid: int = 0) -> str:
        """Give what `command` prints, without the last newline."""
        return self.run(*command, uid=uid).stdout.removesuffix("\n")

    def path(self, name: str) -> Path:
        """Name a file inside, for this process to read or write."""
        return Path(f"/proc/{self._init}/root", name.lstrip("/"))

    @staticmethod
    def wait_until(holds: Callable[[], bool], seconds: float) -> None:
        """Ask again and again; the time is for giving up, not for measuring."""
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds} s")
            time.sleep(0.05)
