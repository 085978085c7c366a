"""sockbrokerctl exec: programs that know nothing of sockbroker, with a directory and sockets."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

import sockbroker
from in_directory import PATH, Server, bind, entries, make_dead, mode_of
from private_world import ALICE, MALLORY, as_user, in_private_world, mount_tmpfs, needs_root
from scripted_broker import ScriptedBroker, always, granted, make_directory, message
from sockbroker.kernel.usage import read_tables, usage_of

T = TypeVar("T")

pytestmark = needs_root

SOURCES = str(Path(sockbroker.__file__).parent.parent)
COMMAND = [
    sys.executable,
    "-I",
    "-c",
    f"import sys; sys.path.insert(0, {SOURCES!r}); from sockbroker.ctl import main; main()",
]

# What a cron job has.
CRON = {"PATH": "/usr/bin:/bin", "HOME": "/", "LOGNAME": "alice", "SHELL": "/bin/sh"}

# Says everything about the process that runs it.
REPORT = """
import json, os, socket, stat, sys
report = {"pid": os.getpid(), "arguments": sys.argv[1:]}
words = open("/proc/self/environ").read().split("\\0")[:-1]  # the interpreter adds some
report["environment"] = dict(word.split("=", 1) for word in words)
report["descriptors"] = {}
for name in os.listdir("/proc/self/fd"):
    try:
        mode = os.fstat(int(name)).st_mode
    except OSError:
        continue  # that of the list itself
    report["descriptors"][name] = [stat.S_IFMT(mode), os.readlink(f"/proc/self/fd/{name}")]
report["sockets"] = []
for number in range(3, 3 + int(os.environ.get("LISTEN_FDS", 0))):
    one = socket.socket(fileno=number)
    listening = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    report["sockets"].append([one.getsockname(), listening, one.getblocking()])
report["parent"] = os.getppid()
report["umask"], report["cwd"] = os.umask(0), os.getcwd()
print(json.dumps(report))
"""
REPORTER = [sys.executable, "-I", "-c", REPORT]


def ctl(*arguments: str, environment: dict[str, str] = CRON, **how: object) -> tuple[int, str, str]:
    """Run the command as whoever calls this; return exit status, output and errors."""
    done = subprocess.run(  # type: ignore[call-overload]
        [*COMMAND, *arguments],
        **{"stdin": subprocess.DEVNULL, **how},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )
    return done.returncode, done.stdout, done.stderr


def report(*arguments: str, **how: object) -> dict[str, object]:
    """Run the reporter by exec with these options, and return what it says."""
    status, output, errors = ctl("exec", "chat", *arguments, "--", *REPORTER, "a", "-b", **how)
    assert (status, errors) == (0, "")
    return json.loads(output)


def with_broker(act: Callable[[], T], prepare: Callable[[], object] = lambda: None) -> T:
    """Run `act` as alice, to whom a broker grants a directory."""

    def world() -> T:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)))
        prepare()
        return as_user(ALICE, act)

    return in_private_world(world)


# What the program gets.


def test_the_program_gets_the_directory() -> None:
    """RUNTIME_DIRECTORY and nothing else is new in its environment; it is what it would be."""

    def act() -> None:
        os.umask(0o027)
        said = report()
        assert said["environment"] == {**CRON, "RUNTIME_DIRECTORY": PATH}
        assert said["arguments"] == ["a", "-b"]
        assert said["parent"] == os.getpid()
        assert (said["umask"], said["cwd"]) == (0o027, os.getcwd())
        assert said["sockets"] == []

    with_broker(act)


def test_the_program_is_ended_by_a_broken_pipe() -> None:
    """The interpreter that this command is written in ignores that signal, for itself only."""

    def act() -> None:
        status, told, complaints = ctl("exec", "chat", "--", "grep", "SigIgn", "/proc/self/status")
        assert (status, complaints) == (0, "")
        ignored = int(told.removeprefix("SigIgn:"), 16)  # others may be ignored here already: nohup
        assert not ignored >> (signal.SIGPIPE - 1) & 1

    with_broker(act)


def test_the_program_takes_the_place_of_the_command() -> None:
    """No process is left in between: the pid is the one that was started, and so are signals."""

    def act() -> None:
        with subprocess.Popen(
            [*COMMAND, "exec", "chat", "--socket", "s", "--", "sleep", "300"], env=CRON
        ) as process:
            while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
                time.sleep(0.01)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            assert children == ""
            process.terminate()
            assert process.wait(10) == -signal.SIGTERM

    with_broker(act)


def test_the_program_gets_sockets() -> None:
    """Bound, listening, with exact modes, and passed as sd_listen_fds(3) has it."""

    def act() -> None:
        os.umask(0o077)
        make_dead("b")
        said = report("--socket", "a:0660", "--socket=b", "--socket", "c:666")
        environment = said["environment"]
        assert isinstance(environment, dict)
        assert environment == {
            **CRON,
            "RUNTIME_DIRECTORY": PATH,
            "LISTEN_FDS": "3",
            "LISTEN_PID": str(said["pid"]),
            "LISTEN_FDNAMES": "a:b:c",
        }
        assert said["sockets"] == [[f"{PATH}/{name}", 1, True] for name in "abc"]
        assert [mode_of(name) for name in "abc"] == [0o660, 0o600, 0o666]

    with_broker(act)


def test_what_is_inherited() -> None:
    """The first three, the sockets, the mark above them, what the caller passes; no directory.

    Taken out: `_keep_directories`; then directories are.
    """

    def act() -> None:
        low = [os.open(place, os.O_RDONLY) for place in ("/", "/dev/null", "/usr")]
        path = os.open("/etc", os.O_PATH)
        reading, writing = os.pipe()
        passed = [*low, path, reading, writing]
        said = report("--socket", "a", "--socket", "b", pass_fds=passed)
        descriptors = said["descriptors"]
        assert isinstance(descriptors, dict)
        directories = [each for each in descriptors.values() if each[0] == stat.S_IFDIR]
        assert directories == []
        assert [descriptors[number][0] for number in "34"] == [stat.S_IFSOCK] * 2
        mark = [number for number, each in descriptors.items() if each[1].startswith(PATH)]
        assert [descriptors[number][1] for number in mark] == [f"{PATH}/.sockbroker.lock"]
        assert int(mark[0]) > 4
        # What was open where the sockets have to be is lost; the rest is there.
        for number in (reading, writing):
            assert (str(number) in descriptors) == (number > 4)
        others = set(descriptors) - {"0", "1", "2", "3", "4", *mark}
        assert others == {str(number) for number in (low[1], reading, writing) if number > 4}
        for number in passed:
            os.close(number)

    with_broker(act)


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)])
def test_where_the_first_three_are_closed(closed: tuple[int, ...]) -> None:
    """Nothing of ours gets into their places, where a program would read or write it."""

    def close() -> None:
        for number in closed:
            os.close(number)

    def act() -> None:
        script = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
        output = f"{PATH}/out"
        words = [
            "exec",
            "chat",
            "--socket=s",
            "--",
            "/bin/sh",
            "-c",
            f"ls -l /proc/self/fd >{output} 2>&1",
        ]
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", script, *COMMAND, *words],
            preexec_fn=close,
            env=CRON,
        )
        assert child.wait(30) == 0
        lines = Path(output).read_text().splitlines()
        shown = {line.split()[-3]: line.split()[-1] for line in lines if "->" in line}
        assert shown["3"].startswith("socket:")
        for number in closed:
            if number == 0:
                assert "0" not in shown or shown["0"].startswith(("/proc/", "/dev/null"))
        marks = [number for number, place in shown.items() if place.endswith(".lock")]
        assert len(marks) == 1
        assert int(marks[0]) > 3

    with_broker(act)


def test_the_directory_is_in_use_while_the_program_runs() -> None:
    """By the mark alone too, without any socket; and until the program ends, however it does."""

    def in_use() -> bool | None:
        folder = os.open("/run/chat", os.O_RDONLY)
        try:
            return usage_of(folder, str(ALICE), ALICE, read_tables()).in_use
        finally:
            os.close(folder)

    def world() -> None:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)))

        def start() -> subprocess.Popen[str]:
            echo = [*COMMAND, "exec", "chat", "--", "sh", "-c", "echo; exec sleep 300"]
            process = subprocess.Popen(echo, env=CRON, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            assert process.stdout.readline() == "\n"
            Path("/run/x/pid").write_text(str(process.pid))
            return process

        os.mkdir("/run/x")
        os.chmod("/run/x", 0o777)
        user = Server(start, uid=ALICE)
        assert in_use() is True
        os.kill(int(Path("/run/x/pid").read_text()), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while in_use() is not False:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        user.kill()

    in_private_world(world)


def test_without_a_mark_the_program_runs_too() -> None:
    """In a full directory, with a warning."""

    def full() -> None:
        mount_tmpfs(PATH, f"mode=0700,uid={ALICE},nr_inodes=1")

    status, output, errors = with_broker(
        lambda: ctl("exec", "chat", "--", "echo", "done"), prepare=full
    )
    assert (status, output) == (0, "done\n")
    assert errors.startswith(f"sockbrokerctl: warning: {PATH} is not marked in use")
    assert errors.count("\n") == 1


# Real programs.


def cron_job(*command: str) -> "subprocess.Popen[bytes]":
    """Start a command as cron would: no terminal, no session, no systemd, hardly a variable."""
    return subprocess.Popen(
        [*COMMAND, "exec", "chat", *command],
        stdin=subprocess.DEVNULL,
        env=CRON,
        start_new_session=True,
        umask=0o077,
    )


def test_systemd_socket_proxyd_from_a_cron_job() -> None:
    """A program that takes sockets from systemd only takes them, where there is no systemd."""

    def world() -> None:
        make_directory("chat", ALICE, 0o711)
        ScriptedBroker(always(granted("chat", ALICE)))

        def serve(server: socket.socket) -> None:
            while True:
                connection, _ = server.accept()
                connection.sendall(b"from behind: " + connection.recv(100))
                connection.close()

        def act() -> None:
            proxy = cron_job(
                "--socket",
                "proxy:0666",
                "--",
                "/lib/systemd/systemd-socket-proxyd",
                f"{PATH}/behind",
            )
            deadline = time.monotonic() + 30
            listens = re.compile(rf"(?m) 00010000 .* {PATH}/proxy$")  # before that it is underway
            while not listens.search(Path("/proc/net/unix").read_text()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert mode_of("proxy") == 0o666
            Path(f"{PATH}/ready").touch()
            assert ask("one") == b"from behind: one"
            while "over" not in entries():
                time.sleep(0.01)
            proxy.terminate()
            proxy.wait(10)
            # The file of its socket stays, dead, and the next run takes the name again.
            assert stat.S_ISSOCK(os.lstat(f"{PATH}/proxy").st_mode)
            again = cron_job("--socket", "proxy:0600", "--", "true")
            assert again.wait(10) == 0
            assert mode_of("proxy") == 0o600

        def ask(word: str) -> bytes:
            with sockbroker.connect("chat", "proxy", user=ALICE) as client:
                client.sendall(word.encode())
                return client.recv(100)

        def other() -> bytes:
            return ask("two")

        behind = Server(lambda: bind("behind"), serve, uid=ALICE)
        user = Server(lambda: None, lambda _: act() or os._exit(0), uid=ALICE)
        deadline = time.monotonic() + 30
        while not os.path.exists(f"{PATH}/ready"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert as_user(MALLORY, other) == b"from behind: two"
        Path(f"{PATH}/over").touch()
        assert os.waitpid(user.pid, 0)[1] == 0
        behind.kill()

    in_private_world(world)


# Where it cannot run.


@pytest.mark.parametrize(
    ("command", "status", "reason"),
    [
        (["no-such-program"], 127, "is not there"),
        (["/no/such/program"], 127, "is not there"),
        (["/etc/passwd/x"], 127, "is not there"),
        ([""], 127, "is not there"),
        (["\x1b[2J"], 127, r"\x1b[2J"),
        (["/etc/passwd"], 126, "not executable"),
        (["/etc"], 126, "not executable"),
    ],
)
def test_programs_that_cannot_run(command: list[str], status: int, reason: str) -> None:
    """The status is that of shells, with one line; and the broker was not even asked."""
    found, output, errors = as_user(ALICE, lambda: ctl("exec", "chat", "--", *command))
    assert (found, output) == (status, "")
    assert reason in errors
    assert errors.startswith("sockbrokerctl: cannot run ")
    assert errors[:-1].isprintable()
    assert errors.count("\n") == 1


def test_a_program_that_turns_out_not_to_run() -> None:
    """If it only shows at the end that it cannot run, no socket's file is left."""

    def act() -> None:
        for name, text, status in (
            ("no-interpreter", "#!/no/such\n", 127),
            ("no-program", "#!/etc/passwd\n", 126),
        ):
            Path(f"{PATH}/{name}").write_text(text)
            os.chmod(f"{PATH}/{name}", 0o755)
            found = ctl("exec", "chat", "--socket", "s", "--", f"{PATH}/{name}")
            assert found[0] == status, found
            assert entries() == {name}
            os.unlink(f"{PATH}/{name}")

    with_broker(act)


def test_a_script_without_an_interpreter_line() -> None:
    """It is a shell script, as execvp(3) has it, with its arguments."""

    def act() -> None:
        Path(f"{PATH}/script").write_text('echo "$0" "$@"\n')
        os.chmod(f"{PATH}/script", 0o755)
        done = ctl("exec", "chat", "--", "script", "a b", "-c", environment={"PATH": f"/x:{PATH}"})
        assert done == (0, f"{PATH}/script a b -c\n", "")

    with_broker(act)


def test_the_status_is_the_programs() -> None:
    """Whatever it is."""
    for status in (0, 1, 69, 77, 255):
        assert with_broker(lambda s=status: ctl("exec", "chat", "--", "sh", "-c", f"exit {s}")) == (
            status,
            "",
            "",
        )


@pytest.mark.parametrize(
    "options",
    [
        ["--socket", ""],
        ["--socket", "a/b"],
        ["--socket", ".."],
        ["--socket", ".sockbroker.lock"],
        ["--socket", "a:"],
        ["--socket", "a:66"],
        ["--socket", "a:0o660"],
        ["--socket", "a:0999"],
        ["--socket", "a:1777"],
        ["--socket", "a:06600"],
        ["--socket", "a:b:600"],
        ["--socket", "a\tb"],
        ["--socket", "ä"],
        ["--socket", "a", "--socket", "a:0660"],
        ["--user", "alice"],
        ["-x"],
    ],
)
def test_wrong_options(options: list[str]) -> None:
    """What names no socket is a usage error, before anything is asked or made."""
    status, output, errors = ctl("exec", "chat", *options, "--", "true")
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert errors[:-1].isprintable()


def test_a_command_without_the_two_dashes() -> None:
    """Works where it cannot be misunderstood; else the mend is told."""
    assert with_broker(lambda: ctl("exec", "chat", "echo", "a")) == (0, "a\n", "")
    status, _, errors = ctl("exec", "chat", "ls", "-l")
    assert status == 2
    assert "put -- before the command" in errors
    assert ctl("exec", "chat")[0] == ctl("exec", "chat", "--socket")[0] == 2


def test_a_live_socket_is_not_taken() -> None:
    """The program is not run, and the sockets that were made for it are gone."""

    def act() -> None:
        with bind("s"):
            done = ctl("exec", "chat", "--socket", "a", "--socket", "s", "--", "echo", "no")
            assert done[:2] == (1, "")
            assert f"a live socket of uid {ALICE}" in done[2]
            assert entries() == {"s"}

    with_broker(act)


def test_who_is_denied_runs_nothing() -> None:
    """The exit status says why, as with every other verb."""

    def world() -> tuple[int, str, str]:
        denied = message({"app": "chat", "reason": "no"}, "io.sockbroker.Denied")
        ScriptedBroker(always(denied))
        return as_user(ALICE, lambda: ctl("exec", "chat", "--", "echo", "no"))

    status, output, _ = in_private_world(world)
    assert (status, output) == (77, "")
    assert in_private_world(lambda: ctl("exec", "chat", "--", "echo", "no"))[0] == 69


def test_request_leaves_no_mark() -> None:
    """A command that prints a path and ends has nothing to mark, nor anything to leave."""

    def act() -> set[str]:
        assert ctl("request", "chat") == (0, f"{PATH}\n", "")
        return set(os.listdir(PATH))

    assert with_broker(act) == set()


def test_the_help_says_what_stays() -> None:
    """Who wonders about the files of dead sockets finds it there."""
    status, output, _ = ctl("exec", "--help")
    assert status == 0
    assert "files of its sockets stay" in output
    assert "exec APP [--socket NAME[:MODE]]... -- CMD..." in output
    assert "exec APP [--socket NAME[:MODE]]... -- CMD..." in ctl("--help")[1]
