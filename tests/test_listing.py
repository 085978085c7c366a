"""What List writes about a directory, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from private_world import in_private_world
from sockbroker import listing
from sockbroker.core.policy import Policy
from sockbroker.core.service import Failed, Failure
from sockbroker.core.varlink import encode_reply, encode_written
from sockbroker.kernel.app_folder import Folder, Parent
from sockbroker.kernel.directories import Base
from sockbroker.kernel.survey import Sight
from sockbroker.kernel.usage import Usage
from sockbroker.listing import SECONDS_OF_A_TURN, Listing, _Texts

USERS = {1: "ann", 2: 'a"\\b', 3: "z\u00fc\x00\u2028", 4: "null", 5: "", 6: "%s{}"}
GROUPS = {7: "staff", 8: '"},{', 9: "\u00e4"}
SIGHTS = [
    Sight(mode, gid, acl, obstruction, usage)
    for mode in (0o700, 0o2750)
    for gid in (7, 8, 9, 10)
    for acl in (False, True)
    for obstruction in (None, "is a file")
    for usage in (Usage(False, 0), Usage(True, 3), Usage(True, None), Usage(None, None))
]


def policy(*, served: bool = True, known: bool = True) -> Policy:
    """Give as much of a policy as the list asks for."""
    apps = {"chat": SimpleNamespace(mode=0o700, gid=7)} if known and served else {}
    unserved = frozenset() if served else frozenset({"chat"})
    return cast(
        Policy,
        SimpleNamespace(apps=apps, unserved=unserved, user_names=USERS, group_names=GROUPS),
    )


def state(sight: Sight, policy: Policy) -> str:
    """Say what the documentation says."""
    if "chat" in policy.unserved:
        return "unserved"
    if "chat" not in policy.apps:
        return "orphaned"
    if sight.obstruction is not None:
        return "obstructed"
    return "drifted" if sight.acl or sight.mode != 0o700 or sight.gid != 7 else "ok"


@pytest.mark.parametrize("policy", [policy(), policy(served=False), policy(known=False)])
@pytest.mark.parametrize("base", ["/run", '/srv/"odd\\\u00e4'])
def test_what_is_written_is_what_the_reply_would_be(policy: Policy, base: str) -> None:
    """What directories have in common is written once; the bytes are those of each whole reply.

    Seen to fail where a name is not quoted, and where what was written of one sight is used for
    another.
    """
    texts = _Texts(Folder(-1, f"{base}/chat", "chat"), policy)
    for number, sight in enumerate([*SIGHTS, *SIGHTS]):
        uid = number % 8
        reply = {
            "directory": {
                "app": "chat",
                "uid": uid,
                "userName": USERS.get(uid),
                "gid": sight.gid,
                "groupName": GROUPS.get(sight.gid),
                "path": f"{base}/chat/{uid}",
                "mode": f"{sight.mode:04o}",
                "state": state(sight, policy),
                "inUse": sight.usage.in_use,
                "sockets": sight.usage.sockets,
            }
        }
        assert encode_written([texts.text(uid, sight)]) == encode_reply(reply)


@pytest.mark.parametrize("seconds", [SECONDS_OF_A_TURN / 4, SECONDS_OF_A_TURN * 2])
def test_others_have_their_turn(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """While the names are read, and while the directories are looked at, however long each takes.

    Seen to fail where the clock is not looked at in either of the two.
    """
    clock = 0.0
    done: list[str] = []

    def step(what: str) -> None:
        nonlocal clock
        clock += seconds
        done.append(what)

    class SlowFolder(nullcontext[object]):
        app, path = "chat", "/run/chat"

        def uids(self) -> Iterator[int]:
            for uid in range(40):
                step("name")
                yield uid

        def state(self, *_: object) -> str:
            return "ok"

    def look(_uid: int) -> Sight:
        step("look")
        return SIGHTS[0]

    base = SimpleNamespace(path="/run", find=lambda _app: SlowFolder())
    monkeypatch.setattr(listing.time, "monotonic", lambda: clock)
    monkeypatch.setattr(listing, "Survey", lambda *_: SimpleNamespace(look=look))
    generation = SimpleNamespace(policy=policy(), folders=["chat"])
    nobody = cast(Any, None)
    lister = Listing(cast(Any, generation), cast(Any, SimpleNamespace(base=base)), nobody, nobody)
    turns, replies = [], 0
    for written in lister._directories(None, None, None, nobody):
        turns.append(len(done))
        replies += len(written or ())
        done.clear()
    assert max(turns) * seconds <= SECONDS_OF_A_TURN + seconds
    assert replies == 40


@pytest.mark.root
def test_others_have_their_turn_where_there_is_nothing() -> None:
    """A policy may have tens of thousands of apps, none with a directory or even a folder.

    Seen to fail where the clock is only looked at for directories.
    """
    apps = [f"app-{number:0>2}" for number in range(40)]

    def world() -> int:
        with Base.open("/run") as base, pytest.MonkeyPatch.context() as patch:
            for app in apps[::2]:
                base.folder(app, Parent(mode=0o711, gid=0), adopt=False).close()
            patch.setattr(listing, "SECONDS_OF_A_TURN", -1)  # whatever was done, it took too long
            generation = SimpleNamespace(policy=policy(), folders=apps)
            folders = SimpleNamespace(base=base)
            nobody = cast(Any, None)
            lister = Listing(cast(Any, generation), cast(Any, folders), nobody, nobody)
            turns = 0
            with suppress(Failed):
                for written in lister._directories(None, None, None, Failure("nothing")):
                    assert written is None
                    turns += 1
            return turns

    assert in_private_world(world) == len(apps)
