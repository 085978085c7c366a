"""`sockbrokerctl why`: the questions that people ask, of real trees and real servers.

That its verdict is the kernel's, whatever the tree, is tested by test_why_agreement.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

from private_world import (
    ALICE,
    CLONE_NEWNET,
    CLONE_NEWNS,
    MALLORY,
    as_user,
    background,
    in_child,
    needs_root,
    unshare,
)
from why_world import (
    BOB,
    TEAM,
    Answer,
    as_bob,
    ctl,
    deciding,
    in_world,
    listening,
    marked,
    netcat,
    run_mend,
    wait_for,
    why,
)


@needs_root
@pytest.mark.parametrize("asks", [0, BOB])
def test_the_directory_is_open_and_nobody_can_connect(asks: int) -> None:
    """The umask took the socket's write bit; with umask 0 it does not; then the folder is shut.

    Asked by root for bob, and by bob for himself; each mend is run as it stands, and helps.
    """

    def ask(*arguments: str) -> tuple[int, str]:
        def run() -> tuple[int, str]:
            status, output, errors = ctl("/run/demo/s", *arguments)
            assert errors == ""
            return status, output

        return run() if asks == 0 else as_user(asks, run)

    def world() -> None:
        os.mkdir("/run/demo")
        os.chmod("/run/demo", 0o777)
        with netcat(ALICE, 0o022, "/run/demo/s"):
            assert as_bob("/run/demo/s") == "Permission denied"
            status, text = ask("--user", "bob")
            assert status == 77
            assert text.startswith("bob cannot connect to /run/demo/s: EACCES, Permission denied\n")
            assert marked(text).split() == [
                ">>", "srwxr-xr-x", "alice", "alice", "/run/demo/s", "others:", "no", "w",
            ]  # fmt: skip
            # In this folder names can be swapped, so root is not told to do it.
            assert "mend: as alice: chmod o+w /run/demo/s\n" in text
            assert "as root" not in text
            assert "bind: created with umask 022 it is 0755" in text
            run_mend(why("/run/demo/s", "--user", "bob"))
            assert as_bob("/run/demo/s") is None
            assert ask("--user", "bob")[0] == 0
        with netcat(ALICE, 0o000, "/run/demo/s"):
            assert as_bob("/run/demo/s") is None
            status, text = ask("--user", "bob")
            assert (status, ">>" in text) == (0, False)
            assert text.startswith("bob can connect to /run/demo/s\n")
            os.chmod("/run/demo", 0o600)
            assert as_bob("/run/demo/s") == "Permission denied"
            status, text = ask("--user", "bob")
            assert status == 77
            assert marked(text).split() == [
                ">>", "drw-------", "root", "root", "/run/demo", "others:", "no", "x",
            ]  # fmt: skip
            assert "mend: as root: chmod o+x /run/demo\n" in text
            run_mend(why("/run/demo/s", "--user", "bob"))
            assert as_bob("/run/demo/s") is None
            assert ask("--user", "bob")[0] == 0

    in_world(world)


@needs_root
def test_the_group_was_added_after_login() -> None:
    """The database has him in it, the process is not: a new session is the mend, not a chmod."""

    def world() -> None:
        os.mkdir("/run/demo")
        with listening("/run/demo/s", 0o770, gid=TEAM):
            session = subprocess.Popen(["sleep", "60"], user=BOB, group=BOB, extra_groups=[])
            child = session.pid
            answer = why("/run/demo/s", "--pid", str(child))
            assert (answer["can_connect"], answer["user"], answer["pid"]) == (False, "bob", child)
            assert answer["groups"] == [BOB]
            assert [mend["command"] for mend in answer["mends"]] == [None]
            assert "log in again: group team" in answer["mends"][0]["words"]
            assert any("the process lacks: team" in note for note in answer["notes"])
            # He may ask that of his own process.
            asked = as_user(BOB, lambda: why("/run/demo/s", "--pid", str(child)))
            assert asked["mends"] == answer["mends"]
            assert as_user(BOB, lambda: why("/run/demo/s"))["mends"] == answer["mends"]
            assert why("/run/demo/s", "--user", "bob")["can_connect"] is True
            assert as_bob("/run/demo/s") is None
            session.kill()
            session.wait()

    in_world(world)


@needs_root
def test_a_session_that_has_more_groups_than_the_database() -> None:
    """It can connect, and he could not if he logged in again."""

    def world() -> None:
        def ask() -> Answer:
            os.setgroups([TEAM])
            os.setresgid(ALICE, ALICE, ALICE)
            os.setresuid(MALLORY, MALLORY, MALLORY)
            return why("/run/s")

        with listening("/run/s", 0o770, gid=TEAM):
            answer = in_child(ask)
        assert answer["can_connect"] is True
        assert any("in a new session he could not" in note for note in answer["notes"])

    in_world(world)


@needs_root
def test_a_group_that_he_is_not_in() -> None:
    """He is to become a member, as the socket is the group's; root's group is nobody's to join."""

    def world() -> tuple[Answer, Answer]:
        with listening("/run/s", 0o770, gid=TEAM), listening("/run/t", 0o770, uid=0):
            return why("/run/s", "--user", "mallory"), why("/run/t", "--user", "mallory")

    teams, roots = in_world(world)
    assert teams["mends"][0] == {
        "as": ["root"],
        "command": "gpasswd -a mallory team",
        "words": "then log in again",
    }
    assert roots["mends"][0]["command"] == "chmod o+w /run/t"


@needs_root
def test_what_the_caller_may_not_see_is_unknown() -> None:
    """He is asked to run it as somebody who may, and mallory learns nothing."""

    def world() -> tuple[Answer, Answer]:
        os.mkdir("/run/demo")
        os.chown("/run/demo", ALICE, ALICE)
        os.chmod("/run/demo", 0o700)
        with listening("/run/demo/s"):
            return as_user(MALLORY, lambda: why("/run/demo/s", "--user", "alice")), as_user(
                MALLORY, lambda: why("/run/demo/nothing", "--user", "alice")
            )

    there, missing = in_world(world)
    assert there["can_connect"] is None
    assert deciding(there)["says"] == "you may not look at this"
    assert missing["can_connect"] is None
    assert there["mends"] == missing["mends"] != []


@needs_root
def test_root_has_capabilities() -> None:
    """They are told apart from the permissions, which he lacks."""

    def world() -> Answer:
        with listening("/run/s", 0o000):
            return why("/run/s", "--user", "root")

    answer = in_world(world)
    assert answer["can_connect"] is True
    assert answer["steps"][-2]["by"] == "capability"
    assert any("capabilities" in note for note in answer["notes"])


@needs_root
def test_users_that_the_database_does_not_have() -> None:
    """A uid is enough; it is in no group then."""

    def world() -> Answer:
        with listening("/run/s"):
            return why("/run/s", "--user", "5555")

    answer = in_world(world)
    assert (answer["can_connect"], answer["user"], answer["groups"]) == (True, None, [])
    assert any("does not have this user" in note for note in answer["notes"])


@needs_root
def test_processes_in_other_places() -> None:
    """Whose files, or abstract names, are others: that is said, and no verdict."""

    def world() -> tuple[Answer, Answer, Answer]:
        def leave() -> None:
            unshare(CLONE_NEWNS | CLONE_NEWNET)
            os.mkdir("/run/left")
            time.sleep(60)

        away = background(leave)
        wait_for("/run/left")
        with listening("/run/s"):
            return (
                why("/run/s", "--pid", str(away)),
                why("@s", "--pid", str(away)),
                as_user(BOB, lambda: why("/run/s", "--pid", str(away))),
            )

    path, abstract, by_bob = in_world(world)
    for answer, place in (
        (path, "another mount namespace"),
        (abstract, "another network namespace"),
        (by_bob, "only root or its user may know"),
    ):
        assert (answer["can_connect"], answer["steps"]) == (None, [])
        assert any(place in note for note in answer["notes"])


@needs_root
@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["/run/s", "--user", "nobody-has-this-name"], 1, "there is no user"),
        (["/run/s", "--user", "4294967295"], 1, "there is no user"),
        (["/run/s", "--pid", "4194305"], 1, "there is no process"),
        (["/run/s", "--pid", "x"], 2, "--pid"),
        (["/run/s", "--pid", "-1"], 2, "--pid"),
        (["/run/s", "--type", "raw"], 2, "--type"),
        (["/run/s", "--user", "bob", "--pid", "self"], 2, "--pid"),
        ([], 2, "why needs PATH"),
        (["a", "b"], 2, "no further operand"),
        (["@\\"], 1, "backslash"),
        ([""], 1, "the path is empty"),
        (["/run/s", "--user", "\x1b[2J"], 1, "there is no user"),
        (["/run/s", "--user", os.fsdecode(b"\xff")], 1, "there is no user"),
    ],
)
def test_what_cannot_be_asked(arguments: list[str], status: int, says: str) -> None:
    """One line says what is wrong."""
    found, output, errors = in_world(lambda: ctl(*arguments))
    assert (found, output) == (status, "")
    assert says in errors
    assert errors[:-1].isprintable()
    assert errors.count("\n") == 1


def test_json_is_stable() -> None:
    """Programs find these, whatever the answer."""
    status, output, _ = ctl("/nonexistent/socket", "--json")
    assert status == 77
    assert list(json.loads(output)) == [
        "path", "user", "uid", "groups", "pid", "type", "can_connect", "error", "cause",
        "deciding", "steps", "socket", "mends", "at_bind", "notes",
    ]  # fmt: skip
    assert list(json.loads(output)["steps"][0]) == [
        "path", "what", "allowed", "says", "kind", "mode", "uid", "gid", "acl", "by",
    ]  # fmt: skip
