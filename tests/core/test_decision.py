"""Who may have a directory, and which rule says so."""

import time
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockbroker.core.accounts import Accounts, Group, Unavailable, User
from sockbroker.core.decision import Allowed, Refused, decide
from sockbroker.core.peer import Groups, Peer
from sockbroker.core.policy import Policy
from sockbroker.core.policy_reader import read_policy
from sockbroker.core.resolution import resolve

ACCOUNTS = Accounts(
    users={"alice": User("alice", 1001, 1001), "remote": Unavailable("down")},
    groups={
        "chat": Group("chat", 500, frozenset({1001})),
        "guests": Group("guests", 600, frozenset({1666})),
        "remotes": Unavailable("down"),
    },
    primary={600: frozenset({1667})},
)

TEXT = """\
uid_range: [1000, 60000]
apps:
  chat:
    allow:
      users: [alice, 1007,
              "2000-2999"]
      groups: [chat]
    deny:
      users: [1008,
              "2500-2599"]
      groups: [guests]
  open:
    allow: {everyone: true}
    deny: {users: [1008]}
  plain: {}
  by_group:
    allow: {groups: [chat, 42]}
  unsure:
    allow: {everyone: true}
    deny: {users: [remote]}
  groupless:
    group: remotes
    allow: {everyone: true}
  wide:
    allow: {users: ["0-4294967294"]}
"""


def policy(text: str) -> Policy:
    """The policy that this text makes with the database above."""
    return resolve(read_policy(text.encode(), "/etc/p.yaml"), ACCOUNTS, (1000, 60000))


POLICY = policy(TEXT)


class Who(NamedTuple):
    """A peer, and the groups that it would be found to have."""

    peer: Peer
    groups: Groups


def peer(uid: int, *groups: int, gid: int | None = None, pid: int = 77, known: bool = True) -> Who:
    """A process of that user, in its own group and these."""
    them = Peer(pid=pid, uid=uid, gid=uid if gid is None else gid)
    return Who(them, frozenset(groups) if known else None)


def decided(by: Policy, app: str, who: Who) -> Allowed | Refused:
    """The decision of a policy."""
    return decide(by, app, who.peer, lambda: who.groups)


def verdict(app: str, who: Who) -> str:
    """The decision in one line: yes or no, and the rule."""
    decision = decided(POLICY, app, who)
    rule = str(decision.rule).removeprefix("/etc/p.yaml:").strip()
    return ("yes " if isinstance(decision, Allowed) else "no ") + rule


@pytest.mark.parametrize(
    ("app", "who", "expected"),
    [
        # Allowed by each kind of rule.
        ("chat", peer(1001), "yes 5: allow.users"),
        ("chat", peer(1007), "yes 5: allow.users"),
        ("chat", peer(2000), "yes 6: allow.users"),
        ("chat", peer(2999), "yes 6: allow.users"),
        ("chat", peer(3333, 500), "yes 7: allow.groups"),
        ("chat", peer(3333, gid=500), "yes 7: allow.groups"),
        ("open", peer(1000), "yes 13: allow.everyone"),
        ("open", peer(60000), "yes 13: allow.everyone"),
        ("by_group", peer(0, 42), "yes 17: allow.groups"),
        # Nobody is trusted by default.
        ("chat", peer(1999), "no 4: no rule"),
        ("chat", peer(3000), "no 4: no rule"),
        ("chat", peer(0), "no 4: no rule"),
        ("open", peer(999), "no 13: no rule"),
        ("open", peer(60001), "no 13: no rule"),
        ("open", peer(0), "no 13: no rule"),
        ("plain", peer(1001), "no 15: no rule"),
        ("nosuch", peer(1001), "no unknown app"),
        ("../etc", peer(1001), "no unknown app"),
        ("", peer(0), "no unknown app"),
        # Deny beats allow.
        ("chat", peer(1008, 500), "no 9: deny.users"),
        ("chat", peer(2500), "no 10: deny.users"),
        ("chat", peer(2599, 500), "no 10: deny.users"),
        ("chat", peer(2600), "yes 6: allow.users"),
        ("open", peer(1008), "no 14: deny.users"),
        # A denied group by the kernel's list, the peer's gid, and the database in both forms.
        ("chat", peer(1001, 600), "no 11: deny.groups"),
        ("chat", peer(1001, gid=600), "no 11: deny.groups"),
        ("chat", peer(1666, 500), "no 11: deny.groups (a member by the user database)"),
        ("chat", peer(1667, 500), "no 11: deny.groups (a member by the user database)"),
        # Groups that could not be read allow nobody and may be any.
        ("chat", peer(1001, known=False), "no 8: deny.groups (the peer's groups are not known)"),
        ("chat", peer(1008, known=False), "no 9: deny.users"),
        ("by_group", peer(1001, gid=500, known=False), "no 17: no rule"),
        ("open", peer(1000, known=False), "yes 13: allow.everyone"),
        # The database's members never allow: the kernel says what groups a peer has.
        ("by_group", peer(1001), "no 17: no rule"),
        # Nothing can be told.
        (
            "unsure",
            peer(1001),
            "no 20: a name in deny cannot be looked up; until it can, nobody is",
        ),
        ("groupless", peer(1001), "no its group 'remotes' has no id"),
    ],
)
def test_each_case_and_its_rule(app: str, who: Who, expected: str) -> None:
    """The decision, and the line of the policy that made it."""
    assert verdict(app, who).startswith(expected)


@pytest.mark.parametrize("uid", [65534, 65535, 2**32 - 1, 2**32, -1, -2])
@pytest.mark.parametrize("app", ["wide", "nosuch"])
def test_an_overflow_uid_is_nobody(app: str, uid: int) -> None:
    """Refused whatever the policy says, because everyone without a mapping has it."""
    assert verdict(app, peer(uid)) == "no an overflow uid identifies nobody"


@pytest.mark.parametrize("pid", [0, -1])
def test_a_peer_without_a_pid_is_nobody(pid: int) -> None:
    """A process that our pid namespace cannot see is refused whatever the policy says."""
    assert "no pid" in verdict("wide", peer(1000, pid=pid))


def test_the_pid_decides_nothing_else() -> None:
    """Two processes of a user get the same answer."""
    assert decided(POLICY, "chat", peer(1001, pid=1)) == decided(POLICY, "chat", peer(1001, pid=2))


def test_a_decision_by_no_line_names_the_file() -> None:
    """So that whoever reads the log knows which policy that was."""
    assert str(decided(POLICY, "nosuch", peer(1001)).rule) == "/etc/p.yaml: unknown app"
    assert str(decided(POLICY, "chat", peer(1001)).rule) == "/etc/p.yaml:5: allow.users"


def test_what_is_allowed_comes_with_what_holds_for_it() -> None:
    """The caller needs no second look at the policy."""
    decision = decided(POLICY, "chat", peer(1001))
    assert isinstance(decision, Allowed)
    assert decision.app is POLICY.apps["chat"]
    assert decision.rule.file == "/etc/p.yaml"


@pytest.mark.parametrize(("app", "asked"), [("open", 0), ("wide", 0), ("chat", 1), ("by_group", 1)])
def test_groups_are_asked_for_where_a_rule_names_one(app: str, asked: int) -> None:
    """A peer may have a thousand of them, which cost time and memory."""
    answers: list[Groups] = []

    def ask() -> Groups:
        answers.append(frozenset({500}))
        return answers[-1]

    assert isinstance(decide(POLICY, app, peer(1001).peer, ask), Allowed)
    assert len(answers) == asked


def test_at_boot_needs_do_not_let_the_database_allow_a_peer() -> None:
    """Members are known then, and still only the kernel's groups count for a peer."""
    booting = policy("apps: {a: {allow: {groups: [chat]}, at_boot: {users: [alice]}}}")
    assert [uid for uid, _ in booting.apps["a"].at_boot] == [1001]
    assert isinstance(decided(booting, "a", peer(1001)), Refused)
    assert isinstance(decided(booting, "a", peer(1001, 500)), Allowed)


UIDS = st.sampled_from([0, 999, 1000, 1001, 1007, 1008, 1666, 2000, 2550, 60000, 65534, 2**32 - 1])
GIDS = st.frozensets(st.sampled_from([0, 42, 500, 600, 1001]), max_size=3)
PEERS = st.builds(
    Who,
    st.builds(Peer, pid=st.integers(0, 3), uid=UIDS, gid=st.sampled_from([42, 500, 600, 1001])),
    GIDS,
)


@given(st.sampled_from([*POLICY.apps, *POLICY.unserved, "nosuch"]), PEERS)
def test_deny_beats_allow_for_every_peer(app: str, who: Who) -> None:
    """With any further denial that fits the peer nobody is allowed whom it names."""
    decision = decided(POLICY, app, who)
    if isinstance(decision, Allowed):
        stricter = policy(TEXT.replace("users: [1008", f"users: [1008, {who.peer.uid}"))
        again = decided(stricter, app, who)
        assert isinstance(again, Refused) or app in ("by_group", "wide")


@given(st.sampled_from([*POLICY.apps]), PEERS)
def test_a_group_that_a_peer_drops_never_opens_anything(app: str, who: Who) -> None:
    """Fewer groups by the kernel never allow what more did not, but for denied ones it kept."""
    for group in who.groups or ():
        fewer = Who(who.peer, (who.groups or frozenset()) - {group})
        if isinstance(decided(POLICY, app, fewer), Allowed) and group != 600:
            assert isinstance(decided(POLICY, app, who), Allowed)


def test_ten_thousand_rules_are_decided_as_quickly_as_one() -> None:
    """Users by one look-up, ranges by a search, groups by the smaller side."""
    users = ", ".join(str(uid) for uid in range(100_000, 110_000))
    ranges = ", ".join(f'"{first}-{first + 4}"' for first in range(200_000, 300_000, 10))
    groups = ", ".join(str(gid) for gid in range(100_000, 110_000))
    large = policy(f"apps: {{a: {{allow: {{users: [{users}, {ranges}], groups: [{groups}]}}}}}}")
    began = time.monotonic()
    for n in range(2_000):
        assert isinstance(decided(large, "a", peer(100_000 + n, 27)), Allowed)
        assert isinstance(decided(large, "a", peer(200_000 + 10 * n, 27)), Allowed)
        assert isinstance(decided(large, "a", peer(200_005 + 10 * n, 27)), Refused)
        assert isinstance(decided(large, "a", peer(5, 100_000 + n)), Allowed)
    assert time.monotonic() - began < 8
