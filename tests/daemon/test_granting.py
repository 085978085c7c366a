"""Exactly how a directory is, how it is let go, and when there is none to be had."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from peers import (
    DENIED,
    LIMIT_REACHED,
    NO_SUCH_DIRECTORY,
    as_user,
    ask,
    ask_all,
    granted,
    operator_asks,
    refused,
    user_asks,
)
from running import (
    ALICE,
    BOB,
    CAROL,
    CHAT,
    MS_REMOUNT,
    OPERATOR,
    PATH,
    RUN,
    STAFF,
    World,
    eventually,
    layout,
    mount,
    state,
    tree,
)

from file_record import record

pytestmark = pytest.mark.root

POLICY = """\
apps:
  demo: {allow: {everyone: true}}
  shared:
    allow: {users: [alice], groups: [chat]}
    mode: "2770"
    group: chat
    parent: {mode: "0750", group: chat}
"""


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
@pytest.mark.parametrize("ours", [0o000, 0o777], ids=["daemon-000", "daemon-777"])
def test_attributes_are_exact_whatever_the_umask(world: World, umask: int, ours: int) -> None:
    """Owner, group and mode, setgid too, are the policy's, whatever umask anybody has.

    Taken out: the `set_mode` of `Folder._create`; then what was made is refused.
    """
    world.start(POLICY, before=lambda: os.umask(ours) and None)
    for app in ("demo", "shared"):
        path, outcome = granted(as_user(ALICE, lambda a=app: ask("Request", app=a), umask=umask))
        assert (path, outcome) == (f"/run/{app}/{ALICE}", "created")
    assert tree() == {
        **layout({"demo": {f"{ALICE}": (ALICE, ALICE, "0700")}}),
        **layout({"shared": {f"{ALICE}": (ALICE, CHAT, "2770")}}),
        "shared": (0, CHAT, "0750"),
    }
    assert state("/run/sockbroker") == (0, 0, "0755")
    modes = {path: os.lstat(path).st_mode & 0o7777 for path in (PATH, OPERATOR)}
    assert modes == {PATH: 0o666, OPERATOR: 0o600}
    assert os.lstat("/run/.sockbroker.lock").st_mode & 0o7777 == 0o600


def test_a_group_without_an_entry_keeps_setgid(world: World) -> None:
    """A numeric group that no database knows is set, and S_ISGID is not lost on the way.

    Taken out: CAP_FSETID of `confinement.KEPT`, and that `_create` sets the mode before the owner,
    one behind the other; then the bit is lost, and the directory refused.
    """
    world.start('apps: {a: {allow: {everyone: true}, group: 61234, mode: "2750"}}')
    user_asks(ALICE, "Request", app="a")
    assert state(RUN / f"a/{ALICE}") == (ALICE, 61234, "2750")


def test_the_group_is_that_of_the_peer_where_the_policy_names_none(world: World) -> None:
    """Without a group in the policy the directory gets the peer's gid, and keeps its group.

    Taken out: the peer's gid in `Broker._grant` (it was nobody's).
    """
    world.start(POLICY)
    as_user(ALICE, lambda: ask("Request", app="demo"), gid=CHAT)
    assert state(RUN / f"demo/{ALICE}") == (ALICE, CHAT, "0700")
    again = as_user(ALICE, lambda: ask("Request", app="demo"), gid=STAFF)
    assert granted(again)[1] == "existing"
    assert state(RUN / f"demo/{ALICE}") == (ALICE, CHAT, "0700")


def test_what_an_owner_changed_is_repaired_when_he_asks(world: World) -> None:
    """Mode, group and ACLs are brought back by a request, and the next one finds nothing to do.

    Taken out: `remove_acls` of `entries.bring`; then it is never as it should be.
    """
    world.start(POLICY)
    path = user_asks(ALICE, "Request", app="shared") and RUN / f"shared/{ALICE}"

    def spoil() -> None:
        os.chown(path, -1, ALICE)
        subprocess.run(["setfacl", "-m", f"u:{BOB}:rwx,d:u:{BOB}:rwx", path], check=True)
        path.chmod(0o1777)

    as_user(ALICE, spoil, groups=[CHAT])
    assert state(path) == (ALICE, ALICE, "1777")
    for outcome in ("repaired", "existing"):
        assert granted(user_asks(ALICE, "Request", app="shared")) == (str(path), outcome)
        assert state(path) == (ALICE, CHAT, "2770")
        assert os.listxattr(path) == []


def test_what_has_not_changed_is_recognised(world: World) -> None:
    """Who comes again has his directory looked at, and opened only once something has changed.

    Seen to fail where who comes again is not remembered, and where no state is.
    """
    trace = world.own / "trace"
    world.start(POLICY, under=["strace", "-D", "-f", "-qq", "-o", str(trace), "-e", "openat2"])

    def opened() -> int:
        """How often his directory is opened for a request."""
        before = trace.read_text().count(f'"{ALICE}"')
        assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "existing"
        return trace.read_text().count(f'"{ALICE}"') - before

    user_asks(ALICE, "Request", app="demo")
    eventually("recognised", lambda: opened() == 0)
    assert [opened() for _ in range(5)] == [0] * 5
    as_user(ALICE, lambda: (RUN / f"demo/{ALICE}/file").touch())
    assert opened() == 1
    eventually("recognised again", lambda: opened() == 0)


def test_what_is_in_it_is_left_alone(world: World) -> None:
    """A request changes the directory itself and nothing that its owner put into it.

    Taken out: nothing; put in: a chmod of all that is in it, which the read-only /etc stops at the
    link.
    """
    world.start(POLICY)
    user_asks(ALICE, "Request", app="demo")
    directory = RUN / f"demo/{ALICE}"

    def fill() -> None:
        (directory / "file").touch(mode=0o4644)
        (directory / "link").symlink_to("/etc/passwd")
        os.mkfifo(directory / "fifo")
        (directory / "sub").mkdir(mode=0o777)
        directory.chmod(0o777)

    as_user(ALICE, fill)
    before = {entry.name: record(entry) for entry in directory.iterdir()}
    passwd = record(Path("/etc/passwd"))
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "repaired"
    assert {entry.name: record(entry) for entry in directory.iterdir()} == before
    assert record(Path("/etc/passwd")) == passwd


def test_release(world: World) -> None:
    """The name is gone with the reply, the contents soon after, and one can ask again.

    Taken out: that `_take_over` gives what is deleted to root; then the contents stay.
    """
    world.start(POLICY)
    user_asks(ALICE, "Request", app="demo")
    folder, directory = RUN / "demo", RUN / f"demo/{ALICE}"

    def fill() -> None:
        deep = directory / "a/b/c"
        deep.mkdir(parents=True)
        for number in range(300):
            (deep / f"{number}").touch()
        (directory / "to etc").symlink_to("/etc")
        (directory / "a/b").chmod(0)
        os.mkfifo(directory / "\x1b[31m\n\udcff")
        directory.chmod(0)

    def release() -> tuple[dict[str, object], bool]:
        return ask("Release", app="demo"), directory.exists()

    as_user(ALICE, fill)
    assert as_user(ALICE, release) == ({}, False)
    eventually("contents deleted", lambda: os.listdir(folder) == [".sockbroker"])
    assert Path("/etc/passwd").exists()
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    assert as_user(ALICE, release)[0] == {}
    assert refused(user_asks(ALICE, "Release", app="demo")) == NO_SUCH_DIRECTORY


def test_ones_own_may_always_be_released(world: World) -> None:
    """Also when the policy that denies it came afterwards.

    Taken out: that Release does not ask the policy first (it did); then it is Denied.
    """
    world.start(POLICY)
    user_asks(ALICE, "Request", app="demo")
    world.write("apps: {demo: {deny: {users: [alice]}}}")
    operator_asks("Reload")
    assert refused(user_asks(ALICE, "Request", app="demo")) == DENIED
    assert user_asks(ALICE, "Release", app="demo") == {}
    assert refused(user_asks(ALICE, "Release", app="demo")) == DENIED  # as if it were not there


def test_the_limit_of_directories(world: World) -> None:
    """At max_directories new ones are refused and existing ones served; a release makes room.

    Taken out: the comparison with `limit` in `Folder.ensure`; then there are three.
    """
    world.start("apps: {demo: {allow: {everyone: true}, max_directories: 2}}")
    for uid in (ALICE, BOB):
        granted(user_asks(uid, "Request", app="demo"))
    reply = user_asks(CAROL, "Request", app="demo")
    assert refused(reply) == LIMIT_REACHED
    assert reply["parameters"] == {"resource": "directories", "limit": 2}
    assert granted(user_asks(BOB, "Request", app="demo"))[1] == "existing"
    user_asks(BOB, "Release", app="demo")
    eventually("room", lambda: "error" not in user_asks(CAROL, "Request", app="demo"))


def test_a_full_file_system(world: World) -> None:
    """When /run has no room a new directory is refused as a limit, nothing half made stays.

    Taken out: ENOSPC of `failures.SCARCE`; then it is Obstructed.
    """
    world.start("apps: {demo: {allow: {everyone: true}}}")
    user_asks(ALICE, "Request", app="demo")
    before = tree()
    room = os.statvfs(RUN)
    mount("tmpfs", RUN, "tmpfs", MS_REMOUNT, f"nr_inodes={room.f_files - room.f_ffree}")
    reply = user_asks(BOB, "Request", app="demo")
    assert refused(reply) == LIMIT_REACHED
    assert reply["parameters"]["resource"] == "space"
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "existing"
    assert tree() == before
    mount("tmpfs", RUN, "tmpfs", MS_REMOUNT, "nr_inodes=1000")
    assert granted(user_asks(BOB, "Request", app="demo"))[1] == "created"


def test_what_comes_later_is_not_implemented(world: World) -> None:
    """Explain and Monitor are in the interface and say so.

    Taken out: the look for a handler; then it is a fault.
    """
    world.start(POLICY)
    assert refused(user_asks(ALICE, "Explain", app="demo")) == (
        "org.varlink.service.MethodNotImplemented"
    )
    (reply,) = ask_all("Monitor", at=OPERATOR)
    assert refused(reply) == "org.varlink.service.MethodNotImplemented"
