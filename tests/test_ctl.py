"""sockbrokerctl as a whole process: what it prints, where, and with which exit status."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sockbroker
from private_world import ALICE, MALLORY, as_user, in_private_world, mount_tmpfs, needs_root
from scripted_broker import (
    OPERATOR,
    Conversation,
    ScriptedBroker,
    always,
    answering,
    granted,
    make_directory,
    message,
    read_call,
)

SOURCES = str(Path(sockbroker.__file__).parent.parent)
COMMAND = (
    f"import sys; sys.path.insert(0, {SOURCES!r}); from sockbroker.ctl import main; "
    "sys.exit(main())"
)

POLICY = """\
apps:
  chat:
    allow:
      users: [1234]
"""


def ctl(*arguments: str) -> tuple[int, str, str]:
    """Run the command as whoever calls this; return exit status, output and errors."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def answered(converse: Conversation, *arguments: str, uid: int = ALICE) -> tuple[int, str, str]:
    """Run the command as that user against a broker that converses like this."""

    def world() -> tuple[int, str, str]:
        make_directory("chat", ALICE)
        ScriptedBroker(converse, target=b"\0sockbroker" if uid else OPERATOR)
        return as_user(uid, lambda: ctl(*arguments))

    return in_private_world(world)


def one_line(errors: str) -> bool:
    """Tell whether errors are one printable line of the command's."""
    return (
        errors.startswith("sockbrokerctl: ")
        and errors.endswith("\n")
        and errors[:-1].isprintable()
        and errors.isascii()
    )


# The command line.


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--"],
        ["frobnicate"],
        ["request"],
        ["request", "a", "b"],
        ["request", "a", "--force"],
        ["--force", "release", "a"],
        ["request", "--user"],
        ["request", "a", "--user=x", "--user=y"],
        ["list", "--json=yes"],
        ["list", "chat"],
        ["check", "a", "b"],
        ["status", "-x"],
        ["--timeout", "0", "status"],
        ["--timeout", "-1", "status"],
        ["--timeout", "nan", "status"],
        ["--timeout", "inf", "status"],
        ["--timeout", "soon", "status"],
        ["--timeout", "1e9", "status"],
        ["--address", "nowhere", "status"],
        ["--address", "unix:", "status"],
        ["--address", "unix:/" + "x" * 200, "status"],
        ["\x1b[2J\n"],
        ["--\x1b[2J"],
        [os.fsdecode(b"\xff")],
    ],
)
def test_wrong_command_lines(arguments: list[str]) -> None:
    """A command line that is none exits with 2, one line of errors, and nothing done."""
    status, output, errors = ctl(*arguments)
    assert (status, output) == (2, "")
    assert one_line(errors), errors


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["list", "--help"], ["--help", "list"]])
def test_help(arguments: list[str]) -> None:
    """Help goes to standard output, and asking for it is no mistake."""
    status, output, errors = ctl(*arguments)
    assert (status, errors) == (0, "")
    assert output.startswith("usage: sockbrokerctl")
    assert "--json" in output


def test_version() -> None:
    """The version is the package's."""
    assert ctl("--version") == (0, f"sockbrokerctl {sockbroker.__version__}\n", "")


@needs_root
@pytest.mark.parametrize(
    "arguments",
    [
        ["request", "chat"],
        ["--timeout", "5", "request", "chat"],
        ["--timeout=5", "request", "--address", "unix:@sockbroker", "chat"],
        ["request", "chat", "--user", str(ALICE)],
        ["request", f"--user={ALICE}", "--", "chat"],
    ],
)
def test_ways_to_say_it(arguments: list[str]) -> None:
    """Options stand before or behind, with a blank or an equals sign; only the path comes out."""
    assert answered(always(granted("chat", ALICE)), *arguments) == (
        0,
        f"/run/chat/{ALICE}\n",
        "",
    )


# How it ends.


def error(name: str, **parameters: object) -> bytes:
    """Give an error reply of the broker's own interface, or another by its full name."""
    return message(parameters, name if "." in name else f"io.sockbroker.{name}")


@needs_root
@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (error("Denied", app="chat", reason="no rule"), 77),
        (error("org.varlink.service.PermissionDenied"), 77),
        (error("InvalidApp", app="chat", reason="no name"), 1),
        (error("Obstructed", path="/run/chat", reason="a \x1b[2J file\n"), 1),
        (error("LimitReached", resource="space", limit=0), 1),
        (error("NoSuchDirectory", app="chat", uid=1), 1),
        (error("org.varlink.service.MethodNotFound", method="\x1b\n"), 1),
        (b"what?\0", 1),
        (b"", 69),
        (granted("chat", MALLORY), 1),
    ],
)
def test_exit_status_of_refusals(reply: bytes, expected: int) -> None:
    """Every refusal has its exit status and its one line, and nothing on standard output."""
    status, output, errors = answered(always(reply), "request", "chat")
    assert (status, output) == (expected, "")
    assert one_line(errors), errors


@needs_root
def test_an_empty_name() -> None:
    """What is wrong can be read, as of a variable that is not set."""
    answer = always(error("InvalidApp", app="", reason="no name"))
    assert answered(answer, "request", "") == (
        1,
        "",
        "sockbrokerctl: an empty word is not a name that an app can have: no name\n",
    )


@needs_root
def test_nobody_there() -> None:
    """Without a broker it is 69, with what to do about it, for users and for root."""

    def world() -> tuple[tuple[int, str, str], tuple[int, str, str]]:
        return as_user(ALICE, lambda: ctl("request", "chat")), ctl("list")

    for status, output, errors in in_private_world(world):
        assert (status, output) == (69, "")
        assert one_line(errors), errors
        assert "systemctl start sockbroker" in errors


@needs_root
def test_an_impostor() -> None:
    """A listener that is not root's is 69, and named."""

    def world() -> tuple[int, str, str]:
        ScriptedBroker(always(granted("chat", ALICE)), uid=MALLORY)
        return as_user(ALICE, lambda: ctl("request", "chat"))

    status, output, errors = in_private_world(world)
    assert (status, output) == (69, "")
    assert f"uid {MALLORY}" in errors


@needs_root
def test_a_broker_that_hangs() -> None:
    """A broker that says nothing is 69 when the time is over."""

    def hang(connection: socket.socket, number: int) -> None:
        time.sleep(60)

    begin = time.monotonic()
    status, output, errors = answered(hang, "--timeout", "0.5", "release", "chat")
    assert (status, output) == (69, "")
    assert one_line(errors), errors
    assert time.monotonic() - begin < 25  # without the option it would be 30 s


def test_a_user_who_does_not_exist() -> None:
    """A user that nobody knows is an error before anybody is asked."""
    status, output, errors = ctl("request", "chat", "--user", "nobody such\x1b")
    assert (status, output) == (1, "")
    assert one_line(errors), errors


@needs_root
def test_output_that_goes_nowhere() -> None:
    """A path that could not be written is a failure, not a success; a reader that left is quiet."""

    def world() -> list[tuple[int, str]]:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)))

        def run(redirection: str) -> tuple[int, str]:
            shell = f'"$0" -I -c "$1" request chat {redirection}'
            done = subprocess.run(
                ["/bin/bash", "-c", shell, sys.executable, COMMAND],
                capture_output=True,
                text=True,
                check=False,
            )
            return done.returncode, done.stderr

        redirections = [">/dev/full", ">&-", "<&- >/dev/null 2>&-", ">/dev/full 2>&-"]
        return as_user(ALICE, lambda: [run(each) for each in redirections])

    full, closed, none, both = in_private_world(world)
    assert full[0] == closed[0] == both[0] == 1
    assert one_line(full[1])
    assert one_line(closed[1])
    assert none == (0, "")
    assert both[1] == ""


@needs_root
def test_a_reader_that_left() -> None:
    """Nobody reading is no reason for a traceback."""

    def world() -> tuple[int, str]:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)))
        readable, writable = os.pipe()
        os.close(readable)
        done = subprocess.run(
            [
                *(sys.executable, "-I", "-c", COMMAND),
                *("--address=unix:@sockbroker", "request", "chat", f"--user={ALICE}"),
            ],
            stdout=writable,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    assert in_private_world(world) == (1, "")


# release


def directory(in_use: bool | None) -> bytes:
    """Give a List of alice's directory, in use or not, or untold."""
    described: dict[str, object] = {
        "app": "chat",
        "uid": ALICE,
        "gid": ALICE,
        "path": f"/run/chat/{ALICE}",
        "mode": "0700",
        "state": "ok",
    }
    if in_use is not None:
        described["inUse"] = in_use
    return message({"directory": described})


@needs_root
@pytest.mark.parametrize(
    ("listing", "told"),
    [
        (directory(None), False),
        (directory(False), True),
        (error("Denied", app="chat", reason="no rule"), False),
    ],
)
def test_release_says_what_it_could_not_tell(listing: bytes, told: bool) -> None:
    """Releasing one's own directory works, and says so where nobody can tell if it was in use."""
    status, output, errors = answered(answering(listing, message({})), "release", "chat")
    assert (status, output) == (0, "")
    assert errors == "" if told else one_line(errors)
    assert told or "could not be told" in errors


@needs_root
def test_release_with_force_asks_nothing() -> None:
    """With --force the broker is called once, and nothing is said."""

    def world() -> tuple[tuple[int, str, str], list[bytes]]:
        broker = ScriptedBroker(always(message({})))
        return as_user(ALICE, lambda: ctl("release", "chat", "--force")), broker.received()

    said, calls = in_private_world(world)
    assert said == (0, "", "")
    assert [json.loads(call) for call in calls] == [
        {"method": "io.sockbroker.Release", "parameters": {"app": "chat", "force": True}}
    ]


@needs_root
def test_release_of_another_is_for_the_broker_to_judge() -> None:
    """An operator who names another user gets the broker's answer, and no promise of ours."""
    refusal = error("InUse", path=f"/run/chat/{ALICE}", reason="it cannot be told")
    status, output, errors = answered(
        always(refusal), "release", "chat", "--user", str(ALICE), uid=0
    )
    assert (status, output) == (1, "")
    assert one_line(errors)
    assert "--force" in errors


# list


def listed(connection: socket.socket, number: int) -> None:
    """Answer List with directories whose texts mean harm."""
    read_call(connection)
    rows: list[dict[str, object]] = [
        {"app": "chat", "uid": 0, "gid": 0, "path": "/run/chat/0", "mode": "0700", "state": "ok"},
        {
            "app": "mail\x1b[2J",
            "uid": 7,
            "userName": "a b\n\x7f\u202e",
            "gid": 8,
            "groupName": "\ud800",
            "path": "/run/mail/7",
            "mode": "2770",
            "state": "drifted",
            "inUse": True,
            "sockets": 2,
        },
    ]
    for index, row in enumerate(rows):
        connection.sendall(message({"directory": row}, continues=index < len(rows) - 1))


@needs_root
def test_list_is_a_table_for_people() -> None:
    """The table is aligned, has a heading, and nothing in it reaches a terminal raw."""
    status, output, errors = answered(listed, "list")
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert len(lines) == 3
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert [len(line.split()) for line in lines[1:]] == [10, 10]
    column = lines[0].index("PATH")
    assert [line[column : column + 5] for line in lines[1:]] == ["/run/", "/run/"]
    assert lines[1].split() == [
        *("chat", "0", "root", "/run/chat/0", "0700", "0", "root", "ok", "unknown", "unknown")
    ]


@needs_root
def test_list_as_json_is_exact() -> None:
    """JSON is one array of objects in printable ASCII, with everything exactly as it is."""
    status, output, errors = answered(listed, "list", "--json")
    assert (status, errors) == (0, "")
    assert output.endswith("\n")
    assert output[:-1].isascii()
    assert output[:-1].isprintable()
    assert json.loads(output) == [
        {
            "app": "chat",
            "uid": 0,
            "user": "root",
            "path": "/run/chat/0",
            "mode": "0700",
            "gid": 0,
            "group": "root",
            "state": "ok",
            "in_use": None,
            "sockets": None,
        },
        {
            "app": "mail\x1b[2J",
            "uid": 7,
            "user": "a b\n\x7f\u202e",
            "path": "/run/mail/7",
            "mode": "2770",
            "gid": 8,
            "group": r"\xed\xa0\x80",
            "state": "drifted",
            "in_use": True,
            "sockets": 2,
        },
    ]


@needs_root
@pytest.mark.parametrize(("arguments", "expected"), [(["list"], ""), (["list", "--json"], "[]\n")])
def test_an_empty_list(arguments: list[str], expected: str) -> None:
    """Nothing to list is no failure: no table, or an empty array."""
    assert answered(always(error("NoSuchDirectory")), *arguments) == (0, expected, "")


@needs_root
def test_list_passes_on_what_to_list() -> None:
    """--app and --user go to the broker."""

    def world() -> list[bytes]:
        broker = ScriptedBroker(always(error("NoSuchDirectory")), target=OPERATOR)
        ctl("list", "--app", "chat", "--user", "root")
        return broker.received()

    (call,) = in_private_world(world)
    assert json.loads(call)["parameters"] == {"app": "chat", "uid": 0}


# status and reload


STATE = {
    "version": "0.1.0",
    "state": "degraded",
    "policyGeneration": 3,
    "policyError": "f:1:1: bad\x1b\nf:2:1: worse",
    "problems": ["@sockbroker is taken\n", "chat is obstructed"],
    "confinement": ["landlock", "capabilities"],
    "counters": {"requests": 5},
}


@needs_root
def test_status() -> None:
    """The state is one printable `name: value` a line."""
    assert answered(always(message(STATE)), "status", uid=0) == (
        0,
        "state: degraded\n"
        "version: 0.1.0\n"
        "policy generation: 3\n"
        "policy error: f:1:1: bad\\x1b\n"
        "policy error: f:2:1: worse\n"
        "problem: @sockbroker is taken\\x0a\n"
        "problem: chat is obstructed\n"
        "confinement: landlock, capabilities\n"
        "requests: 5\n",
        "",
    )


@needs_root
def test_status_as_json() -> None:
    """In JSON everything is there; what the broker did not tell is null."""
    status, output, errors = answered(always(message(STATE)), "status", "--json", uid=0)
    assert (status, errors) == (0, "")
    assert json.loads(output) == {
        "version": "0.1.0",
        "state": "degraded",
        "policy_generation": 3,
        "policy_error": "f:1:1: bad\x1b\nf:2:1: worse",
        "problems": ["@sockbroker is taken\n", "chat is obstructed"],
        "confinement": ["landlock", "capabilities"],
        "counters": {"requests": 5},
    }
    told = message({"version": "0.1.0", "state": "running", "policyGeneration": 1})
    _, output, _ = answered(always(told), "status", "--json")
    assert json.loads(output) == {
        "version": "0.1.0",
        "state": "running",
        "policy_generation": 1,
        "policy_error": None,
        "problems": None,
        "confinement": None,
        "counters": None,
    }


@needs_root
def test_reload() -> None:
    """A reload that worked says which policy is in force, and warns of what could not be done."""
    reply = message({"policyGeneration": 4, "problems": ["chat is obstructed\x1b"]})
    assert answered(always(reply), "reload", uid=0) == (
        0,
        "policy generation 4 is in force\n",
        "sockbrokerctl: warning: chat is obstructed\\x1b\n",
    )


@needs_root
def test_reload_of_a_bad_policy() -> None:
    """A bad policy is 65, with every problem on a line of its own."""
    reply = error("PolicyInvalid", problems=["f:1:1: bad\n", "f:2:1: worse"])
    status, output, errors = answered(always(reply), "reload", uid=0)
    assert (status, output) == (65, "f:1:1: bad\\x0a\nf:2:1: worse\n")
    assert one_line(errors)


# check


def test_check_of_a_good_policy(tmp_path: Path) -> None:
    """A good policy needs no words, and no daemon."""
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    assert ctl("check", str(file)) == (0, "", "")
    status, output, errors = ctl("check", "--json", str(file))
    assert (status, errors) == (0, "")
    assert json.loads(output) == {"file": str(file), "problems": [], "warnings": []}


def test_check_of_a_bad_policy(tmp_path: Path) -> None:
    """A bad policy is 65, with all its problems on lines that say where they are."""
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY + "    mode: 0777\n    colour: red\n")
    status, output, errors = ctl("check", str(file))
    assert (status, errors) == (65, "")
    lines = output.splitlines()
    assert [line.split(" ")[0] for line in lines] == [f"{file}:5:11:", f"{file}:6:5:"]
    status, output, _ = ctl("check", "--json", str(file))
    assert status == 65
    assert json.loads(output)["problems"] == lines


def test_check_of_names_that_do_not_exist(tmp_path: Path) -> None:
    """A name that does not exist is a warning, and the policy is good all the same."""
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.replace("1234", "nobody-such"))
    status, output, errors = ctl("check", str(file))
    assert (status, output) == (0, "")
    assert one_line(errors)
    assert "nobody-such" in errors


def test_check_of_a_folder_that_others_can_list(tmp_path: Path) -> None:
    """It is a warning, at the app, and the policy is good all the same.

    Taken out: the risks of `policy_check`.
    """
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY + '    parent: {mode: "0755"}\n')
    status, output, errors = ctl("check", str(file))
    assert (status, output) == (0, "")
    assert one_line(errors)
    assert f"warning: {file}:2:" in errors
    assert "list the folder" in errors
    status, output, _ = ctl("check", "--json", str(file))
    assert status == 0
    assert len(json.loads(output)["warnings"]) == 1


@needs_root
def test_check_of_what_cannot_be_read() -> None:
    """A file that is not there, or not for everybody, is a failure in one line; it may be good."""

    def world() -> list[tuple[int, str, str]]:
        Path("/run/secret").write_text(POLICY)
        os.chmod("/run/secret", 0o600)
        return as_user(ALICE, lambda: [ctl("check", "/run/absent"), ctl("check", "/run/secret")])

    for status, output, errors in in_private_world(world):
        assert (status, output) == (1, "")
        assert one_line(errors), errors
        assert "/run/" in errors


def test_check_of_a_folder(tmp_path: Path) -> None:
    """What is no file is a policy that the daemon could not start with."""
    status, output, errors = ctl("check", str(tmp_path))
    assert (status, errors) == (65, "")
    assert str(tmp_path) in output


@needs_root
def test_check_judges_owner_and_mode_of_the_default_file_only() -> None:
    """A draft may be anybody's; the file that the daemon reads may not."""

    def world() -> tuple[tuple[int, str, str], tuple[int, str, str]]:
        mount_tmpfs("/etc", "mode=0755")
        file = Path("/etc/sockbroker.yaml")
        file.write_text(POLICY)
        os.chown(file, ALICE, ALICE)
        draft = Path("/etc/draft.yaml")
        draft.write_text(POLICY)
        os.chown(draft, ALICE, ALICE)
        return ctl("check"), ctl("check", str(draft))

    default, draft = in_private_world(world)
    assert default[0] == 65
    assert "/etc/sockbroker.yaml" in default[1]
    assert draft == (0, "", "")


@pytest.mark.parametrize("verb", ["request", "release"])
def test_the_short_verbs_import_little(verb: str) -> None:
    """What takes long to import is not imported where all that is wanted is a path."""
    code = (
        f"import sys; sys.path.insert(0, {SOURCES!r}); from sockbroker.ctl import run; "
        f"run(['--address', 'unix:@no', '{verb}', 'x']); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    slow = {"argparse", "dataclasses", "enum", "json", "re", "socket", "typing", "yaml"}
    assert slow & set(done.stdout.split()) == set()
