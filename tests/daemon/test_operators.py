"""What only operators may do, and only on the socket that is theirs."""

from __future__ import annotations

import pytest
from peers import (
    DENIED,
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
    """Uid 0 on the abstract socket or the path gets nothing that another uid would not get."""
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
    """Nobody else can connect to it, and what root may do there is more than others may."""
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
    """An operator's Request for a user is decided as the user's own, with the database's groups."""
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
    """Another user's directory goes only by force as long as its use is unknown."""
    world.start(POLICY)
    user_asks(ALICE, "Request", app="demo")
    reply = operator_asks("Release", app="demo", uid=ALICE)
    assert refused(reply) == "io.sockbroker.InUse"
    assert (RUN / f"demo/{ALICE}").exists()
    assert operator_asks("Release", app="demo", uid=ALICE, force=True) == {}
    assert not (RUN / f"demo/{ALICE}").exists()
    reply = operator_asks("Release", app="demo", uid=ALICE, force=True)
    assert refused(reply) == NO_SUCH_DIRECTORY
