"""The real daemon as a process of its own, on a /run and with user accounts that are the test's.

Nothing here stands in for anything: the daemon is started as its command starts it, and what it
says is read from its log, its sockets and the disk.  Each test has mount and network namespaces of
its own, so that whatever it does to /run, to abstract names or to the accounts is gone with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CACHE = [f"-Xpycache_prefix={sys.pycache_prefix}"] if sys.pycache_prefix else []
COMMAND = [sys.executable, "-I", *CACHE, "-m", "sockbroker.daemon"]

RUN = Path("/run")
CONTROL = b"\0sockbroker"
PATH = "/run/sockbroker/io.sockbroker"
OPERATOR = "/run/sockbroker/operator"

PATIENCE = 60.0
"""Seconds after which something is taken never to happen; what has a promise of its own says so."""

ALICE, BOB, CAROL, MALLORY, GUEST = 1001, 1002, 1003, 1004, 1005
CHAT, GUESTS, STAFF = 5000, 5001, 5002

ACCOUNTS = {
    "/etc/passwd": f"""\
root:x:0:0:root:/root:/bin/sh
alice:x:{ALICE}:{ALICE}::/:/bin/sh
bob:x:{BOB}:{BOB}::/:/bin/sh
carol:x:{CAROL}:{STAFF}::/:/bin/sh
mallory:x:{MALLORY}:{MALLORY}::/:/bin/sh
guest:x:{GUEST}:{GUEST}::/:/bin/sh
nobody:x:65534:65534::/:/bin/sh
""",
    "/etc/group": f"""\
root:x:0:
alice:x:{ALICE}:
bob:x:{BOB}:
mallory:x:{MALLORY}:
guest:x:{GUEST}:
chat:x:{CHAT}:alice,bob
guests:x:{GUESTS}:guest
staff:x:{STAFF}:
nogroup:x:65534:
""",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\n",
}

_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND = 2, 4, 32, 4096
MS_REC, MS_PRIVATE, MS_SHARED = 0x4000, 1 << 18, 1 << 20
MNT_DETACH = 2


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    arguments = source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()
    _check(_libc.mount(*arguments), f"mount on {target}")


def umount(target: Path) -> None:
    """umount2(2) with MNT_DETACH."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def eventually(what: str, look: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return what `look` returns as soon as that is true; AssertionError if it never is."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)
    return found


def many_at_once() -> int:
    """How many processes go through many cases: as many as there are processors, up to four."""
    return min(4, len(os.sched_getaffinity(0)))


def has_ended(pid: int) -> bool:
    """Whether a process that is no child of this one has: nobody may take note of it (zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Daemon:
    """One started daemon; it ends with its `World`, if not before."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str],
        before: Callable[[], None] | None = None,
        keep: Sequence[int] = (),
    ) -> None:
        self.log_file = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                preexec_fn=before,
                pass_fds=keep,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def text(self) -> str:
        """All that it wrote."""
        return self.log_file.read_text()

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """The events that it logged, or those of that name; every whole line has to be one."""
        text = self.text()  # of whose last line only a part may be seen yet
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return [line for line in lines if event in {None, line["event"]}]

    def wait_for(self, event: str, number: int = 1) -> dict[str, Any]:
        """Return the event once it is logged; the `number`th of its name."""

        def look() -> bool:
            return f'"event": "{event}"' in self.text() and len(self.log(event)) >= number

        eventually(f"{event!r} in {self.log_file}", look)
        return self.log(event)[number - 1]

    def wait_until_ready(self) -> Daemon:
        """Return when it says so; AssertionError if it ends instead."""

        def ready() -> bool:
            assert self.process.poll() is None, self.text()
            return '"event": "ready"' in self.text()

        eventually("ready", ready)
        return self

    def ended(self, seconds: float = PATIENCE) -> int:
        """Wait for its end, and return its exit status."""
        return self.process.wait(seconds)

    def end(self) -> None:
        """End it as a service manager does, and see that it ends well."""
        self.process.send_signal(signal.SIGTERM)
        assert self.ended() == 0, self.text()
        assert self.text().endswith("\n"), self.text()
        assert self.log("stopped"), self.text()

    def kill(self) -> None:
        """End it without a warning."""
        self.process.kill()
        self.process.wait()

    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident(self) -> int:
        """KiB of memory that it holds."""
        # Since Linux 6.2 VmRSS of its status is some pages off for each processor.
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1])
        raise AssertionError("no Rss")

    def processor_seconds(self) -> float:
        """What it has computed so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors_of(pid: int) -> dict[int, str]:
    """What a process has open, by number; one that is closed meanwhile is left out."""
    links = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            links[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return links


class World:
    """An empty /run, a policy that root alone decides on, known users, and the daemons started."""

    def __init__(self, own: Path) -> None:
        self.own = own
        self.policy = own / "sockbroker.yaml"
        self.log_prefix = ""
        self._daemons: list[Daemon] = []

    def write(self, policy: str) -> None:
        """Replace the policy, as an editor does: by rename."""
        fresh = self.own / "sockbroker.yaml.new"
        fresh.write_text(policy)
        fresh.rename(self.policy)

    def begin(
        self,
        *arguments: str,
        policy: str | None = None,
        environment: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
        under: Sequence[str] = (),
        keep: Sequence[int] = (),
    ) -> Daemon:
        """Start a daemon, run by the command `under` where there is one; do not wait for it."""
        if policy is not None:
            self.write(policy)
        log = self.own / f"{self.log_prefix}log{len(self._daemons)}"
        started = Daemon(
            [*under, *COMMAND, "--policy", str(self.policy), *arguments],
            log,
            environment=environment or {"PATH": os.environ["PATH"]},
            before=before,
            keep=keep,
        )
        self._daemons.append(started)
        return started

    def start(self, policy: str | None = None, *arguments: str, **how: Any) -> Daemon:
        """Start a daemon and wait until it is ready."""
        return self.begin(*arguments, policy=policy, **how).wait_until_ready()

    def end(self) -> None:
        """Kill the daemons that this process has started."""
        for daemon in self._daemons:
            if daemon.process.poll() is None:
                daemon.kill()

    def close(self) -> None:
        """Kill whatever still runs in this world."""
        self.end()
        # One that went to the background: what else is in the network namespace of this test.
        for process in Path("/proc").glob("[0-9]*"):
            try:
                ours = os.path.samefile(process / "ns/net", "/proc/self/ns/net")
                command = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if ours and b"sockbroker.daemon" in command:
                with suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)


@contextmanager
def private_world() -> Iterator[World]:
    """Enter mount and network namespaces of this test's own, furnish them, and leave them again."""
    before = {kind: os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("mnt", "net")}
    here = Path.cwd()
    _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare")
    try:
        mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)  # nothing goes out to the machine's
        own = Path("/media")  # its parent is /: the way to a policy has to be root's alone
        for path, size in ((own, "64m"), (RUN, "256m")):
            options = f"mode=0755,size={size},nr_inodes=1m"
            mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options)
        for name, text in ACCOUNTS.items():
            fresh = own / Path(name).name
            fresh.write_text(text)
            mount(str(fresh), Path(name), flags=MS_BIND)
        # As a real machine has it: what is mounted later reaches the daemon's own namespace.
        mount("none", Path("/"), flags=MS_REC | MS_SHARED)
        world = World(own)
        try:
            yield world
        finally:
            world.close()
    finally:
        for namespace in before.values():
            _check(_libc.setns(namespace, 0), "setns")
            os.close(namespace)
        os.chdir(here)  # which entering a mount namespace makes /


def state(path: str | Path) -> tuple[int, int, str]:
    """Owner, group and mode of a directory; AssertionError for anything else."""
    found = os.lstat(path)
    assert stat.S_ISDIR(found.st_mode), path
    return found.st_uid, found.st_gid, f"{stat.S_IMODE(found.st_mode):04o}"


def tree(base: Path = RUN) -> dict[str, tuple[int, int, str]]:
    """All folders of apps and what is in them; the daemon's own folder and lock are left out."""
    found = {}
    for folder in sorted(base.iterdir()):
        if folder.name in {"sockbroker", ".sockbroker.lock"}:
            continue
        found[folder.name] = state(folder)
        for entry in sorted(folder.iterdir()):
            try:
                found[f"{folder.name}/{entry.name}"] = state(entry)
            except FileNotFoundError:
                continue  # what is being deleted went meanwhile
    return found


def layout(folders: Mapping[str, Mapping[str, tuple[int, int, str]]]) -> dict[str, Any]:
    """What `tree` shows for folders as they are by default, with these directories in them."""
    expected: dict[str, tuple[int, int, str]] = {}
    for app, entries in folders.items():
        expected[app] = (0, 0, "0711")
        expected[f"{app}/.sockbroker"] = (0, 0, "0700")
        expected |= {f"{app}/{name}": attributes for name, attributes in entries.items()}
    return dict(sorted(expected.items()))


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(PATIENCE)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.path.unlink()

    def environment(self, **more: str) -> dict[str, str]:
        """What the daemon has to be started with."""
        return {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(self.path), **more}

    def next(self) -> dict[str, str]:
        """The next message, by variable."""
        lines = self.socket.recv(65536).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def wait_for(self, name: str) -> dict[str, str]:
        """The next message that sets this variable."""
        end = time.monotonic() + PATIENCE
        while name not in (message := self.next()):
            assert time.monotonic() < end, f"{name} was never said"
        return message
