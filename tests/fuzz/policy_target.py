"""The fuzzers' promise about policies: any text is a policy, or every problem has its place."""

from __future__ import annotations

import re
from collections.abc import Sequence

from seeds import unfolded
from yaml import load
from yaml.cyaml import CBaseLoader

from sockbroker.core.accounts import Absent, Accounts, Group, Unavailable, User
from sockbroker.core.modes import runtime_mode_faults
from sockbroker.core.names import RESERVED_NAMES, is_app_name
from sockbroker.core.policy import MAX_PROBLEMS, Document, Policy, PolicyError
from sockbroker.core.policy_reader import read_policy
from sockbroker.core.resolution import lookups, resolve

FILE = "/etc/p.yaml"

LONGEST_REPEATED = 16 * 1024
"""Bytes of an input that is repeated."""

LONGEST_PROBLEM = 500
"""Characters of one problem: what it quotes of the file is cut."""

_PROBLEM = re.compile(re.escape(FILE) + r":([1-9][0-9]*):([1-9][0-9]*): (.+)")


def resolved(text: bytes) -> Policy:
    """The policy as it holds on a machine whose user database we are."""
    return _resolved(read_policy(text, FILE))


def _resolved(document: Document) -> Policy:
    """Know the names that begin with a to l, of which those with a c are without an answer."""
    wanted = lookups(document)
    silent = Unavailable("no answer in time")

    def known(name: str, entry: User | Group) -> User | Group | Absent | Unavailable:
        return silent if name.startswith("c") else entry if name < "m" else Absent()

    accounts = Accounts(
        users={name: known(name, User(name, 1000 + len(name), 100)) for name in wanted.users},
        groups={
            name: known(name, Group(name, 1000 + len(name), frozenset({1005})))
            for name in wanted.groups
        },
        gids={gid: Group(f"g{gid}", gid) if gid % 2 else Absent() for gid in wanted.gids},
        entries={uid: User(f"u{uid}", uid, 100) if uid % 2 else silent for uid in wanted.uids},
        primary={100: frozenset({1001, 1005})},
    )
    return resolve(document, accounts, (1000, 60000))


def policy(data: bytes) -> None:
    """Only PolicyError is raised, every problem has its place, and what is taken says no less."""
    data = unfolded(data, LONGEST_REPEATED)
    try:
        document = read_policy(data, FILE)
    except PolicyError as error:
        _have_places(error.problems, data)
        return
    _is_what_it_says(document, data)
    try:
        _resolved(document)
    except PolicyError as error:
        _have_places(error.problems, data)


def _have_places(problems: Sequence[str], data: bytes) -> None:
    """Each is one line that a terminal can show, at a place that the file has, in its order."""
    assert 0 < len(problems) <= MAX_PROBLEMS + 1
    # An editor counts characters; where a byte is none, no place behind it is ever named.
    lines = [*data.decode("utf-8", "replace").split("\n"), ""]  # YAML ends a line that does not
    places = []
    for problem in problems:
        match = _PROBLEM.fullmatch(problem)
        assert match is not None, problem
        assert problem.isprintable(), problem
        assert len(problem) <= LONGEST_PROBLEM, problem
        line, column = int(match[1]), int(match[2])
        assert line <= len(lines), problem
        assert column <= len(lines[line - 1]) + 1, problem
        places.append((line, column))
    assert places == sorted(places), problems


def _is_what_it_says(document: Document, data: bytes) -> None:
    """Any other reader of YAML sees the same apps, and none has what no app may have."""
    seen = load(data.decode(), CBaseLoader)  # noqa: S506 - reads texts alone, and makes no objects
    assert seen is not None
    assert seen.keys() <= {"apps", "uid_range"}, seen
    assert list(seen["apps"]) == list(document.apps), seen
    for name, app in document.apps.items():
        assert is_app_name(name), name
        assert name not in RESERVED_NAMES, name
        assert not list(runtime_mode_faults(app.mode, has_group=app.group is not None)), app
        assert app.max_directories >= 1, app
        for key, selection in (("allow", app.allow), ("deny", app.deny), ("at_boot", app.at_boot)):
            said = seen["apps"][name].get(key, {})
            assert len(said.get("users", ())) == len(selection.users), (said, selection)
            assert len(said.get("groups", ())) == len(selection.groups), (said, selection)
            assert (said.get("everyone") == "true") == (selection.everyone is not None), said
