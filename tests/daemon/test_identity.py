"""Who a peer is: what the kernel attests of who connected, whatever the peer then becomes.

Promised: a reply concerns the caller's kernel uid and no other, unless an operator names one; on
any doubt the answer is no.  Said at each test: what was taken out of the program to see it fail.
"""

from __future__ import annotations

import array
import os
import socket

import pytest
from asking import Asking, usual
from peers import (
    DENIED,
    LIMIT_REACHED,
    REQUEST,
    Line,
    Reply,
    as_user,
    ask,
    encoded,
    enter_user_namespace,
    granted,
    in_user_namespace,
    operator_asks,
    refused,
    staying,
    user_asks,
)
from running import (
    ALICE,
    BOB,
    CHAT,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CONTROL,
    GUESTS,
    MALLORY,
    OPERATOR,
    PATH,
    PATIENCE,
    RUN,
    World,
    state,
)

pytestmark = pytest.mark.root

POLICY = """\
uid_range: [1000, 400000]
apps:
  demo: {allow: {everyone: true}, max_directories: 50}
  other: {allow: {everyone: true}}
  guarded: {allow: {everyone: true}, deny: {groups: [guests]}}
  members: {allow: {groups: [chat]}}
"""


@pytest.mark.parametrize("number", [300, 1024, 1025, 65_536])
def test_more_groups_than_are_read(world: World, number: int) -> None:
    """Groups beyond what is read are doubt: they allow nothing, and a denied group denies.

    Taken out: that `groups_of` gives None where the list is too long (it gave no groups at all);
    then a denied group is left behind by having many others.
    """
    world.start(POLICY)
    many = range(100_000, 100_000 + number - 1)
    known = number <= 1024
    for app, group, granted_if_known in (
        ("guarded", GUESTS, False),
        ("guarded", 99_999, True),
        ("members", CHAT, True),
        ("members", 99_999, False),
    ):
        groups = [*many, group]
        reply = as_user(ALICE, lambda app=app: ask("Request", app=app), groups=groups)
        assert ("error" not in reply) == (known and granted_if_known), (app, group, reply)
        if "error" in reply:
            assert refused(reply) == DENIED
    reply = as_user(ALICE, lambda: ask("Request", app="other"), groups=list(many))
    assert granted(reply)[1] == "created"  # where no group matters there is no doubt


def connect_with_many_groups(number: int) -> list[Line]:
    """So many connections of as many uids, each with a thousand groups that none before had."""
    lines = []
    for first in range(100_000, 100_000 + 1000 * number, 1000):
        os.setgroups([*range(first, first + 1000), CHAT])
        os.setresuid(-1, first, -1)
        lines.append(Line(CONTROL))
        os.setresuid(-1, 0, -1)
        assert granted(lines[-1].call("Request", app="members"))
    return lines


def test_a_thousand_groups_are_not_kept(world: World) -> None:
    """They make no connection larger, and no remembered grant, once they have decided.

    Put in: that a connection keeps its groups; then 400 of them take 28 MiB.  Taken out: that a
    grant by many groups is not remembered; then as much.
    """
    daemon = world.start(POLICY)
    user_asks(MALLORY, "Request", app="other")
    resident = daemon.resident()
    with staying(0, lambda: connect_with_many_groups(400)):
        assert daemon.resident() - resident < 8 * 1024
        assert granted(user_asks(BOB, "Request", app="other"))


def many_uids(number: int, app: str) -> list[str]:
    """What each of so many uids of one user gets; run as root of his namespace."""
    answers = []
    for uid in range(1, number + 1):
        os.setresuid(-1, uid, -1)
        reply = ask("Request", app=app)
        os.setresuid(-1, 0, -1)
        answers.append(reply["parameters"].get("outcome") or reply["error"])
    return answers


def test_a_user_of_many_uids_stops_at_the_apps_limit(world: World) -> None:
    """A namespace with a range of subordinate uids gets no more than max_directories.

    Whoever has a directory is served throughout, other apps are not concerned.
    Taken out: the comparison with `limit` in `Folder.ensure`; then there are 300.
    """
    world.start(POLICY)
    user_asks(ALICE, "Request", app="demo")
    asking = Asking(ALICE)
    try:
        answers = in_user_namespace(MALLORY, lambda: many_uids(300, "demo"), subordinate=300)
    finally:
        waits = asking.stop()
    assert answers == ["created"] * 49 + [LIMIT_REACHED] * 251
    assert len(os.listdir(RUN / "demo")) == 51  # and the marker
    assert usual(waits) < 0.1 * 10
    assert refused(user_asks(BOB, "Request", app="demo")) == LIMIT_REACHED
    assert granted(user_asks(BOB, "Request", app="other"))[1] == "created"
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "existing"


def test_a_passed_connection_is_still_that_of_who_connected(world: World) -> None:
    """Who holds a connection speaks for the one who made it, who may be gone; and for nobody else.

    Taken out: SO_PEERCRED (the owner of /proc/PID was asked for at the call); then there is none.
    """
    world.start(POLICY)
    ours, theirs = socket.socketpair()

    def give() -> None:
        with Line() as line:
            rights = array.array("i", [line.socket.fileno()])
            ours.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def take() -> Reply:
        _, ((_, _, data),), _, _ = theirs.recvmsg(1, socket.CMSG_SPACE(4))
        with socket.socket(fileno=array.array("i", data)[0]) as connection:
            connection.settimeout(PATIENCE)
            connection.sendall(REQUEST)
            line = Line.__new__(Line)
            line.socket, line._received = connection, b""
            return line.reply()

    with ours, theirs:
        as_user(BOB, give)
        assert granted(as_user(MALLORY, take))[0] == f"/run/demo/{BOB}"
    assert not (RUN / f"demo/{MALLORY}").exists()
    assert state(RUN / f"demo/{BOB}") == (BOB, BOB, "0700")


@pytest.mark.parametrize("method", ["Request", "Release", "List"])
def test_a_peer_without_a_pid_gets_nothing(world: World, method: str) -> None:
    """Whom the kernel shows without a pid, because the daemon cannot see him, is denied.

    Taken out: the first rule of `decide`; then the directory is made.
    """
    own = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    world.start(POLICY, under=own)

    def call() -> Reply:
        with Line() as line:
            line.send(encoded(method, {"app": "demo"}, more=method == "List"))
            return line.reply()

    assert refused(as_user(ALICE, call)) == DENIED
    assert os.listdir(RUN / "demo") == [".sockbroker"]


def test_who_has_no_mapping_gets_nothing(world: World) -> None:
    """In a user namespace of its own the daemon sees everybody as 65534, and serves none of them.

    Taken out: the second rule of `decide`; then it tries to make one directory for all of them.
    """
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    world.start("uid_range: [0, 70000]\napps: {demo: {allow: {everyone: true}}}", under=own)
    for uid in (ALICE, BOB, 65534):
        reply = user_asks(uid, "Request", app="demo")
        assert refused(reply) == DENIED
    assert os.listdir(RUN / "demo") == [".sockbroker"]


def test_root_of_a_user_namespace_is_no_operator(world: World) -> None:
    """Whatever uid he is in there, what counts is who he is outside.

    Taken out: the uid that `Server._welcome` wants of an operator, with the socket open to all.
    """
    world.start(POLICY)
    with pytest.raises(AssertionError, match="PermissionError"):
        in_user_namespace(MALLORY, lambda: operator_asks("Reload"))
    os.chmod(OPERATOR, 0o666)  # by an administrator's mistake
    for act in (
        lambda: as_user(MALLORY, lambda: operator_asks("Reload")),
        lambda: in_user_namespace(MALLORY, lambda: operator_asks("Reload")),
    ):
        with pytest.raises(AssertionError, match=r"EOFError|BrokenPipeError"):
            act()
    assert operator_asks("Status")["parameters"]["policyGeneration"] == 1


def test_a_uid_and_a_rule_are_enough(world: World) -> None:
    """No session, no PAM, no environment, no entry in the database, no terminal, no descriptor.

    As from cron, su, a batch job, or a container, which has the one file and a network of its own.
    Taken out: 1777 from the range of the policy; then it is denied.
    """
    world.start(POLICY)

    def bare(at: str | bytes) -> tuple[str, str]:
        os.environ.clear()
        os.setsid()
        for descriptor in range(3):
            os.close(descriptor)
        return granted(ask("Request", at=at, app="demo"))

    assert as_user(1777, lambda: bare(CONTROL)) == ("/run/demo/1777", "created")

    def contained() -> tuple[str, str]:
        enter_user_namespace(CLONE_NEWNS, CLONE_NEWNET)
        with pytest.raises(ConnectionRefusedError):  # another network has no such name
            ask("Request", app="demo")
        return bare(PATH)

    assert as_user(1778, contained) == ("/run/demo/1778", "created")
    assert state("/run/demo/1777") == (1777, 1777, "0700")
    assert state("/run/demo/1778") == (1778, 1778, "0700")
