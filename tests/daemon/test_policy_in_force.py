"""Which policy is in force: none that is bad or that others can write, and always one whole."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from peers import (
    DENIED,
    OBSTRUCTED,
    Line,
    Peer,
    ask,
    ask_all,
    encoded,
    granted,
    listed,
    operator_asks,
    refused,
    user_asks,
)
from running import (
    ALICE,
    BOB,
    CHAT,
    GUEST,
    MS_BIND,
    OPERATOR,
    RUN,
    Daemon,
    Manager,
    World,
    eventually,
    layout,
    mount,
    state,
    tree,
    umount,
)

pytestmark = pytest.mark.root

GOOD = "apps: {demo: {allow: {everyone: true}}}"

BAD = """\
uid_range: [2000, 1000]
apps:
  demo:
    allow: {users: [alice], evrybody: true}
    mode: 0750
  systemd: {}
  Demo: {}
  late:
    mode: "0777"
    deny: {users: [alice]}
    at_boot: {users: [alice]}
"""

PLACES = [(1, "uid_range"), (4, "evrybody"), (5, "0750"), (6, "systemd"), (7, "Demo"), (9, "0777")]
"""What is wrong in BAD by its text alone: the line, and a word that the problem names."""


def assert_all_told(problems: list[str], file: Path) -> None:
    """Every problem is there, at its place."""
    for line, word in PLACES:
        assert any(
            re.match(re.escape(f"{file}:{line}:") + r"\d+: ", problem) and word in problem
            for problem in problems
        ), (line, word, problems)


def not_started(daemon: Daemon) -> list[str]:
    """Why it did not start; nothing may be left of the try."""
    assert daemon.ended() == 65
    assert tree() == {}
    assert not (RUN / "sockbroker").exists() or os.listdir(RUN / "sockbroker") == []
    (event,) = daemon.log("not started")
    return list(event["problems"])


def test_a_bad_policy_at_the_start(world: World) -> None:
    """The daemon does not start, tells all problems with their places, and ends with 65.

    Taken out: what `read_policy` raises; then the daemon starts.
    """
    with Manager(world.own / "notify") as manager:
        daemon = world.begin(policy=BAD, environment=manager.environment())
        assert_all_told(not_started(daemon), world.policy)
        assert manager.next()["STATUS"].startswith(f"not started: {world.policy}:1:")


def test_an_at_boot_user_whom_the_app_denies(world: World) -> None:
    """That shows only when the names are looked up; it is as bad.

    Taken out: what `resolve` raises; then the daemon starts.
    """
    policy = "apps:\n  a:\n    deny: {users: [alice]}\n    at_boot: {users: [1001]}\n"
    (problem,) = not_started(world.begin(policy=policy))
    assert problem.startswith(f"{world.policy}:4:")


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "[]", "apps: {}\n---\napps: {}\n", "apps: {a: &x {}, b: *x}", "\0"]
)
def test_no_policy_at_all(world: World, text: str) -> None:
    """What says nothing, or not what it seems to say, is no policy.

    Taken out: what `read_policy` raises; then the daemon starts.
    """
    assert not_started(world.begin(policy=text))


@pytest.mark.parametrize("how", ["signal", "call"])
def test_a_bad_reload(world: World, how: str) -> None:
    """The old policy stays in force, status says why, and a good one later is taken.

    Taken out: that `Generation._refuse` keeps the problems; then status has none.
    """
    daemon = world.start(GOOD)
    user_asks(ALICE, "Request", app="demo")
    before = tree()
    world.write(BAD)
    if how == "signal":
        daemon.process.send_signal(signal.SIGHUP)
    else:
        reply = operator_asks("Reload")
        assert refused(reply) == "io.sockbroker.PolicyInvalid"
        assert_all_told(reply["parameters"]["problems"], world.policy)
    event = daemon.wait_for("policy not taken")
    assert_all_told(event["problems"], world.policy)
    status = operator_asks("Status")["parameters"]
    assert_all_told(status["policyError"].split("\n"), world.policy)
    assert status["policyGeneration"] == 1
    assert tree() == before
    assert granted(user_asks(BOB, "Request", app="demo"))[1] == "created"
    assert "policyError" not in ask("Status")["parameters"]  # only operators are told
    world.write(GOOD)
    assert operator_asks("Reload")["parameters"] == {"policyGeneration": 2, "problems": []}
    assert "policyError" not in operator_asks("Status")["parameters"]


def owned_by_a_user(policy: Path) -> None:
    """Whoever owns it can write it."""
    os.chown(policy, ALICE, -1)


def writable_by_its_group(policy: Path) -> None:
    """Even if that is root's."""
    policy.chmod(0o660)


def writable_by_all(policy: Path) -> None:
    """By anybody."""
    policy.chmod(0o606)


def a_link(policy: Path) -> None:
    """Even to a file that would do."""
    policy.rename(policy.with_name("target"))
    policy.symlink_to("target")


def a_fifo(policy: Path) -> None:
    """Which would block whoever opens it."""
    policy.unlink()
    os.mkfifo(policy)


def a_directory(policy: Path) -> None:
    """Nothing that can be read."""
    policy.unlink()
    policy.mkdir()


def missing(policy: Path) -> None:
    """Nothing there."""
    policy.unlink()


def too_large(policy: Path) -> None:
    """More than 4 MiB."""
    policy.write_text(GOOD + "#" * (4 << 20))


def in_a_folder_of_a_user(policy: Path) -> None:
    """Who can put another one in its place."""
    os.chown(policy.parent, ALICE, -1)


def in_a_writable_folder(policy: Path) -> None:
    """Sticky or not."""
    policy.parent.chmod(0o1777)


SPOILED = [
    owned_by_a_user,
    writable_by_its_group,
    writable_by_all,
    a_link,
    a_fifo,
    a_directory,
    missing,
    too_large,
    in_a_folder_of_a_user,
    in_a_writable_folder,
]


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_policy_that_is_not_roots_alone(world: World, spoil: Callable[[Path], None]) -> None:
    """It is refused at a reload and at a start, with the reason; at a reload the old one stays.

    Taken out: `policyfile._check`, `root_path._check`, O_NOFOLLOW, O_NONBLOCK with S_ISREG, and
    both limits of the size; with each, one of these is taken or stalls it.
    """
    world.policy = world.own / "folder/sockbroker.yaml"
    world.policy.parent.mkdir(mode=0o755)
    world.policy.write_text(GOOD)
    running = world.start()
    spoil(world.policy)
    began = time.monotonic()
    reply = operator_asks("Reload")
    assert refused(reply) == "io.sockbroker.PolicyInvalid"
    assert time.monotonic() - began < 10
    (problem,) = reply["parameters"]["problems"]
    assert str(world.policy.parent) in problem
    assert operator_asks("Status")["parameters"]["policyError"] == problem
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    running.kill()
    again = world.begin()
    assert again.ended() == 65
    assert again.log("not started")[0]["problems"] == [problem]


def test_a_half_written_policy(world: World) -> None:
    """A file that is being written in place is taken when it is whole, and not before.

    Taken out: what `read_policy` raises; then half of it is taken.
    """
    world.start(GOOD)
    text = "apps:\n  demo: {allow: {everyone: true}}\n  more: {allow: {users: [alice]}}\n"
    with world.policy.open("w") as file:
        for piece in ("apps:\n  demo: {allow: {every", "one: true}}\n  more: {allow: {users: [al"):
            file.write(piece)
            file.flush()
            assert refused(operator_asks("Reload")) == "io.sockbroker.PolicyInvalid"
            assert granted(user_asks(BOB, "Request", app="demo"))
        file.write("ice]}}\n")
    assert world.policy.read_text() == text
    assert operator_asks("Reload")["parameters"]["policyGeneration"] == 2
    assert granted(user_asks(ALICE, "Request", app="more"))[1] == "created"


def test_a_reload_brings_the_disk_to_the_policy_before_it_answers(world: World) -> None:
    """When Reload is answered every directory has its new mode and group, and at_boot is made.

    Taken out: that `_finish` comes after the disk; then the old modes are still there.
    """
    users = 'users: ["2000-2999"]'
    world.start(f"apps: {{demo: {{allow: {{{users}}}, at_boot: {{{users}}}}}}}")
    world.write(
        f"""\
apps:
  demo: {{allow: {{{users}}}, at_boot: {{{users}}}, mode: "2750", group: chat}}
  new: {{allow: {{users: [alice]}}, at_boot: {{users: [alice]}}, parent: {{mode: "0700"}}}}
"""
    )
    assert operator_asks("Reload")["parameters"] == {"policyGeneration": 2, "problems": []}
    expected = {f"{uid}": (uid, CHAT, "2750") for uid in range(2000, 3000)}
    assert tree() == {
        **layout({"demo": expected, "new": {f"{ALICE}": (ALICE, ALICE, "0700")}}),
        "new": (0, 0, "0700"),
    }


def test_an_app_leaves_the_policy_and_comes_back(world: World) -> None:
    """Its directories stay, shown as orphaned; owners can release them; then they are ok again.

    Taken out: the orphans of `layout.bring`; then they are not listed.
    """
    world.start(GOOD)
    for uid in (ALICE, BOB):
        user_asks(uid, "Request", app="demo")
    (RUN / f"demo/{BOB}" / "kept").touch()
    before = tree()
    world.write("apps: {}")
    operator_asks("Reload")
    assert tree() == before
    assert {each["state"] for each in listed(ask_all("List", at=OPERATOR))} == {"orphaned"}
    assert refused(user_asks(ALICE, "Request", app="demo")) == DENIED
    assert user_asks(ALICE, "Release", app="demo") == {}
    world.write(GOOD)
    operator_asks("Reload")
    (left,) = listed(ask_all("List", at=OPERATOR))
    assert (left["uid"], left["state"]) == (BOB, "ok")
    assert (RUN / f"demo/{BOB}/kept").exists()


APPS = [f"app-{number}" for number in range(16)]


def version(number: int) -> str:
    """A policy that allows either the even or the odd apps."""
    rules = [
        f"  {app}: {{{'allow' if index % 2 == number % 2 else 'deny'}: {{users: [1001]}}}}\n"
        for index, app in enumerate(APPS)
    ]
    return "apps:\n  always: {allow: {everyone: true}}\n" + "".join(rules)


def test_a_thousand_reloads_under_load(world: World) -> None:
    """Each reload by rename puts one whole policy in force; nobody ever meets a mixture of two.

    Taken out: that a policy is put in force by one assignment (half of the apps came later).
    """
    world.start(version(0))
    ours, theirs = socket.socketpair()
    calls = b"".join(encoded("Request", {"app": app}) for app in ("always", *APPS))

    def pattern(line: Line) -> list[int]:
        """For which apps, by number, the policy of now is version 1."""
        line.send(calls)
        assert "error" not in line.reply()
        replies = [line.reply() for _ in APPS]
        assert {reply.get("error") for reply in replies} <= {None, DENIED}
        return [int(("error" in reply) == (i % 2 == 0)) for i, reply in enumerate(replies)]

    def ask_all_the_time() -> int:
        most = 0
        theirs.setblocking(False)
        with Line() as line:
            while True:
                seen = pattern(line)
                most = max(most, sum(a != b for a, b in itertools.pairwise(seen)))
                try:
                    theirs.recv(1)
                except BlockingIOError:
                    continue
                return most

    peers = [Peer(ALICE, ask_all_the_time) for _ in range(2)]

    def reload_and_ask() -> None:
        os.setresuid(-1, ALICE, -1)
        line = Line()
        os.setresuid(-1, 0, -1)
        with line, Line(OPERATOR) as operator:
            for number in range(1, 1001):
                world.write(version(number))
                reply = operator.call("Reload")
                assert reply["parameters"]["policyGeneration"] == number + 1
                seen = pattern(line)
                assert seen == [number % 2] * len(APPS), (number, seen)

    Peer(0, reload_and_ask).result()
    ours.send(b"..")
    # A row of calls may meet a reload, or two; a mixture would change with every app.
    assert max(peer.result() for peer in peers) <= 2
    ours.close()
    theirs.close()


# A user database that does not answer.


def hang(world: World) -> None:
    """Whoever looks a group up waits for ever from now on."""
    fifo = world.own / "fifo"
    if not fifo.exists():
        os.mkfifo(fifo)
    mount(str(fifo), Path("/etc/group"), flags=MS_BIND)


def recover() -> None:
    """The database answers again, also those who still wait."""
    descriptor = os.open("/etc/group", os.O_RDWR | os.O_NONBLOCK)
    umount(Path("/etc/group"))
    os.close(descriptor)


STUCK = """\
apps:
  demo: {allow: {everyone: true}}
  denying: {allow: {everyone: true}, deny: {groups: [guests]}}
  allowing: {allow: {users: [alice], groups: [chat]}}
  grouped: {allow: {everyone: true}, group: chat}
"""


def test_a_start_while_names_cannot_be_looked_up(world: World) -> None:
    """It starts, denies where it cannot know, says so, and makes up for it when names are back.

    Taken out: `deny_all` of `resolution`; then whom it should deny is allowed.
    """
    hang(world)
    began = time.monotonic()
    world.start(STUCK)
    assert time.monotonic() - began < 30
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    assert refused(user_asks(ALICE, "Request", app="denying")) == DENIED
    assert granted(user_asks(ALICE, "Request", app="allowing"))[1] == "created"
    assert refused(user_asks(BOB, "Request", app="allowing")) == DENIED
    assert refused(user_asks(ALICE, "Request", app="grouped")) in {DENIED, OBSTRUCTED}
    status = operator_asks("Status")["parameters"]
    assert status["state"] == "degraded"
    for line, word in ((3, "guests"), (4, "chat"), (5, "chat")):
        assert any(f":{line}:" in each and word in each for each in status["problems"]), status
    recover()
    eventually("known", lambda: "error" not in user_asks(ALICE, "Request", app="grouped"))
    assert state(RUN / f"grouped/{ALICE}") == (ALICE, CHAT, "0700")
    assert granted(user_asks(ALICE, "Request", app="denying"))[1] == "created"
    assert refused(user_asks(GUEST, "Request", app="denying")) == DENIED
    assert operator_asks("Status")["parameters"]["state"] == "running"


def test_a_reload_while_names_cannot_be_looked_up(world: World) -> None:
    """The new policy is in force in bounded time, and nobody waits meanwhile.

    Taken out: `deny_all` of `resolution` (whom it should deny is allowed then), and the worker of
    `Loader._submit` (everybody waits then).
    """
    world.start(STUCK)
    hang(world)
    world.write(STUCK + "  later: {allow: {everyone: true}}\n")
    answers: list[dict[str, object]] = []
    reloading = threading.Thread(target=lambda: answers.append(operator_asks("Reload")))
    reloading.start()
    longest = 0.0
    try:
        while not answers:
            before = time.monotonic()
            with Line() as line:
                refused(line.call("Request", app="demo"))  # root is nobody in particular
            longest = max(longest, time.monotonic() - before)
            time.sleep(0.05)
    finally:
        reloading.join()
    assert longest < 4  # it would be more than five
    assert "parameters" in answers[0], answers
    assert granted(user_asks(ALICE, "Request", app="later"))[1] == "created"
    assert refused(user_asks(ALICE, "Request", app="denying")) == DENIED
    assert refused(operator_asks("Request", app="demo", uid=BOB)) == DENIED  # groups: not known
    recover()
    eventually("known", lambda: "error" not in user_asks(ALICE, "Request", app="denying"))
    assert granted(operator_asks("Request", app="demo", uid=BOB))[1] == "created"


def test_many_reloads_while_names_cannot_be_looked_up(world: World) -> None:
    """However often it is asked to reload, one thread waits for the database and no more.

    Taken out: the lock `accounts._TURN`; then there are three.
    """
    daemon = world.start(STUCK)
    operator_asks("Reload")  # begins a worker, which stays
    before = len(os.listdir(f"/proc/{daemon.pid}/task"))
    hang(world)
    for _ in range(3):
        assert "parameters" in operator_asks("Reload")
    assert len(os.listdir(f"/proc/{daemon.pid}/task")) <= before + 1
    recover()
    shutil.rmtree(RUN / "demo")
    eventually("well", lambda: operator_asks("Reload")["parameters"]["problems"] == [])
    assert state(RUN / "demo") == (0, 0, "0711")
