"""Has the kernel answer system calls of a start with errors, and judges what comes of the start.

As in `injecting`, but the daemon is a new one each time: it is traced from its first own step, and
afterwards another one is started on what this one has left, with no error in its way.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import many_starts
from injecting import (
    ERRORS,
    MOST_FAILURES,
    SECONDS_TO_ANSWER,
    Result,
    Site,
    end_tracing,
    soon,
)
from leftovers import left_by_another_kill
from peers import DENIED, Peer, connect_as
from running import (
    ALICE,
    BOB,
    CACHE,
    CAROL,
    CHAT,
    MS_BIND,
    RUN,
    STAFF,
    World,
    eventually,
    layout,
    many_at_once,
    mount,
    state,
)

from this_kernel import LAYERS

OPERATION = "start"

FIRST_OF_EVERYONE = 30_000

POLICY = f"""\
apps:
  chat:
    allow: {{users: [alice, 2000]}}
    at_boot: {{users: [2000]}}
    mode: "2750"
    group: {CHAT}
  fresh:
    allow: {{users: [carol], groups: [staff]}}
    at_boot: {{users: [carol]}}
    group: staff
  open:
    allow: {{everyone: true}}
    at_boot: {{users: [{FIRST_OF_EVERYONE}]}}
    group: {CHAT}
"""

LOGIN_DEFINITIONS = f"UID_MIN {FIRST_OF_EVERYONE}\nUID_MAX 40000\n"
"""Not what is usual: who takes the usual instead lets in more than the policy does."""

EXACT = layout(
    {
        "chat": {f"{ALICE}": (ALICE, CHAT, "2750"), "2000": (2000, CHAT, "2750")},
        "fresh": {f"{CAROL}": (CAROL, STAFF, "0700")},
        "open": {f"{FIRST_OF_EVERYONE}": (FIRST_OF_EVERYONE, CHAT, "0700")},
    }
)
APPS = ("chat", "fresh", "open")

FEW = 5
"""Of each name, where not all are tried."""

# Of memory, time, signals and the process itself: no kernel fails them, or nothing can be done.
# An error does not keep the kernel from closing; and what waits for events has started.
MEANS_NOTHING = re.compile(
    "brk|m(re|un)?map|mprotect|madvise|futex|rseq|set_robust_list|clock_.*|rt_sig.*|sigaltstack"
    "|sched_yield|get(pid|tid|uid|euid|gid|egid|ppid)|uname|umask|exit|exit_group|restart_syscall"
    "|close|close_range|epoll_wait|poll|kill"
)

LEFT_OUT = "|".join(
    (
        '/proc/self/fd/2"',  # the log, without which nothing could be told
        "/usr/lib/|/pycache/|/venv/|ld.so",  # the interpreter's own
        "PR_CAPBSET_DROP, (?!CAP_MAC_ADMIN|CAP_AUDIT_READ)",  # one of many that are the same
        "PR_CAPBSET_READ, (?!CAP_CHOWN|CAP_AUDIT_READ)",
    )
)

CALL = re.compile(r"(\d+) +(\w+)\((.*)")

CLEAR = re.compile(r"[^:]+: [^;]+; .+|.*must be .+", re.DOTALL)
"""What a problem that keeps it from starting reads like: what, why, and what to do about it."""


class Starts:
    """A base of its own on which one daemon after the other is started."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.base = RUN / name
        self.log = world.own / f"{name}.log"
        self.traced = world.own / f"{name}.strace"
        self.status = 0
        """Of the one that has ended last."""
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = [sys.executable, "-I", *CACHE, str(Path(many_starts.__file__))]
        with theirs:
            self._program = subprocess.Popen(
                [*program, "sockbroker.daemon", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def _ask(self, *message: object) -> int:
        self._ours.send(json.dumps(message).encode())
        answer = self._ours.recv(many_starts.LARGEST)
        assert answer, "the program that starts daemons has ended"
        return int(json.loads(answer))

    def close(self) -> None:
        """End the program that starts them."""
        self._ours.close()
        self._program.wait()

    def begin(self) -> int:
        """Have one made that waits for SIGCONT before its first step; its pid."""
        self.log.unlink(missing_ok=True)
        arguments = ["--policy", str(self.world.policy), "--base", str(self.base)]
        return self._ask("begin", str(self.log), *arguments, "--control-name", self.name)

    def ended(self, pid: int) -> bool:
        """Whether it has."""
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "Z"

    def end(self, pid: int, number: signal.Signals) -> int:
        """End it, or see it ended; its exit status."""
        os.kill(pid, number)
        eventually("ended", lambda: self.ended(pid))
        return self._ask("end", pid)

    @contextmanager
    def ending(self, pid: int) -> Iterator[None]:
        """End it after the block, and see that it ends well if it has not ended already."""
        try:
            yield
        except BaseException:
            self.end(pid, signal.SIGKILL)
            raise
        running = not self.ended(pid)
        self.status = self.end(pid, signal.SIGTERM)
        assert not running or self.status == 0, self.text()

    def text(self) -> str:
        """All that it has written."""
        return self.log.read_text() if self.log.exists() else ""

    def events(self) -> list[dict[str, Any]]:
        """What it has logged, one line each; and what it said before there was a log."""
        found = []
        for line in self.text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                assert line.startswith("sockbrokerd: "), self.text()
                found.append(
                    {"event": "not started", "problems": [line.removeprefix("sockbrokerd: ")]}
                )
        return found

    def until_it_is_known(self, pid: int) -> bool:
        """Wait until it is ready or has ended; whether it is ready."""
        eventually(
            "ready or ended", lambda: self.ended(pid) or '"event": "ready"' in self.text(), 30
        )
        return not self.ended(pid)

    def tree(self) -> dict[str, tuple[int, int, str]]:
        """The folders of apps and what is in them, but for what is staged or moved aside."""
        found = {}
        for app in APPS:
            folder = self.base / app
            if folder.exists():
                found[app] = state(folder)
                for entry in sorted(folder.iterdir()):
                    if not entry.name.startswith((".new-", ".old-")):
                        found[f"{app}/{entry.name}"] = state(entry)
        return found

    def left_over(self) -> list[str]:
        """What is staged or moved aside, here and there."""
        paths = [*self.base.iterdir(), *(path for app in APPS for path in self.of(app))]
        staged = (".new-", ".old-", ".sockbroker-new-", ".sockbroker-old-")
        return [path.name for path in paths if path.name.startswith(staged)]

    def of(self, app: str) -> list[Path]:
        """What is in the folder of an app."""
        folder = self.base / app
        return list(folder.iterdir()) if folder.exists() else []

    def prepare(self) -> None:
        """Leave what a start has the most to do with: half of it is wrong, half is not there."""
        if self.base.exists():
            shutil.rmtree(self.base)
        self.base.mkdir(mode=0o755)
        for name in ("systemd", "udev", "dbus"):
            (self.base / name).mkdir()
        left_by_another_kill(self.base, staged="fresh")

    def ask(self, uid: int, method: str, **parameters: object) -> dict[str, Any]:
        """One call, of root's as an operator."""
        with connect_as(uid, self.name, self.base) as line:
            line.socket.settimeout(SECONDS_TO_ANSWER)
            return line.call(method, **parameters)


# Judging.


def nothing_is_wider(starts: Starts) -> None:
    """What has a final name is exact, or it is as its owner had it, or between the two."""
    for name, found in starts.tree().items():
        if name == f"chat/{ALICE}":
            uid, gid, mode = found
            acl = os.listxattr(starts.base / name)
            assert uid == ALICE
            if mode != "1777":
                assert not int(mode, 8) & ~(0o2750 | stat.S_ISVTX), found
                assert not (acl and int(mode, 8) & 0o070), found
            if gid != 99:
                assert (gid, acl) == (CHAT, []), found
                assert mode != "1777"
        elif name != "chat" or found != (0, 0, "0755"):
            assert found == EXACT[name], (name, found)


def served(address: str | bytes) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


def seen_of(pid: int) -> set[str]:
    """The layers of confinement that can be seen from outside of the process."""
    fields = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    four = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4
    mounted = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    root = [line.split() for line in mounted if line.split()[4] == "/"][-1]
    seen = {
        "no_new_privs": fields["NoNewPrivs"] == "1",
        "capabilities": not (int(fields["CapPrm"], 16) | int(fields["CapBnd"], 16)) & ~four,
        "system_calls": fields["Seccomp"] == "2",
        "mounts": "ro" in root[5].split(","),
    }
    return {layer for layer, holds in seen.items() if holds}


VISIBLE = {"no_new_privs", "capabilities", "system_calls", "mounts"}


def lacks(starts: Starts, pid: int, status: dict[str, Any]) -> set[str]:
    """What a complete start has and this one has not."""
    lacking = set(LAYERS) - set(status["confinement"])
    claimed = set(status["confinement"]) & VISIBLE
    assert claimed <= seen_of(pid), (claimed, seen_of(pid))
    own = starts.base / "sockbroker"
    for address in (b"\0" + starts.name.encode(), str(own / "io.sockbroker")):
        if not served(address):
            lacking.add(repr(address))
    if starts.tree() != EXACT or os.listxattr(starts.base / f"chat/{ALICE}"):
        lacking.add("layout")
    try:
        if (own / "sockbrokerd.pid").read_text() != f"{pid}\n":
            lacking.add("pid file")
    except FileNotFoundError:
        lacking.add("pid file")
    return lacking


def judge_running(starts: Starts, pid: int) -> None:
    """It serves, and says what it lacks; what it gives is the policy's."""
    nothing_is_wider(starts)
    status = starts.ask(0, "Status")["parameters"]
    lacking = lacks(starts, pid, status)
    if repr(b"\0" + starts.name.encode()) not in lacking:
        for uid, app in ((ALICE, "chat"), (CAROL, "fresh"), (FIRST_OF_EVERYONE, "open")):
            reply = starts.ask(uid, "Request", app=app)
            if "error" in reply:
                lacking.add(f"{uid} in {app}")
                assert reply["parameters"], reply
            else:
                path = starts.base / f"{app}/{uid}"
                assert state(path) == EXACT[f"{app}/{uid}"], (path, state(path))
                assert os.listxattr(path) == []
        for uid, app in ((BOB, "open"), (BOB, "chat"), (ALICE, "open")):
            reply = starts.ask(uid, "Request", app=app)
            assert reply.get("error") == DENIED, reply
    told = [event for event in starts.events() if event.get("level") != "info"]
    assert not lacking or told or status["problems"], f"it does not say that it lacks {lacking}"


def judge_ended(starts: Starts, status: int) -> None:
    """It says why in one line, with what to do, and nothing that can be seen is half made."""
    nothing_is_wider(starts)
    assert status > 0, status
    (problem,) = [event for event in starts.events() if event["event"] == "not started"]
    (text,) = problem["problems"]
    assert CLEAR.fullmatch(text), text
    assert "None" not in text, text


def judge_complete(starts: Starts, pid: int) -> None:
    """It lacks nothing, and nothing is left of another start."""
    status = starts.ask(0, "Status")["parameters"]
    shown = status["state"], status["problems"]
    assert shown == ("running", []), shown
    lacking = lacks(starts, pid, status)
    assert not lacking, (lacking, starts.tree())
    soon("cleaned up", lambda: not starts.left_over())
    assert set(os.listdir(starts.base)) == {
        *("systemd", "udev", "dbus", "sockbroker", ".sockbroker.lock"),
        *APPS,
    }


# Trying.


def traced_start(starts: Starts, *arguments: str) -> tuple[int, bool]:
    """Start one with strace looking, until it is ready or has ended; its pid, and whether it is."""
    pid = starts.begin()
    tracer = subprocess.Popen(
        ["strace", "-f", "-y", "-qq", "-o", str(starts.traced), *arguments, "-p", str(pid)],
        stderr=subprocess.DEVNULL,
    )
    try:
        status = Path(f"/proc/{pid}/status")
        soon("traced", lambda: f"TracerPid:\t{tracer.pid}\n" in status.read_text())
        os.kill(pid, signal.SIGCONT)
        ready = starts.until_it_is_known(pid)
        if ready:  # else strace ends with it; told to while threads end, it waits for ever
            end_tracing(tracer)
        tracer.wait(SECONDS_TO_ANSWER)
    except BaseException:
        tracer.kill()
        tracer.wait()
        starts.end(pid, signal.SIGKILL)
        raise
    return pid, ready


def sites_of(starts: Starts) -> list[Site]:
    """Trace a start, and name each call that it makes, by the count of its name in a thread."""
    starts.prepare()
    pid, ready = traced_start(starts)
    with starts.ending(pid):
        assert ready, starts.text()
        judge_running(starts, pid)
        judge_complete(starts, pid)
    seen: Counter[tuple[str, str]] = Counter()
    counted: dict[tuple[str, int], None] = {}
    left_out = re.compile(rf"<{starts.log}>|{LEFT_OUT}")
    for line in starts.traced.read_text(errors="replace").splitlines():
        found = CALL.match(line)
        if found is None or MEANS_NOTHING.fullmatch(found[2]):
            continue
        seen[found[1], found[2]] += 1
        if not left_out.search(line):
            counted[found[2], seen[found[1], found[2]]] = None
    once = [Site(OPERATION, 0, name, number) for name, number in counted]
    log_too = {"write", "fstat", "newfstatat", "openat", "fcntl"}
    names = {name for name, _number in counted if name not in log_too}
    return [*once, *(Site(OPERATION, 0, name, 1, for_good=True) for name in sorted(names))]


def try_start(starts: Starts, site: Site, error: str) -> bool:
    """Have one call fail; tell whether it came to that."""
    starts.prepare()
    when = f"{site.number}{'+' if site.for_good else ''}"
    inject = f"inject={site.name}:error={error}:when={when}"
    pid, ready = traced_start(starts, "-e", f"trace={site.name}", "-e", inject)
    with starts.ending(pid):
        if ready:
            judge_running(starts, pid)
    if not ready:
        judge_ended(starts, starts.status)
    assert "Traceback" not in starts.text(), starts.text()
    assert '"event": "fault"' not in starts.text(), starts.text()
    pid = starts.begin()
    with starts.ending(pid):
        os.kill(pid, signal.SIGCONT)
        assert starts.until_it_is_known(pid), starts.text()
        judge_complete(starts, pid)
    return "(INJECTED)" in starts.traced.read_text(errors="replace")


def cases_of(sites: Sequence[Site], *, all_of_them: bool) -> list[tuple[Site, str]]:
    """Each error at each site; or for each name a few, such that each error has its turn."""
    cases = [
        (site, error)
        for site in sites
        for error in ERRORS
        if not (site.for_good and error == "EINTR")  # no signal comes at each call for ever
    ]
    if all_of_them:
        return cases
    few: list[tuple[Site, str]] = []
    for name in sorted({site.name for site in sites}):
        of_it = [case for case in cases if case[0].name == name]
        # Begin elsewhere each time and go on by another error, so that each has its turn.
        step = max(1, len(of_it) // FEW // len(ERRORS)) * len(ERRORS) + 1
        few.extend(of_it[len(few) % len(ERRORS) :: step][:FEW])
    return few


def try_starts(world: World, *, all_of_them: bool) -> Result:
    """Try the cases, in as many processes as there are processors."""
    own = world.own / "login.defs"
    own.write_text(LOGIN_DEFINITIONS)
    mount(str(own), Path("/etc/login.defs"), flags=MS_BIND)
    world.write(POLICY)
    with closing(Starts(world, "first")) as first:
        sites = sites_of(first)
    cases = cases_of(sites, all_of_them=all_of_them)
    processes = many_at_once()

    def some(number: int) -> Result:
        result = Result()
        with closing(Starts(world, f"base{number}")) as starts:
            for site, error in cases[number::processes]:
                try:
                    if not try_start(starts, site, error):
                        continue
                except Exception as problem:
                    place = traceback.extract_tb(problem.__traceback__)[-1]
                    result.failures.append(
                        f"{error} at {site}: {place.lineno} {place.line}: {problem!r}"[:3000]
                    )
                else:
                    result.survived[OPERATION, error] += 1
                result.tried[OPERATION, error] += 1
                if len(result.failures) >= MOST_FAILURES:
                    return result
        return result

    whole = Result()
    for worker in [Peer(0, lambda n=number: some(n), seconds=7200) for number in range(processes)]:
        whole.add(worker.result())
    # Which thread comes to a call first decides some of them.
    assert whole.failures or whole.tried.total() > 0.9 * len(cases), "strace injected too little"
    return whole
