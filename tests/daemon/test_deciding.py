"""Who gets a directory: by the word of the kernel, by the policy, and by nothing else."""

from __future__ import annotations

import os
from typing import Any

import pytest
from peers import (
    DENIED,
    PERMISSION_DENIED,
    Line,
    as_user,
    ask,
    ask_all,
    encoded,
    granted,
    in_user_namespace,
    listed,
    refused,
    user_asks,
)
from running import (
    ALICE,
    BOB,
    CAROL,
    CHAT,
    GUEST,
    GUESTS,
    MALLORY,
    RUN,
    World,
    state,
)

pytestmark = pytest.mark.root

POLICY = f"""\
uid_range: [1000, 2000]
apps:
  demo: {{allow: {{everyone: true}}}}
  shared:
    allow: {{users: [alice], groups: [chat]}}
    deny: {{users: [mallory], groups: [guests]}}
    mode: "2770"
    group: chat
    parent: {{mode: "0750", group: chat}}
  guarded:
    allow: {{everyone: true}}
    deny: {{groups: [guests, staff]}}
  numbers: {{allow: {{users: [{BOB}, "1500-1600"], groups: [7000]}}}}
  huge: {{allow: {{users: ["4294967200-4294967294"]}}}}
  nobody: {{}}
"""


def allowed(reply: dict[str, object]) -> bool:
    """Whether a Request was granted; any other refusal than Denied is a failure."""
    if "error" in reply:
        assert reply["error"] == DENIED, reply
        return False
    return True


def test_the_reply_concerns_the_kernels_uid(world: World) -> None:
    """Effective uid at connect(2): not the real one, nor a message's, nor who holds the socket.

    Taken out: SO_PEERCRED (the owner of /proc/PID was asked for at the accept); then a connection
    that was given away is that of who holds it.
    """
    world.start(POLICY)

    def effective() -> dict[str, object]:
        os.setresuid(-1, ALICE, -1)
        return ask("Request", app="demo")

    def given_away() -> dict[str, object]:
        os.setresuid(-1, BOB, -1)
        with Line() as line:
            os.setresuid(0, 0, 0)
            os.setresuid(MALLORY, MALLORY, MALLORY)
            return line.call("Request", app="demo")

    assert granted(as_user(0, effective))[0] == f"/run/demo/{ALICE}"
    assert granted(as_user(0, given_away))[0] == f"/run/demo/{BOB}"
    claimed = encoded("Request", {"app": "demo"}, **{"io.example.uid": BOB})  # type: ignore[arg-type]

    def claim() -> dict[str, object]:
        with Line() as line:
            line.send(claimed)
            return line.reply()

    assert granted(as_user(MALLORY, claim))[0] == f"/run/demo/{MALLORY}"


def test_nobody_names_another_uid(world: World) -> None:
    """Request, Release and List for another uid are refused; one's own uid may be named.

    Taken out: the look at the socket in `failures.user`; then alice is given what is bob's.
    """
    world.start(POLICY)
    user_asks(BOB, "Request", app="demo")
    for method in ("Request", "Release"):
        reply = user_asks(ALICE, method, app="demo", uid=BOB)
        assert refused(reply) == PERMISSION_DENIED
    for how in ({"app": "demo", "uid": BOB}, {"uid": BOB}, {"uid": 0}):
        (reply,) = as_user(ALICE, lambda how=how: ask_all("List", **how))
        assert refused(reply) == PERMISSION_DENIED
    assert (
        refused(user_asks(ALICE, "Release", app="demo", uid=BOB, force=True)) == PERMISSION_DENIED
    )
    assert state(RUN / f"demo/{BOB}") == (BOB, BOB, "0700")
    assert granted(user_asks(ALICE, "Request", app="demo", uid=ALICE))[1] == "created"
    (own,) = listed(as_user(ALICE, lambda: ask_all("List")))
    assert own == {
        "app": "demo",
        "uid": ALICE,
        "userName": "alice",
        "gid": ALICE,
        "path": f"/run/demo/{ALICE}",
        "mode": "0700",
        "state": "ok",
        "inUse": False,
        "sockets": 0,
    }


def test_root_of_a_container_is_who_he_is_outside(world: World) -> None:
    """Uid 0 in a user namespace is the host's uid to the broker.

    Taken out: the look at the socket in `failures.user`; then he gets bob's directory.
    """
    world.start(POLICY)
    reply = in_user_namespace(ALICE, lambda: ask("Request", app="demo"))
    assert granted(reply)[0] == f"/run/demo/{ALICE}"
    refusal = in_user_namespace(ALICE, lambda: ask("Request", app="demo", uid=BOB))
    assert refused(refusal) == PERMISSION_DENIED


def test_allow(world: World) -> None:
    """Names, numbers, ranges with both ends, groups of the kernel, everyone: no more than these.

    Taken out: the range of `everyone` (999 is allowed then), and that uids are unsigned in `_UCRED`
    (4294967294 is not then).
    """
    world.start(POLICY)
    many = [*range(10_000, 10_299), 7000]
    cases = {
        ("shared", ALICE, ALICE, ()): True,
        ("shared", BOB, BOB, ()): False,  # the database says chat, the kernel does not
        ("shared", BOB, BOB, (CHAT,)): True,
        ("shared", BOB, CHAT, ()): True,
        ("numbers", BOB, BOB, ()): True,
        ("numbers", 1499, 1499, ()): False,
        ("numbers", 1500, 1500, ()): True,
        ("numbers", 1600, 1600, ()): True,
        ("numbers", 1601, 1601, ()): False,
        ("numbers", ALICE, ALICE, tuple(many)): True,
        ("numbers", ALICE, ALICE, tuple(many[:-1])): False,
        ("demo", 999, 999, ()): False,
        ("demo", 1000, 1000, ()): True,
        ("demo", 2000, 2000, ()): True,
        ("demo", 2001, 2001, ()): False,
        ("demo", 0, 0, ()): False,
        ("nobody", ALICE, ALICE, (CHAT,)): False,
        ("huge", 4294967294, 4294967294, ()): True,
        ("huge", ALICE, ALICE, ()): False,
    }
    answers = {
        case: allowed(
            as_user(case[1], lambda a=case[0]: ask("Request", app=a), gid=case[2], groups=case[3])
        )
        for case in cases
    }
    assert answers == cases
    assert (RUN / "huge/4294967294").lstat().st_uid == 4294967294


def test_deny_beats_allow(world: World) -> None:
    """Who is denied as a user or by a group of the kernel gets nothing, whatever allows him.

    Taken out: `_denied` of `decide`; then he is allowed.
    """
    world.start(POLICY)
    assert not allowed(as_user(MALLORY, lambda: ask("Request", app="shared"), groups=[CHAT]))
    assert not allowed(as_user(ALICE, lambda: ask("Request", app="shared"), groups=[GUESTS]))
    assert not allowed(as_user(ALICE, lambda: ask("Request", app="shared"), gid=GUESTS))
    many = [*range(10_000, 10_299), GUESTS]
    assert not allowed(as_user(ALICE, lambda: ask("Request", app="guarded"), groups=many))
    assert not (RUN / f"shared/{ALICE}").exists()


@pytest.mark.parametrize(
    ("app", "granted_with", "refused_with"),
    [
        ("shared", {"groups": [CHAT]}, {"groups": []}),
        ("shared", {"gid": CHAT}, {"gid": BOB}),
        ("guarded", {"groups": []}, {"groups": [GUESTS]}),
        ("guarded", {"gid": BOB}, {"gid": GUESTS}),
    ],
)
def test_what_was_granted_is_decided_anew_for_other_groups(
    world: World, app: str, granted_with: dict[str, Any], refused_with: dict[str, Any]
) -> None:
    """A decision is remembered for a uid with these groups, and for no others of the same uid.

    Seen to fail without the comparison of the group, and without that of the groups.
    """
    world.start(POLICY)
    for _ in range(2):
        for _ in range(3):
            assert allowed(as_user(BOB, lambda: ask("Request", app=app), **granted_with))
        assert not allowed(as_user(BOB, lambda: ask("Request", app=app), **refused_with))


def test_dropped_groups_still_deny(world: World) -> None:
    """Who leaves a denied group behind in a user namespace is denied as the database's member.

    Taken out: the database's members of `deny` in `_denied`; then he is allowed.
    """
    world.start(POLICY)
    assert not allowed(user_asks(GUEST, "Request", app="guarded"))  # with no group at all
    assert not allowed(
        in_user_namespace(GUEST, lambda: ask("Request", app="guarded"), groups=[GUESTS])
    )
    assert not allowed(user_asks(CAROL, "Request", app="guarded"))  # her primary group is staff
    assert allowed(user_asks(ALICE, "Request", app="guarded"))


def test_an_overflow_uid_is_nobody(world: World) -> None:
    """What the kernel shows for any unmapped uid gets nothing, even where everybody is allowed.

    Taken out: the second rule of `decide`; then 65534 gets a directory.
    """
    world.start("uid_range: [0, 70000]\napps: {demo: {allow: {everyone: true}}}")
    assert allowed(user_asks(0, "Request", app="demo"))
    for uid in (65534, 65535):
        assert not allowed(user_asks(uid, "Request", app="demo"))
        assert refused(user_asks(uid, "Release", app="demo")) == DENIED
    assert allowed(user_asks(65536, "Request", app="demo"))


@pytest.mark.parametrize("method", ["Request", "Release", "List"])
def test_unknown_and_forbidden_cannot_be_told_apart(world: World, method: str) -> None:
    """Byte for byte the same reply, be there a directory, an obstacle, a limit, or no such app.

    Taken out: that `Record.deny` keeps the rule to itself, that `_refuse` of Release asks the
    policy, and that a Request asks it before the disk; with each, replies differ.
    """
    world.start(
        """
        apps:
          known1: {}
          known2: {allow: {users: [alice]}}
          known3: {allow: {users: [alice]}, max_directories: 1}
          known4: {allow: {users: [alice]}}
        """
    )
    for app in ("known2", "known3"):
        user_asks(ALICE, "Request", app=app)
    for entry in sorted((RUN / "known4").iterdir()):
        entry.rmdir()
    (RUN / "known4").rmdir()
    (RUN / "known4").touch()

    def raw(app: str) -> bytes:
        with Line() as line:
            line.send(encoded(method, {"app": app}, **({"more": True} if method == "List" else {})))
            return line.message()

    apps = ("known1", "known2", "known3", "known4", "absent")
    replies = {as_user(MALLORY, lambda a=app: raw(a)).replace(app.encode(), b"?") for app in apps}
    assert len(replies) == 1, replies
    assert b'"error":"io.sockbroker.Denied"' in next(iter(replies))
