"""What only operators may do, and only on the socket that is theirs."""

from __future__ import annotations

import os
import socket

import pytest
from peers import (
    DENIED,
    IN_USE,
    INVALID_PARAMETER,
    NO_SUCH_DIRECTORY,
    PERMISSION_DENIED,
    as_user,
    ask,
    ask_all,
    granted,
    listed,
    operator_asks,
    refused,
    user_asks,
)
from running import (
    ALICE,
    BOB,
    CAROL,
    CONTROL,
    GUEST,
    MALLORY,
    OPERATOR,
    PATH,
    RUN,
    STAFF,
    World,
    state,
)

pytestmark = pytest.mark.root

POLICY = """\
apps:
  demo: {allow: {everyone: true}}
  shared: {allow: {groups: [chat]}, deny: {users: [mallory]}}
  guarded: {allow: {everyone: true}, deny: {groups: [guests, staff]}}
  nobody: {}
"""


def test_root_is_an_ordinary_user_on_the_ordinary_sockets(world: World) -> None:
    """Uid 0 on the abstract socket or the path gets nothing that another uid would not get.

    Taken out: that only the socket makes an operator (uid 0 did); then he is served.
    """
    world.start(POLICY)
    user_asks(ALICE, "Request", app="demo")
    for at in (CONTROL, PATH):
        assert refused(ask("Request", at=at, app="demo", uid=ALICE)) == PERMISSION_DENIED
        assert refused(ask("Release", at=at, app="demo", uid=ALICE, force=True)) == (
            PERMISSION_DENIED
        )
        assert refused(ask("Reload", at=at)) == PERMISSION_DENIED
        assert refused(ask("Request", at=at, app="demo")) == DENIED
        (own,) = ask_all("List", at=at)
        assert refused(own) == NO_SUCH_DIRECTORY
        status = ask("Status", at=at)["parameters"]
        assert sorted(status) == ["policyGeneration", "state", "version"]
    assert state(RUN / f"demo/{ALICE}") == (ALICE, ALICE, "0700")


def test_the_operator_socket_is_roots_alone(world: World) -> None:
    """Nobody else can connect to it, and what root may do there is more than others may.

    Taken out: the mode of the socket, and the uid that `Server._welcome` wants; then alice is told
    all.
    """
    world.start(POLICY)
    for groups in ((), (0,)):
        with pytest.raises(AssertionError, match="PermissionError"):
            as_user(ALICE, lambda: operator_asks("Status"), groups=groups)
    status = operator_asks("Status")["parameters"]
    assert status["state"] == "running"
    assert status["problems"] == []
    assert status["counters"]["requests"] == 0
    assert "policyError" not in status
    assert operator_asks("Reload")["parameters"] == {"policyGeneration": 2, "problems": []}
    assert ask("Status")["parameters"]["policyGeneration"] == 2


def test_operators_act_for_others_by_the_policy(world: World) -> None:
    """An operator's Request for a user is decided as the user's own, with the database's groups.

    Taken out: the refusal in `Broker._grant` where an operator asks, and `is_user_id` of
    `failures.user`; with each, one is not refused.
    """
    world.start(POLICY)

    def for_user(app: str, uid: int) -> dict[str, object]:
        return operator_asks("Request", app=app, uid=uid)

    assert granted(for_user("demo", ALICE)) == (f"/run/demo/{ALICE}", "created")
    assert granted(user_asks(ALICE, "Request", app="demo")) == (f"/run/demo/{ALICE}", "existing")
    assert granted(for_user("shared", BOB))[1] == "created"  # bob is in chat
    assert granted(for_user("demo", CAROL))[1] == "created"
    assert state(RUN / f"demo/{CAROL}") == (CAROL, STAFF, "0700")  # her primary group
    for app, uid in (("shared", MALLORY), ("guarded", GUEST), ("guarded", CAROL), ("nobody", BOB)):
        assert refused(for_user(app, uid)) == DENIED
    for uid in (-1, 65534, 65535, 2**32 - 1, 2**32, 2**63 - 1):
        reply = for_user("demo", uid)
        assert refused(reply) == INVALID_PARAMETER
        assert reply["parameters"] == {"parameter": "uid"}
    everything = {each["path"] for each in listed(ask_all("List", at=OPERATOR))}
    assert everything == {
        f"/run/demo/{ALICE}",
        f"/run/demo/{CAROL}",
        f"/run/shared/{BOB}",
    }
    of_carol = listed(ask_all("List", at=OPERATOR, uid=CAROL))
    assert [(each["uid"], each["gid"]) for each in of_carol] == [(CAROL, STAFF)]
    of_demo = listed(ask_all("List", at=OPERATOR, app="demo"))
    assert [each["uid"] for each in of_demo] == [ALICE, CAROL]


def test_operators_release_for_others(world: World) -> None:
    """Another user's directory goes if it is not in use; else, or if that is unknown, by force.

    Taken out: the refusal of `_in_use` where it cannot be told; then the directory goes.
    """
    world.start(POLICY)
    directory = RUN / f"demo/{ALICE}"

    def released(**how: bool) -> str | None:
        error = operator_asks("Release", app="demo", uid=ALICE, **how).get("error")
        assert directory.exists() == (error is not None)
        return error

    user_asks(ALICE, "Request", app="demo")
    assert released() is None
    with socket.socket(socket.AF_UNIX) as live:
        user_asks(ALICE, "Request", app="demo")
        live.bind(f"{directory}/live")
        assert released() == IN_USE
        assert released(force=True) is None
    user_asks(ALICE, "Request", app="demo")
    as_user(ALICE, lambda: (directory / "sub").mkdir())  # nobody looks into that
    assert released() == IN_USE
    assert user_asks(ALICE, "Release", app="demo") == {}
    reply = operator_asks("Release", app="demo", uid=ALICE, force=True)
    assert refused(reply) == NO_SUCH_DIRECTORY


def test_nobody_releases_what_is_in_use(world: World) -> None:
    """Not even its owner, but by force; afterwards the name is free and the socket is gone.

    Taken out: the refusal of `_in_use` for the owner; then the directory goes.
    """
    world.start(POLICY)
    user_asks(ALICE, "Request", app="demo")
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(f"/run/demo/{ALICE}/live")
        assert refused(user_asks(ALICE, "Release", app="demo")) == IN_USE
        assert os.path.exists(f"/run/demo/{ALICE}/live")
        assert user_asks(ALICE, "Release", app="demo", force=True) == {}
        assert not os.path.exists(f"/run/demo/{ALICE}")
