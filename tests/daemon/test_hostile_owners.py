"""What an owner can do to his own directory while the broker works on it.

Nothing of it reaches further than the directory: /etc and the rest of /run are compared, attribute
for attribute, before and after; and nobody else waits.  Said at each test: what was taken out of
the program to see it fail.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from asking import Asking, usual
from peers import (
    OBSTRUCTED,
    Peer,
    as_mallory,
    as_user,
    ask_all,
    enter_user_namespace,
    granted,
    listed,
    operator_asks,
    refused,
    staying,
    user_asks,
)
from running import (
    ALICE,
    CACHE,
    CLONE_NEWNS,
    MALLORY,
    MS_BIND,
    MS_REC,
    OPERATOR,
    RUN,
    Daemon,
    World,
    eventually,
    mount,
    state,
    umount,
)
from witness import (
    furnish,
    looping,
    nothing_outside_changes,
    silent_file_server,
    wait_until_deleted,
)

pytestmark = pytest.mark.root

POLICY = "apps: {demo: {allow: {everyone: true}}}"
HIS = RUN / f"demo/{MALLORY}"

PROMISED = 0.05
SLACK = 10
"""The attackers, the one who is timed and this process share two processors with the daemon."""

RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def assert_nobody_hangs(daemon: Daemon) -> None:
    """None of its threads waits for a file server: such a sleep does not end."""

    def none() -> bool:
        for task in Path(f"/proc/{daemon.pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                if (task / "stat").read_text().rpartition(")")[2].split()[0] == "D":
                    return False
        return True

    eventually("nobody hangs", none)


@pytest.mark.parametrize("allow_other", [True, False], ids=["for all", "for him"])
def test_a_file_server_on_the_directory_itself(world: World, *, allow_other: bool) -> None:
    """Who mounts a server that never answers on his directory stalls nothing but himself.

    Taken out: RESOLVE_NO_XDEV of `entries.open_entry`; then List and a start hang for good.
    """
    furnish()
    daemon = world.start(POLICY)
    user_asks(MALLORY, "Request", app="demo")
    with nothing_outside_changes():
        user_asks(ALICE, "Request", app="demo")
        asking = Asking(ALICE)
        with silent_file_server(HIS, MALLORY, allow_other=allow_other):
            for force in (False, True):
                reply = user_asks(MALLORY, "Release", app="demo", force=force)
                assert refused(reply) == OBSTRUCTED
            assert refused(user_asks(MALLORY, "Request", app="demo")) == OBSTRUCTED
            assert refused(user_asks(MALLORY, "Request", app="demo", uid=MALLORY)) == OBSTRUCTED
            rows = {row["uid"]: row for row in listed(ask_all("List", at=OPERATOR))}
            assert {uid: row["state"] for uid, row in rows.items()} == {
                ALICE: "ok",
                MALLORY: "obstructed",
            }
            problems = operator_asks("Reload")["parameters"]["problems"]
            assert [text.split(":")[0] for text in problems] == [str(HIS)]
            assert_nobody_hangs(daemon)
            waits = asking.stop()
            daemon.end()
            daemon = world.start()
            assert refused(user_asks(MALLORY, "Request", app="demo")) == OBSTRUCTED
            assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "existing"
        assert granted(user_asks(MALLORY, "Request", app="demo"))[1] == "existing"
    assert usual(waits) < PROMISED * SLACK
    daemon.end()


SHORT_RETRY = """\
import sys
from sockbroker import daemon, disposal
disposal.SECONDS_BEFORE_RETRY = 0.5
sys.exit(daemon.main(sys.argv[1:]))
"""
"""The minute between two tries is made half a second; else it is the daemon."""


def test_a_file_server_below_the_directory(world: World) -> None:
    """What is mounted below is parked, reported and tried again; all else of it is deleted.

    Taken out: the `call_later` of `Disposal._park`; then nothing is deleted when it is unmounted.
    """
    furnish()
    world.write(POLICY)
    command = [sys.executable, "-I", *CACHE, "-c", SHORT_RETRY]
    daemon = Daemon(
        [*command, "--policy", str(world.policy)],
        world.own / "log",
        environment={"PATH": os.environ["PATH"]},
    )
    try:
        daemon.wait_until_ready()
        user_asks(MALLORY, "Request", app="demo")
        as_mallory(lambda: [os.makedirs(HIS / f"{name}/below") for name in ("a", "b", "c")])
        with nothing_outside_changes():
            with silent_file_server(HIS / "b/below", MALLORY):
                asking = Asking(ALICE)
                assert user_asks(MALLORY, "Release", app="demo") == {}
                (left,) = eventually(
                    "parked", lambda: operator_asks("Status")["parameters"]["problems"]
                )
                assert "cannot be deleted yet: something is mounted" in left
                assert operator_asks("Status")["parameters"]["state"] == "degraded"
                assert granted(user_asks(MALLORY, "Request", app="demo"))[1] == "created"
                time.sleep(1.2)  # it is tried again, twice
                assert_nobody_hangs(daemon)
                assert len(daemon.log("not deleted")) == 1
                [aside] = [name for name in os.listdir(RUN / "demo") if name.startswith(".old-")]
                assert len(os.listdir(RUN / "demo" / aside)) == 1
                waits = asking.stop()
            wait_until_deleted()
        eventually(
            "well again", lambda: operator_asks("Status")["parameters"]["state"] == "running"
        )
        assert usual(waits) < PROMISED * SLACK
        daemon.end()
    finally:
        daemon.kill()


def test_what_is_mounted_below_keeps_all_that_it_has(world: World) -> None:
    """What an administrator has mounted in a directory is never entered, whoever releases it.

    Taken out: RESOLVE_NO_XDEV of `entries.open_entry`; then what was mounted is empty.
    """
    furnish()
    world.start(POLICY)
    precious = world.own / "precious"
    precious.mkdir(mode=0o751)
    (precious / "file").write_text("stays")
    user_asks(MALLORY, "Request", app="demo")
    as_mallory(lambda: os.makedirs(HIS / "a/mounted"))
    before = precious.lstat(), (precious / "file").lstat()
    mount(str(precious), HIS / "a/mounted", flags=MS_BIND)
    with nothing_outside_changes():
        assert user_asks(MALLORY, "Release", app="demo") == {}
        eventually("parked", lambda: operator_asks("Status")["parameters"]["problems"])
        [aside] = [name for name in os.listdir(RUN / "demo") if name.startswith(".old-")]
        found = [Path(folder) for folder, _, _ in os.walk(RUN / "demo" / aside)]
        [mounted] = [path for path in found if path.name == "mounted" or os.path.ismount(path)]
        assert (mounted / "file").read_text() == "stays"
        after = precious.lstat(), (precious / "file").lstat()
        assert [each[:7] + each[8:10] for each in after] == [
            each[:7] + each[8:10] for each in before
        ]
        umount(mounted)


def mount_what_he_likes() -> None:
    """What any user can do without privileges, for himself, on his directory and below it."""
    enter_user_namespace(CLONE_NEWNS)
    (HIS / "below").mkdir()
    for source, target in (("/run/user", HIS / "below"), ("/etc", HIS)):
        mount(source, target, flags=MS_BIND | MS_REC)


def test_mounts_of_his_own_namespace(world: World) -> None:
    """What an owner has mounted for himself is neither seen nor in the way.

    Taken out: that his namespace is another one; then the first request is Obstructed.
    """
    furnish()
    world.start(POLICY)
    user_asks(MALLORY, "Request", app="demo")
    with nothing_outside_changes(), staying(MALLORY, mount_what_he_likes):
        assert granted(user_asks(MALLORY, "Request", app="demo"))[1] == "existing"
        assert user_asks(MALLORY, "Release", app="demo") == {}
        wait_until_deleted()
        assert granted(user_asks(MALLORY, "Request", app="demo"))[1] == "created"
        assert os.listdir(HIS) == []


def test_exchanges_while_it_is_made_and_deleted(world: World) -> None:
    """Links and directories that change places without end lead the broker nowhere.

    The owner holds descriptors of what was his, so he goes on after it was moved aside.
    Taken out: what keeps `entries.open_entry` from following links, and that `_delete_leaf` unlinks
    whatever it can before anything is opened; then this test does not come to an end.
    """
    furnish()
    outside = RUN / "other/outside"
    (outside / "below/deep").mkdir(parents=True)
    (outside / "below/deep/file").write_text("stays")
    world.start(POLICY)
    asking = Asking(ALICE)

    def swap() -> None:
        held: list[int] = []

        def act() -> None:
            inside = HIS / "a"
            try:
                inside.mkdir()
                held.append(os.open(inside, os.O_PATH | os.O_DIRECTORY))
                for number in range(30):
                    (inside / f"d{number}/below").mkdir(parents=True)
                    (inside / f"l{number}").symlink_to((outside, "/etc", "/run/user")[number % 3])
            except OSError:
                pass
            while len(held) > 2:
                os.close(held.pop(0))
            for folder in held:
                for number in range(30):
                    names = b"d%d" % number, b"l%d" % number
                    for _ in range(5):
                        _libc.renameat2(folder, names[0], folder, names[1], RENAME_EXCHANGE)

        looping(act)()

    outcomes = set()
    with nothing_outside_changes():
        swapping = [Peer(MALLORY, swap) for _ in range(2)]
        end = time.monotonic() + 5
        while time.monotonic() < end:
            for method in ("Request", "Release"):
                reply = user_asks(MALLORY, method, app="demo")
                outcomes.add(reply.get("error", method))
        for each in swapping:
            each.end()
    assert {"Request", "Release"} <= outcomes
    assert outcomes <= {"Request", "Release", OBSTRUCTED, "io.sockbroker.LimitReached"}
    assert usual(asking.stop()) < PROMISED * SLACK
    wait_until_deleted()  # or this release may be one too many
    user_asks(MALLORY, "Release", app="demo")
    wait_until_deleted()
    assert granted(user_asks(MALLORY, "Request", app="demo"))[1] == "created"
    assert state(HIS) == (MALLORY, MALLORY, "0700")


def test_changes_of_the_directory_itself_while_it_is_repaired(world: World) -> None:
    """An owner who changes mode and group in a loop spoils his own request and no other.

    Taken out: the call of `bring` in `app_folder._repair`; then it never is as it should be.
    """
    furnish()
    world.start("apps: {demo: {allow: {everyone: true}, mode: '2750', group: chat}}")
    user_asks(MALLORY, "Request", app="demo")
    modes = (0o777, 0o000, 0o3777, 0o1755)

    def spoil() -> None:
        looping(lambda: [os.chmod(HIS, mode) for mode in modes])()

    with nothing_outside_changes():
        spoiling = [Peer(MALLORY, spoil) for _ in range(2)]
        asking = Asking(ALICE)
        end = time.monotonic() + 2
        errors = set()
        while time.monotonic() < end:
            errors.add(user_asks(MALLORY, "Request", app="demo").get("error"))
        for each in spoiling:
            each.end()
        assert errors <= {None, OBSTRUCTED}
        assert usual(asking.stop()) < PROMISED * SLACK
    user_asks(MALLORY, "Request", app="demo")
    assert state(HIS) == (MALLORY, 5000, "2750")


def test_locks_hold_nobody_up(world: World) -> None:
    """Whoever locks directories, his own or others', the daemon's folder or pid file: no matter.

    Taken out: the lock file of its own (`Base.lock` locked the base itself); then the daemon and
    mallory are in each other's way.
    """
    daemon = world.start(
        "apps: {demo: {allow: {everyone: true}, mode: '0755', group: chat, parent: {mode: '0755'}}}"
    )
    for uid in (MALLORY, ALICE):
        user_asks(uid, "Request", app="demo")

    def lock() -> list[int]:
        names = ["/run", "/run/sockbroker", "/run/sockbroker/sockbrokerd.pid", "/run/demo"]
        held = [os.open(name, os.O_RDONLY) for name in (*names, HIS, f"/run/demo/{ALICE}")]
        for descriptor in held:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return held

    with staying(MALLORY, lock):
        assert granted(user_asks(MALLORY, "Request", app="demo"))[1] == "existing"
        rows = listed(ask_all("List", at=OPERATOR))
        assert [row["inUse"] for row in rows] == [False, False]
        daemon.kill()
        daemon = world.start()
        assert user_asks(ALICE, "Release", app="demo") == {}
        assert operator_asks("Release", app="demo", uid=MALLORY) == {}
    wait_until_deleted()


def test_other_peoples_sockets_keep_nobody(world: World) -> None:
    """A socket that only claims to be in a directory does not make that one in use.

    Taken out: the comparison by device and inode of `usage._is_bound` (the kernel's table was
    searched for the name); then alice cannot release her own.
    """
    world.start(POLICY)
    user_asks(ALICE, "Request", app="demo")
    theirs = RUN / f"demo/{ALICE}"

    def leave_a_dead_one() -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(theirs / "control.sock"))

    as_user(ALICE, leave_a_dead_one)

    def claim() -> socket.socket:
        enter_user_namespace(CLONE_NEWNS)
        mount("tmpfs", RUN / "demo", "tmpfs")
        theirs.mkdir()
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(theirs / "control.sock"))
        server.listen()
        return server

    with staying(MALLORY, claim):
        assert str(theirs / "control.sock") in Path("/proc/net/unix").read_text()
        rows = {row["uid"]: row for row in listed(ask_all("List", at=OPERATOR))}
        assert rows[ALICE].get("inUse") is None  # nobody here has bound it, whatever is claimed
        assert user_asks(ALICE, "Release", app="demo") == {}
