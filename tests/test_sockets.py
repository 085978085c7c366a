"""`sockbrokerctl sockets` as a whole process, on real sockets of real users.

Each test has a /run and a network of its own.  There are other network namespaces beside it, the
machine's own at least, so only root can know that nobody has a file bound.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

import sockbroker
from private_world import (
    ALICE,
    CLONE_NEWNET,
    CLONE_NEWNS,
    MALLORY,
    WHOLE_MACHINE,
    as_user,
    background,
    end_with_parent,
    in_child,
    in_private_world,
    mount_tmpfs,
    unshare,
)
from scripted_broker import ScriptedBroker, always, make_directory, message
from sockbroker.core.escaping import escape_address, unescape_address
from sockbroker.kernel import net_namespaces, runtime_sockets
from sockbroker.socket_listing import ListedSocket, list_sockets

pytestmark = pytest.mark.root

T = TypeVar("T")
Row = dict[str, Any]

SOURCES = str(Path(sockbroker.__file__).parent.parent)
COMMAND = (
    f"import sys; sys.path.insert(0, {SOURCES!r}); from sockbroker.ctl import main; "
    "sys.exit(main())"
)
BOB = 2000
PATH = f"/run/chat/{ALICE}"
STREAM, DGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET

DEAD = "stale" if WHOLE_MACHINE else "unknown"


def ctl(*arguments: str) -> tuple[int, str, str]:
    """Run the command as whoever calls this; return exit status, output and errors."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return done.returncode, done.stdout, done.stderr


def listed(*arguments: str) -> list[Row]:
    """List in JSON."""
    status, output, errors = ctl("sockets", "--json", *arguments)
    assert (status, errors) == (0, "")
    assert output[:-1].isascii()
    assert output[:-1].isprintable()
    rows: list[Row] = json.loads(output)
    return rows


def states(*arguments: str) -> dict[str, str]:
    """List the states by path or name."""
    return {row["path"] or row["name"]: row["state"] for row in listed(*arguments)}


def in_world(act: Callable[[], T]) -> T:
    """Run `act` as root where the app chat has a directory for alice, and nothing else is."""

    def world() -> T:
        make_app("chat")
        make_directory("chat", ALICE)
        return act()

    return in_private_world(world)


def make_app(name: str) -> None:
    """Make an app's folder as a broker does."""
    Path(f"/run/{name}/.sockbroker").mkdir(parents=True)
    os.chmod(f"/run/{name}", 0o711)
    os.chmod(f"/run/{name}/.sockbroker", 0o700)


def made(address: bytes | str, kind: int = STREAM, backlog: int | None = None) -> socket.socket:
    """Bind a socket, and have it listen if there is a backlog."""
    bound = socket.socket(socket.AF_UNIX, kind)
    bound.bind(address)
    if backlog is not None:
        bound.listen(backlog)
    return bound


def staying(act: Callable[[], object], uid: int = 0) -> int:
    """Start a process of that user, which stays when it has done this; return its pid."""
    ready, started = os.pipe()

    def stay() -> None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        end_with_parent()
        kept = act()
        os.write(started, b".")
        signal.pause()
        del kept

    pid = background(stay)
    os.close(started)
    assert os.read(ready, 1) == b"."
    os.close(ready)
    return pid


# A user may only look into those of his processes that have run a program since they changed their
# uid (dumpable, proc(5)).
SERVER = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1].encode("latin-1").replace(b"@", b"\\0"))
server.listen(int(sys.argv[2]))
clients = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[3]))]
for client in clients:
    client.connect(server.getsockname())
with open("/proc/self/comm", "wb") as file:
    file.write(sys.argv[4].encode("latin-1"))
print(flush=True)
sys.stdin.read()
"""


def server(
    address: str, uid: int = ALICE, *, backlog: int = 5, waiting: int = 0, command: str = "server"
) -> subprocess.Popen[bytes]:
    """Start a server, with connections that wait; it ends with what started it.

    An abstract name is given with an @.
    """
    words = [address, str(backlog), str(waiting), command]
    started = subprocess.Popen(
        [sys.executable, "-I", "-c", SERVER, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=uid,
        group=uid,
        extra_groups=[],
    )
    assert started.stdout is not None
    assert started.stdout.readline() == b"\n"
    return started


def row_of(path: str, **changes: object) -> Row:
    """Give the row of a file in alice's directory that nothing has bound."""
    row: Row = {
        "name": path.rpartition("/")[2],
        "kind": "path",
        "app": "chat",
        "uid": ALICE,
        "path": path,
        "type": None,
        "state": "stale",
        "mode": "0755",
        "owner": ALICE,
        "owner_name": None,
        "pid": None,
        "command": None,
        "queue": None,
        "backlog": None,
        "note": None,
    }
    return row | changes


# What is told of a socket.


@pytest.mark.parametrize("uid", [0, ALICE])
def test_a_listener(uid: int) -> None:
    """Everything is told of a live server, to root and to its own user."""

    def world() -> tuple[list[Row], int]:
        running = server(f"{PATH}/s", backlog=7, waiting=2)
        return as_user(uid, lambda: listed("--app", "chat")), running.pid

    rows, pid = in_world(world)
    assert rows[0] == row_of(
        f"{PATH}/s",
        type="stream",
        state="live",
        pid=pid,
        command="server",
        queue=2,
        backlog=7,
    )
    assert list(rows[0]) == [
        *("name", "kind", "app", "uid", "path", "type", "state", "mode", "owner", "owner_name"),
        *("pid", "command", "queue", "backlog", "note"),
    ]


def test_of_others_it_is_not_told_who_listens() -> None:
    """The process of another user is unknown, in both forms; nothing else is."""

    def world() -> tuple[list[Row], str]:
        os.chmod(PATH, 0o755)
        running = server(f"{PATH}/s")
        rows, table = as_user(BOB, lambda: (listed("--app", "chat"), ctl("sockets")[1]))
        running.kill()
        return rows, table

    rows, table = in_world(world)
    (row,) = [row for row in rows if row["kind"] == "path"]
    assert row == row_of(f"{PATH}/s", type="stream", state="live", queue=0, backlog=5)
    assert re.search(r"/s +stream +live +0755 +1234 +unknown +unknown +0/5\n", table)


def test_an_abstract_socket() -> None:
    """It has no file, so no mode; its owner is who made it."""

    def world() -> tuple[list[Row], int]:
        running = server("@chat", backlog=3, waiting=1)
        return listed(), running.pid

    rows, pid = in_world(world)
    assert rows == [
        {
            "name": "@chat",
            "kind": "abstract",
            "app": None,
            "uid": None,
            "path": None,
            "type": "stream",
            "state": "live",
            "mode": None,
            "owner": ALICE,
            "owner_name": None,
            "pid": pid,
            "command": "server",
            "queue": 1,
            "backlog": 3,
            "note": None,
        }
    ]


def test_kinds_of_sockets() -> None:
    """Streams, datagrams, packets; with a full queue, and bound without listening."""

    def world() -> list[Row]:
        kept = [
            made(f"{PATH}/bound"),
            made(f"{PATH}/dgram", DGRAM),
            made(f"{PATH}/full", STREAM, 0),
            made(f"{PATH}/packets", SEQPACKET, 2),
        ]
        client = socket.socket(socket.AF_UNIX)
        client.connect(f"{PATH}/full")
        sender = socket.socket(socket.AF_UNIX, DGRAM)
        sender.connect(f"{PATH}/dgram")
        sender.send(b"waits")
        rows = listed("--app", "chat")
        del kept
        return rows

    told = [
        [row[field] for field in ("name", "type", "state", "queue", "backlog", "note")]
        for row in in_world(world)
    ]
    assert told == [
        ["bound", "stream", "live", None, None, "does not listen"],
        ["dgram", "dgram", "live", None, None, None],
        ["full", "stream", "live", 1, 0, "its queue is full"],
        ["packets", "seqpacket", "live", 0, 2, None],
    ]


def test_mode_and_owner_are_the_files() -> None:
    """As they are now, whoever bound it."""

    def world() -> list[Row]:
        kept = made(f"{PATH}/s", STREAM, 1)
        os.chmod(f"{PATH}/s", 0o4620)
        os.chown(f"{PATH}/s", MALLORY, 0)
        os.chmod(f"{PATH}/s", 0o620)
        rows = listed()
        del kept
        return rows

    (row,) = in_world(world)
    assert (row["mode"], row["owner"], row["uid"]) == ("0620", MALLORY, ALICE)


def test_owners_have_their_names() -> None:
    """Where the database has one; whatever it is, nothing of it reaches a terminal raw."""

    def world() -> tuple[list[Row], str]:
        mount_tmpfs("/etc", "mode=0755")
        Path("/etc/nsswitch.conf").write_text("passwd: files\n")
        Path("/etc/passwd").write_bytes(b"al\xff\x1b ce:x:1234:1234::/:/bin/sh\n")
        running = server(f"{PATH}/s")
        rows, table = listed(), ctl("sockets")[1]
        running.kill()
        return rows, table

    rows, table = in_world(world)
    assert rows[0]["owner_name"] == "al\\xff\\x1b ce"
    assert " al\\xff\\x1b\\x20ce " in table


def test_the_command_is_a_claim() -> None:
    """A process calls itself what it likes; it is escaped, and takes no line of its own."""

    def world() -> tuple[list[Row], str]:
        running = server(f"{PATH}/s", command="\x1b[2J a\n\\")
        rows, table = listed(), ctl("sockets")[1]
        running.kill()
        return rows, table

    rows, table = in_world(world)
    assert rows[0]["command"] == r"\x1b[2J a\x0a\\"
    assert r" \x1b[2J\x20a\x0a\\ " in table
    assert len(table.splitlines()) == 2


def test_of_several_processes_the_oldest() -> None:
    """The one that has listened first, not its workers, whatever their numbers."""

    def world() -> tuple[int, int]:
        kept: list[socket.socket] = []

        def fork_workers() -> object:
            kept.append(made(f"{PATH}/s", STREAM, 1))
            time.sleep(0.05)  # as the time of a start is told in hundredths of seconds
            return [background(signal.pause) for _ in range(3)]

        pid = staying(fork_workers)
        (row,) = listed()
        return row["pid"], pid

    told, pid = in_world(world)
    assert told == pid


# Alive, dead, or not to be known.


def test_a_dead_servers_file() -> None:
    """Root knows that it is stale; others, whom other namespaces are closed to, cannot."""

    def world() -> list[list[Row]]:
        made(f"{PATH}/s", STREAM, 1).close()
        os.chown(f"{PATH}/s", ALICE, ALICE)
        return [listed("--app", "chat"), as_user(ALICE, lambda: listed("--app", "chat"))]

    for_root, for_alice = in_world(world)
    assert [row["state"] for row in for_root] == [DEAD]
    if DEAD == "stale":
        assert for_root == [row_of(f"{PATH}/s")]
    note = "nothing in this network namespace has it bound; others cannot be looked into"
    assert for_alice[0] == row_of(f"{PATH}/s", state="unknown", note=note)


def test_in_another_pid_namespace_nobody_knows() -> None:
    """Where not every process of the machine shows, a namespace may not show either."""

    def world() -> dict[str, str]:
        made(f"{PATH}/s", STREAM, 1).close()
        unshare(0x20000000)  # CLONE_NEWPID
        return in_child(states)

    assert in_world(world) == {f"{PATH}/s": "unknown"}


def test_a_server_in_another_network_namespace() -> None:
    """Root finds it there and everything about it; to others it is unknown, never stale."""

    def world() -> tuple[list[Row], list[Row], int]:
        def listen() -> object:
            unshare(CLONE_NEWNET)
            return made(f"{PATH}/s", STREAM, 4)

        pid = staying(listen)
        os.chown(f"{PATH}/s", ALICE, ALICE)
        return listed(), as_user(ALICE, listed), pid

    for_root, for_alice, pid = in_world(world)
    (row,) = for_root
    assert (row["state"], row["type"], row["backlog"], row["pid"]) == ("live", "stream", 4, pid)
    assert row["note"] == "bound in another network namespace"
    assert (for_alice[0]["state"], for_alice[0]["type"]) == ("unknown", None)


def test_a_connection_that_outlives_its_listener() -> None:
    """It is no sign of life of the file or of the name, and none of death either."""

    def world() -> list[Row]:
        kept: list[socket.socket] = []
        for address in (f"{PATH}/s".encode(), b"\0s"):
            listener = made(address, STREAM, 9)
            for _ in range(3):
                client = socket.socket(socket.AF_UNIX)
                client.connect(address)
                kept += [client, listener.accept()[0]]
            listener.close()
        return listed()

    rows = in_world(world)
    note = "known only from a connection, which its listener may not have outlived"
    told = [(row["path"] or row["name"], row["state"], row["note"]) for row in rows]
    assert told == [(f"{PATH}/s", "unknown", note), ("@s", "unknown", note)]


def test_connections_do_not_count_beside_their_listener() -> None:
    """A server with clients is one socket, and alive."""

    def world() -> list[Row]:
        kept: list[socket.socket] = []
        for address in (f"{PATH}/s".encode(), b"\0s"):
            listener = made(address, STREAM, 9)
            kept.append(listener)
            for _ in range(3):
                client = socket.socket(socket.AF_UNIX)
                client.connect(address)
                kept += [client, listener.accept()[0]]
        return listed()

    rows = in_world(world)
    assert [(row["state"], row["queue"], row["backlog"]) for row in rows] == [("live", 0, 9)] * 2


def test_by_device_and_inode() -> None:
    """A renamed socket is alive under its new name, and so are a second and a relative one."""

    def world() -> dict[str, str]:
        os.chdir(PATH)
        kept = [made("first", STREAM, 1), made("relative", STREAM, 1)]
        os.rename("first", "renamed")
        os.link("renamed", "second")
        told = states()
        del kept
        return told

    assert in_world(world) == dict.fromkeys(
        [f"{PATH}/{name}" for name in ("relative", "renamed", "second")], "live"
    )


def test_a_forged_name_is_no_socket_in_the_directory() -> None:
    """Anybody can bind this very path on a mount of his own: that gives no life to a dead file."""

    def world() -> dict[str, str]:
        made(f"{PATH}/dead", STREAM, 1).close()

        def forge() -> object:
            unshare(CLONE_NEWNS)
            mount_tmpfs(PATH, "mode=0777")
            return [made(f"{PATH}/{name}", STREAM, 1) for name in ("dead", "forged")]

        staying(forge)
        return states()

    assert in_world(world) == {f"{PATH}/dead": DEAD}


@pytest.fixture
def whole_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this were no container, of whose files nobody can know that they are stale."""
    monkeypatch.setattr(net_namespaces, "all_show", lambda _mounts: True)


def states_seen() -> set[str]:
    """The states of the sockets by path, as this process sees them now."""
    rows = list_sockets("chat", deadline=time.monotonic() + 60)
    return {row.state for row in rows if row.kind == "path"}


@pytest.mark.usefixtures("whole_machine")
def test_a_file_that_is_replaced_meanwhile_is_not_stale() -> None:
    """A server that dies and is started again, over and over, is never found dead.

    Seen to fail where what seems dead is not looked at once more.
    """

    def world() -> set[str]:
        def restart() -> object:
            while True:
                listener = made(f"{PATH}/new", STREAM, 1)
                os.rename(f"{PATH}/new", f"{PATH}/s")
                if kept:
                    kept.pop().close()
                kept.append(listener)
                if not told:
                    told.append(os.write(started, b"."))

        kept: list[socket.socket] = []
        told: list[int] = []
        ready, started = os.pipe()
        background(restart)
        os.read(ready, 1)
        return {state for _ in range(200) for state in states_seen()}

    assert in_world(world) <= {"live", "unknown"}


@pytest.mark.usefixtures("whole_machine")
def test_sockets_that_come_and_go_hide_no_other() -> None:
    """The kernel's table may skip one while others beside it vanish; that makes none stale."""

    def world() -> set[str]:
        kept = [made(f"{PATH}/{number}", STREAM, 1) for number in range(200)]

        def churn(process: int) -> object:
            while True:
                several = [made(b"\0%d-%06d" % (process, number)) for number in range(400)]
                random.shuffle(several)
                for each in several:
                    each.close()

        churning = [background(lambda number=number: churn(number)) for number in range(2)]
        found = {state for _ in range(20) for state in states_seen()}
        del kept
        assert [os.waitpid(pid, os.WNOHANG) for pid in churning] == [(0, 0)] * 2
        return found

    assert in_world(world) == {"live"}


# Names.

NAMES = [
    b"\0",
    b"\0\0",
    b"\0@",
    b"\0@@",
    b"\0name",
    b"\0@name",
    b"\0name\0",
    b"\0sock\0broker@x",
    b"\0\x1b[2J\n two words",
    b"\0back\\slash\\x41",
    b"\0" + "grün".encode(),
    b"\0" + bytes(range(107)),
    b"\0" + bytes(range(149, 256)),
    b"\0/run/chat/1234/s",
]


def random_names(number: int) -> list[bytes]:
    chosen = random.Random(9)
    lengths = [chosen.randrange(1, 108) for _ in range(number)]
    return [b"\0" + chosen.randbytes(length) for length in lengths]


def test_abstract_names_come_back() -> None:
    """Of any bytes, NULs at the end too: what is shown leads to the very name."""

    def world() -> tuple[set[bytes], list[str], str]:
        names = {*NAMES, *random_names(300)} - {b"\0"}
        kept = [made(name, DGRAM) for name in names]
        shown = [row["name"] for row in listed()]
        table = ctl("sockets")[1]
        del kept
        return names, shown, table

    names, shown, table = in_world(world)
    assert {unescape_address(each) for each in shown} == names
    assert len(shown) == len(names)
    words = [line.split()[0] for line in table.splitlines()[1:]]
    assert {unescape_address(word) for word in words} == names


def test_an_at_is_not_a_nul() -> None:
    """A name that begins with an @ does not look like the name without it."""

    def world() -> list[str]:
        kept = [made(name, DGRAM) for name in (b"\0@name", b"\0name", b"\0\0name")]
        shown = [row["name"] for row in listed()]
        del kept
        return shown

    assert in_world(world) == [r"@\x00name", r"@\x40name", "@name"]


def test_a_name_that_the_kernel_chose() -> None:
    """It is a name like others."""

    def world() -> tuple[list[str], bytes]:
        kept = made("", DGRAM)
        return [row["name"] for row in listed()], kept.getsockname()

    (shown,), name = in_world(world)
    assert re.fullmatch("@[0-9a-f]{5}", shown)
    assert unescape_address(shown) == name


def test_each_type_has_its_names_to_itself() -> None:
    """The same name is there once for each type."""

    def world() -> list[str]:
        kept = [made(b"\0name", kind) for kind in (SEQPACKET, DGRAM, STREAM)]
        types = [row["type"] for row in listed()]
        del kept
        return types

    assert in_world(world) == ["stream", "dgram", "seqpacket"]


def test_names_of_files_come_back() -> None:
    """Of any bytes that a name can have, spaces and newlines too."""
    names = [bytes(name).replace(b"/", b"").replace(b"\0", b"")[:80] for name in random_names(50)]
    names = [*{name for name in names if name}, b"@s", b"two words", b"\n\x1b[2J", b"a\\x41"]

    def world() -> tuple[list[Row], str]:
        os.chdir(os.fsencode(PATH))
        kept = [made(b"./" + name, STREAM, 1) for name in names]
        rows, table = listed("--app", "chat"), ctl("sockets")[1]
        del kept
        return rows, table

    rows, table = in_world(world)
    paths = {PATH.encode() + b"/" + name for name in names}
    assert {unescape_address(row["name"]) for row in rows} == set(names)
    assert {unescape_address(row["path"]) for row in rows} == paths
    lines = table.splitlines()
    assert len(lines) == len(names) + 1
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert {unescape_address(line.split()[0]) for line in lines[1:]} == paths


@pytest.mark.parametrize(
    "name", [b"\0@sock\0broker", b"\0a;b", b"\0\xff\n\\", b"/run/a b;\xff\\x41", b"\0x;"]
)
def test_what_is_shown_can_be_typed_back(name: bytes) -> None:
    """The name of a broker that listens at an odd place is taken as it was shown."""
    status = message({"version": "1", "state": "running", "policyGeneration": 1})

    def world() -> tuple[int, str, str]:
        ScriptedBroker(always(status), target=name)
        shown = escape_address(name).replace(";", r"\x3b")
        return ctl("--address", f"unix:{shown}", "status")

    assert in_world(world)[0] == 0


# Where one may not look.


def unseen(rows: list[Row]) -> dict[str, str]:
    """Give the places that could not be looked into, each with the reason."""
    for row in rows:
        if row["kind"] == "unseen":
            assert row["state"] == "unknown"
            assert row["name"] is row["type"] is row["pid"] is row["mode"] is None
    return {row["path"]: row["note"] for row in rows if row["kind"] == "unseen"}


NOT_LISTED = "may not be listed: there may be others in it"


def test_what_may_not_be_looked_into_is_told() -> None:
    """A user sees his own directory, and that there may be others."""

    def world() -> tuple[list[Row], str]:
        made_by_alice = server(f"{PATH}/s")
        make_directory("chat", BOB)
        server(f"/run/chat/{BOB}/s", BOB)
        make_app("mail")
        os.chmod("/run/mail", 0o700)
        rows, table = as_user(ALICE, lambda: (listed(), ctl("sockets")[1]))
        made_by_alice.kill()
        return rows, table

    rows, table = in_world(world)
    assert [row["path"] for row in rows if row["kind"] == "path"] == [f"{PATH}/s"]
    assert unseen(rows) == {
        "/run/chat": NOT_LISTED,
        f"/run/chat/{BOB}": "may not be looked into",  # its binder's claim has given it away
        "/run/mail": "may not be looked into, so that it may be an app's folder or not",
    }
    assert re.search(rf"(?m)^/run/chat +- +unknown .* {NOT_LISTED}$", table)


def test_claims_are_tried_where_nothing_is_listed() -> None:
    """In a directory that one may enter, a claimed name is looked up; what is not there is not."""

    def world() -> list[Row]:
        make_directory("chat", BOB, 0o711)
        os.mkdir(f"/run/chat/{BOB}/sub", 0o755)
        os.chmod(f"/run/chat/{BOB}/sub", 0o755)
        kept = [made(f"/run/chat/{BOB}/{name}", STREAM, 1) for name in ("s", "sub/s", "gone", "x")]
        os.unlink(f"/run/chat/{BOB}/gone")
        os.rename(f"/run/chat/{BOB}/x", f"/run/chat/{BOB}/hidden")

        def forge() -> object:
            unshare(CLONE_NEWNS)
            mount_tmpfs(f"/run/chat/{BOB}", "mode=0777")
            return made(f"/run/chat/{BOB}/forged", STREAM, 1)

        staying(forge)
        rows = as_user(ALICE, lambda: listed("--app", "chat"))
        del kept
        return rows

    rows = in_world(world)
    paths = {row["path"]: row["state"] for row in rows if row["kind"] == "path"}
    assert paths == {f"/run/chat/{BOB}/s": "live", f"/run/chat/{BOB}/sub/s": "live"}
    assert unseen(rows) == {"/run/chat": NOT_LISTED, f"/run/chat/{BOB}": NOT_LISTED}


def test_sockets_in_folders_of_a_directory() -> None:
    """As deep as they go; links are not followed, and what is mounted is not entered."""

    def world() -> list[Row]:
        os.makedirs(f"{PATH}/a/b/c")
        os.mkdir(f"{PATH}/mounted")
        mount_tmpfs(f"{PATH}/mounted")
        os.mkdir("/run/elsewhere")
        os.symlink("/run/elsewhere", f"{PATH}/link")
        os.mkfifo(f"{PATH}/fifo")
        kept = [
            made(path, STREAM, 1)
            for path in (f"{PATH}/a/b/c/s", f"{PATH}/mounted/s", "/run/elsewhere/s")
        ]
        os.makedirs(f"{PATH}/" + "d/" * 40)
        rows = listed()
        del kept
        return rows

    rows = in_world(world)
    assert [row["path"] for row in rows if row["kind"] == "path"] == [f"{PATH}/a/b/c/s"]
    assert unseen(rows) == {
        f"{PATH}/mounted": "something is mounted on it",
        f"{PATH}/" + "d/" * 31 + "d": "deeper than 32 directories",
    }


def test_only_app_folders() -> None:
    """They carry the broker's marker, root's; what else is in /run is nobody's business here."""

    def world() -> tuple[dict[str, str], list[Row]]:
        kept = []
        for name in ("plain", "forged", "Upper", "docker"):
            os.makedirs(f"/run/{name}/{ALICE}")
            kept.append(made(f"/run/{name}/{ALICE}/s", STREAM, 1))
        os.mkdir("/run/forged/.sockbroker")
        os.chown("/run/forged/.sockbroker", MALLORY, MALLORY)
        make_app("wide")
        os.mkdir(f"/run/wide/{ALICE}")
        os.chmod("/run/wide", 0o777)
        kept.append(made(f"/run/wide/{ALICE}/s", STREAM, 1))
        make_app("hers")
        os.chown("/run/hers", MALLORY, MALLORY)
        os.makedirs(f"/run/chat/.old-{ALICE}-0123456789abcdef")
        os.makedirs("/run/chat/01234")
        kept.append(made(f"/run/chat/.old-{ALICE}-0123456789abcdef/s", STREAM, 1))
        kept.append(made("/run/chat/01234/s", STREAM, 1))
        kept.append(made(f"{PATH}/s", STREAM, 1))
        rows = listed()
        del kept
        return {row["path"]: row["state"] for row in rows if row["kind"] == "path"}, rows

    paths, rows = in_world(world)
    assert paths == {f"{PATH}/s": "live"}
    assert list(unseen(rows)) == ["/run/wide"]


def test_of_one_app() -> None:
    """--app leaves out the other apps and the abstract names."""

    def world() -> tuple[dict[str, str], dict[str, str], list[Row]]:
        make_app("mail")
        make_directory("mail", ALICE)
        kept = [made(name, STREAM, 1) for name in (f"{PATH}/s", f"/run/mail/{ALICE}/s", "\0s")]
        told = states(), states("--app", "mail"), listed("--app", "other")
        del kept
        return told

    everything, mail, other = in_world(world)
    assert list(everything) == [f"{PATH}/s", f"/run/mail/{ALICE}/s", "@s"]
    assert list(mail) == [f"/run/mail/{ALICE}/s"]
    assert other == []


@pytest.mark.parametrize("app", ["", "../chat", "Chat", "chat\x1b", "."])
def test_no_app(app: str) -> None:
    """What no app can be called is a failure in one line."""
    status, output, errors = ctl("sockets", "--app", app)
    assert (status, output) == (1, "")
    assert errors.count("\n") == 1
    assert errors[:-1].isprintable()


def test_nothing() -> None:
    """No sockets are no failure: no table, or an empty array."""
    told = in_world(lambda: (ctl("sockets"), ctl("sockets", "--json")))
    assert told == ((0, "", ""), (0, "[]\n", ""))


def test_a_table_for_people() -> None:
    """One line a socket below one of headings, aligned."""

    def world() -> str:
        running = server(f"{PATH}/control.sock")
        kept = [made(b"\0x", DGRAM), made(f"{PATH}/b")]
        status, output, errors = ctl("sockets")
        assert (status, errors) == (0, "")
        del kept
        running.kill()
        return output

    lines = in_world(world).splitlines()
    assert lines[0].split() == [
        *("SOCKET", "TYPE", "STATE", "MODE", "OWNER", "PID", "COMMAND", "QUEUE", "NOTE")
    ]
    columns = [lines[0].index(heading) for heading in lines[0].split()]
    assert all(line[column - 1] == " " for line in lines for column in columns[1:-1])
    assert [line.split()[0] for line in lines[1:]] == [f"{PATH}/b", f"{PATH}/control.sock", "@x"]
    assert lines[1].endswith("does not listen")
    assert lines[3].split()[1:5] == ["dgram", "live", "-", "root"]


# As many as there may be, and as long as it may take.


def test_more_entries_than_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a directory that is too full it is told that there is more."""
    monkeypatch.setattr(runtime_sockets, "MOST_ENTRIES", 100)

    def world() -> list[ListedSocket]:
        os.mkdir(f"{PATH}/sub")
        for number in range(120):
            made(f"{PATH}/{number}").close()
        return list(list_sockets("chat", deadline=time.monotonic() + 60))

    rows = in_world(world)
    assert sum(row.kind == "path" for row in rows) <= 100
    (told,) = [row for row in rows if row.kind == "unseen"]
    assert (told.path, told.note) == (PATH, "there are more than 100 entries")


def test_it_ends_in_time() -> None:
    """With too little time it fails in one line that says what to do."""

    def world() -> tuple[int, str, str]:
        kept = made(f"{PATH}/s")
        told = ctl("--timeout", "0.000001", "sockets")
        del kept
        return told

    status, output, errors = in_world(world)
    assert (status, output) == (1, "")
    assert errors.startswith("sockbrokerctl: ")
    assert "--timeout" in errors


def test_a_crowd() -> None:
    """Tens of thousands of sockets of one uid take bounded time and memory."""
    each, processes = 4_000, 6

    def world() -> tuple[int, float, int]:
        make_directory("chat", MALLORY)

        def flood(number: int) -> object:
            os.chdir(f"/run/chat/{MALLORY}")
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            names = [b"%d-%06d" % (number, other) for other in range(each)]
            return [made(name if other % 2 else b"\0" + name) for other, name in enumerate(names)]

        for number in range(processes):
            staying(lambda number=number: flood(number), MALLORY)  # type: ignore[misc]
        begun = time.monotonic()
        command = [sys.executable, "-I", "-c", COMMAND, "sockets", "--json"]
        measured = subprocess.run(
            [sys.executable, "-I", "-c", PEAK, *command], capture_output=True, check=True
        )
        number = len(json.loads(measured.stdout))
        return number, time.monotonic() - begun, int(measured.stderr)

    number, seconds, kilobytes = in_world(world)
    assert number == each * processes
    assert seconds < 25
    assert kilobytes < 100_000


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""
"""Runs a command and tells the most memory that it had, in kilobytes: less than a fork of this
process has, which would count as well."""


def test_descriptors_without_end() -> None:
    """Nobody's listing holds a descriptor for each of thousands of directories."""

    def world() -> int:
        for uid in range(5000, 5400):
            make_directory("chat", uid)
        most = max(map(int, os.listdir("/proc/self/fd"))) + 30
        assert most < 300
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        kept = made("/run/chat/5001/s", STREAM, 1)
        number = len(listed())
        del kept
        return number

    assert in_world(world) == 1


def test_output_that_nobody_reads() -> None:
    """A reader that has seen enough is no reason for a traceback."""

    def world() -> tuple[int, bytes]:
        kept = [made(b"\0%0100d" % number) for number in range(900)]
        running = subprocess.Popen(
            [sys.executable, "-I", "-c", COMMAND, "sockets", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert running.stdout is not None
        running.stdout.close()
        errors = running.communicate()[1]
        del kept
        return running.returncode, errors

    assert in_world(world) == (1, b"")
