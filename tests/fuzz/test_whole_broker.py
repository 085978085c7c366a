"""The whole broker against a model: whatever happens in whatever order, the tree is the model's.

Real users ask the real daemon, spoil what is theirs, and it is killed at any moment.  As long as
one likes: see `test_fuzzing.py`.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from drawing import One, apps, groups, ones, owners, policies, users
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from model import GROUPS, MEMBERS, PRIMARY, Model, Policy, text
from peers import (
    NO_SUCH_DIRECTORY,
    PERMISSION_DENIED,
    Peer,
    Reply,
    as_user,
    ask,
    ask_all,
    operator_asks,
    refused,
)
from running import ALICE, BOB, CHAT, OPERATOR, RUN, Daemon, eventually, private_world, state
from tricks import attempt, fill_up

pytestmark = pytest.mark.root

MOST_RESIDENT = 64 * 1024
"""KiB of a daemon at the end of its history; at the start it has half of that."""

MOST_DESCRIPTORS = 40

SPOILED_MODES = [0, 0o500, 0o700, 0o755, 0o777, 0o1777]
BAD_POLICIES = [
    "",
    "apps: {one: {}\n",
    "apps: {one: {mode: 0700}}",
    "apps: {Big: {}}",
    "apps: {}\r",
]


def outcome(reply: Reply) -> str:
    """The outcome of a call, or its error."""
    return refused(reply) if "error" in reply else str(reply["parameters"]["outcome"])


def seen() -> dict[str, tuple[int, int, str]]:
    """The tree, as the model shows it, without what waits to be deleted."""
    found = {}
    for folder in sorted(RUN.iterdir()):
        if folder.name in {"sockbroker", ".sockbroker.lock"}:
            continue
        found[folder.name] = state(folder)
        for name in sorted(os.listdir(folder)):
            if not name.startswith(".old-"):
                uid, gid, mode = state(folder / name)
                acl = "+" if os.listxattr(folder / name) else ""
                found[f"{folder.name}/{name}"] = (uid, gid, mode + acl)
    return dict(sorted(found.items()))


def step(**arguments: Any) -> Callable[[Any], Any]:
    """Make a rule of a function, which does nothing once the time is over.

    What hypothesis draws must not depend on the time, nor on what a kill came to; so there are no
    preconditions, and an owner is drawn as a number.
    """

    def decorate(act: Any) -> Any:
        @wraps(act)
        def act_in_time(self: WholeBroker, **drawn: Any) -> None:
            if not self.going:
                return
            try:
                act(self, **drawn)
            except BaseException:
                WholeBroker.end = math.inf  # what failed is tried again until it is short
                raise

        return rule(**arguments)(act_in_time)

    return decorate


class WholeBroker(RuleBasedStateMachine):
    """Everything that users, operators, administrators and accidents do."""

    histories = steps = 0
    end = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.started = False
        self.stack = ExitStack()
        self.model = Model({})
        self.servers: dict[tuple[str, int], Peer[Any]] = {}
        self.bound = 0

    @initialize(policy=policies)
    def start(self, policy: Policy) -> None:
        if time.monotonic() > self.end:
            return  # hypothesis counts histories and not seconds: those that are left are empty
        WholeBroker.histories += 1
        self.world = self.stack.enter_context(private_world())
        self.daemon: Daemon = self.world.start(text(policy))
        self.model.bring(policy)
        self.started = True

    @property
    def going(self) -> bool:
        """Whether there is a daemon, and time."""
        return self.started and time.monotonic() < self.end

    def teardown(self) -> None:
        with self.stack:
            for peer in list(Peer.running):
                peer.end()
            if hasattr(self, "daemon"):
                assert self.daemon.log("fault") == []
                assert self.daemon.resident() < MOST_RESIDENT
                assert self.daemon.descriptors() < MOST_DESCRIPTORS
                self.daemon.end()

    @invariant()
    def the_tree_is_the_models(self) -> None:
        if not self.going:
            return
        WholeBroker.steps += 1
        found = seen()
        if found != self.model.tree():
            WholeBroker.end = math.inf
        assert found == self.model.tree()
        eventually("what was released is deleted", lambda: not list(RUN.glob("*/.old-*")))

    # What users ask for.

    @step(one=ones, groups=groups, gid=st.sampled_from([None, CHAT]))
    def request(self, one: One, groups: frozenset[int], gid: int | None) -> None:
        app, uid = self._one(one)
        gid = gid or PRIMARY[uid]
        reply = as_user(uid, lambda: ask("Request", app=app), gid=gid, groups=sorted(groups))
        assert outcome(reply) == self.model.request(app, uid, gid, groups)

    @step(one=ones, groups=groups, force=st.booleans())
    def release(self, one: One, groups: frozenset[int], force: bool) -> None:
        app, uid = self._one(one)
        gid = PRIMARY[uid]
        reply = as_user(
            uid, lambda: ask("Release", app=app, force=force), gid=gid, groups=sorted(groups)
        )
        expected = self.model.release(
            app,
            uid,
            allowed=self.model.allows(app, uid, {gid, *groups}),
            in_use=(app, uid) in self.servers and not force,
        )
        assert reply.get("error", "") == expected
        if not expected and (app, uid) in self.servers:
            self.servers.pop((app, uid)).end()

    @step(which=owners)
    def release_in_use(self, which: int) -> None:
        """What the rule above rarely meets."""
        if self.servers:
            app, uid = sorted(self.servers)[which % len(self.servers)]
            reply = as_user(uid, lambda: ask("Release", app=app), gid=PRIMARY[uid])
            assert refused(reply) == self.model.release(app, uid, allowed=True, in_use=True)

    @step(app=apps, uid=users, other=users, method=st.sampled_from(["Request", "Release"]))
    def meddle(self, app: str, uid: int, other: int, method: str) -> None:
        if other != uid:
            reply = as_user(uid, lambda: ask(method, app=app, uid=other), gid=PRIMARY[uid])
            assert refused(reply) == PERMISSION_DENIED

    @step(name=st.sampled_from(["..", "one/../two", "", "One", ".sockbroker", "a" * 32, "één"]))
    def ask_for_nonsense(self, name: str) -> None:
        for method in ("Request", "Release"):
            reply = as_user(ALICE, lambda m=method: ask(m, app=name))
            assert refused(reply) == "io.sockbroker.InvalidApp"

    # What operators and administrators do.

    @step(app=apps, uid=users)
    def operator_requests(self, app: str, uid: int) -> None:
        groups = [gid for gid, members in MEMBERS.items() if uid in members]
        expected = self.model.request(app, uid, PRIMARY[uid], groups)
        assert outcome(operator_asks("Request", app=app, uid=uid)) == expected

    @step()
    def operator_lists(self) -> None:
        replies = ask_all("List", at=OPERATOR)
        if not self.model.directories:
            assert refused(replies[0]) == NO_SUCH_DIRECTORY
            return
        found = [reply["parameters"]["directory"] for reply in replies]
        listed = {(each["app"], each["uid"]): (each["state"], each["mode"]) for each in found}
        assert listed == {
            key: (self.model.state(*key), f"{directory.mode:04o}")
            for key, directory in self.model.directories.items()
        }

    @step(policy=policies)
    def reload(self, policy: Policy) -> None:
        self.world.write(text(policy))
        reply = operator_asks("Reload")
        assert "error" not in reply, reply
        self.model.bring(policy)

    @step(bad=st.sampled_from(BAD_POLICIES))
    def reload_badly(self, bad: str) -> None:
        self.world.write(bad)
        assert refused(operator_asks("Reload")) == "io.sockbroker.PolicyInvalid"
        self.world.write(text(self.model.policy))

    # Accidents.

    @step(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        if kill:
            self.daemon.kill()
        else:
            self.daemon.end()
        self._start_again()

    @step(
        app=apps,
        asking=st.dictionaries(users, st.sampled_from(["Request", "Release"]), min_size=1),
        milliseconds=st.integers(0, 30),
    )
    def kill_while_asked(self, app: str, asking: dict[int, str], milliseconds: int) -> None:
        """What was asked is done or not, and nothing is half done."""
        peers = [
            Peer(uid, lambda m=method: attempt(lambda: ask(m, app=app)), gid=PRIMARY[uid])
            for uid, method in asking.items()
        ]
        time.sleep(milliseconds / 1000)
        self.daemon.kill()
        for peer in peers:
            peer.result()
        # A release makes room under the limit for who asks, and a request takes none from it.
        for uid, method in sorted(asking.items(), key=lambda each: each[1] != "Release"):
            there = (RUN / app / str(uid)).exists()
            if there and method == "Request":
                self.model.request(app, uid, PRIMARY[uid], ())
            elif not there and method == "Release":
                self.model.release(app, uid, allowed=True, in_use=(app, uid) in self.servers)
        self._start_again()

    def _start_again(self) -> None:
        assert self.daemon.log("fault") == []
        self.daemon = self.world.start()
        self.model.bring(self.model.policy)

    # What owners do to what is theirs.

    def _owned(self, which: int) -> tuple[str, int, Path] | None:
        """One of the directories that there are."""
        directories = sorted(self.model.directories)
        if not directories:
            return None
        app, uid = directories[which % len(directories)]
        return app, uid, RUN / app / str(uid)

    def _one(self, one: One) -> tuple[str, int]:
        """An app and a user: these, or those of one of the directories that there are."""
        if isinstance(one, tuple):
            return one
        return (self._owned(one) or ("one", ALICE))[:2]

    @step(which=owners, mode=st.sampled_from(SPOILED_MODES))
    def change_mode(self, which: int, mode: int) -> None:
        if (owned := self._owned(which)) is None:
            return
        app, uid, path = owned
        as_user(uid, lambda: path.chmod(mode))
        self.model.change(app, uid, mode=mode)

    @step(which=owners, gid=st.sampled_from(sorted(GROUPS)))
    def change_group(self, which: int, gid: int) -> None:
        if (owned := self._owned(which)) is None:
            return
        app, uid, path = owned
        as_user(uid, lambda: os.chown(path, -1, gid), groups=[gid])
        self.model.change(app, uid, gid=gid)

    @step(which=owners)
    def set_acl(self, which: int) -> None:
        if (owned := self._owned(which)) is None:
            return
        app, uid, path = owned
        command = ["setfacl", "-m", f"u:{BOB}:rwx,d:u:{BOB}:rwx", str(path)]
        as_user(uid, lambda: subprocess.run(command, check=True) and None)
        mode = state(path)[2]
        self.model.change(app, uid, acl=True, mode=int(mode, 8))

    @step(which=owners)
    def fill(self, which: int) -> None:
        if (owned := self._owned(which)) is None:
            return
        app, uid, path = owned
        as_user(uid, lambda: fill_up(path))
        self.model.change(app, uid, mode=0o700)

    @step(which=owners)
    def break_out(self, which: int) -> None:
        """The name of the directory, and its place, are not its owner's."""
        if (owned := self._owned(which)) is None:
            return
        _, uid, path = owned
        others = path.with_name("1")
        for act in (
            lambda: path.rename(others),
            path.rmdir,
            others.mkdir,
            lambda: others.symlink_to("/etc"),
            lambda: path.parent.chmod(0o777),
            lambda: os.chown(path, BOB if uid != BOB else ALICE, -1),
        ):
            assert as_user(uid, lambda a=act: attempt(a)) in {"PermissionError", "OSError"}

    @step(which=owners)
    def serve(self, which: int) -> None:
        """A process of the owner listens in it: it is in use from now on."""
        if (owned := self._owned(which)) is None or owned[:2] in self.servers:
            return
        app, uid, directory = owned
        self.bound += 1
        path = directory / f"{self.bound}.sock"

        def serve() -> None:
            directory.chmod(0o700)
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
                server.listen()
                time.sleep(600)

        self.servers[app, uid] = Peer(uid, serve)
        eventually("bound", lambda: f" {path}\n" in Path("/proc/net/unix").read_text())
        self.model.change(app, uid, mode=0o700)


@pytest.mark.fuzzer(seconds=8)
def test_the_tree_is_always_the_models(fuzz_seconds: float, tried: list[str]) -> None:
    """After each step of any history, nothing is missing, left over, too wide or half made."""
    WholeBroker.histories = WholeBroker.steps = 0
    began = time.monotonic()
    WholeBroker.end = began + fuzz_seconds
    run_state_machine_as_test(
        WholeBroker,
        settings=settings(
            max_examples=2 + int(fuzz_seconds),  # no history takes less than a second
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    tried.append(
        f"the whole broker: {WholeBroker.steps} steps in {WholeBroker.histories} histories, "
        f"{time.monotonic() - began:.0f} s"
    )
