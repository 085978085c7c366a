"""From names to ids: what the database says, and what holds while it does not answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockbroker.core.accounts import Absent, Accounts, Group, Lookups, Unavailable, User
from sockbroker.core.policy import App, Policy, PolicyError
from sockbroker.core.policy_reader import read_policy
from sockbroker.core.resolution import lookups, resolve
from sockbroker.core.rules import NO_GROUP, BootList, RangeRule
from sockbroker.core.spans import of_ids

ALICE = User("alice", 1001, 1001)
BOB = User("bob", 1002, 500)
MALLORY = User("mallory", 1666, 1666)
DOWN = Unavailable("Connection refused")

# What the database says unless a test says otherwise.
USERS: dict[str, User | Absent | Unavailable] = {
    "alice": ALICE,
    "bob": BOB,
    "mallory": MALLORY,
    "root": User("root", 0, 0),
    "toor": User("toor", 0, 0),
    "nobody": User("nobody", 65534, 65534),
    "ghost": Absent(),
    "remote": DOWN,
}
GROUPS: dict[str, Group | Absent | Unavailable] = {
    "chat": Group("chat", 500, frozenset({1001})),
    "guests": Group("guests", 600, frozenset({1666})),
    "root": Group("root", 0),
    "wheel": Group("wheel", 0),
    "nogroup": Group("nogroup", 65534),
    "ghosts": Absent(),
    "remotes": DOWN,
    "halves": Group("halves", 700, DOWN),
}


def accounts(
    *,
    gids: dict[int, Group | Absent | Unavailable] | None = None,
    entries: dict[int, User | Absent | Unavailable] | None = None,
    primary: dict[int, frozenset[int]] | Unavailable | None = None,
) -> Accounts:
    """The answers of a database; each user and group above is known by name."""
    return Accounts(
        users=USERS,
        groups=GROUPS,
        gids=gids or {},
        entries=entries or {},
        primary={} if primary is None else primary,
    )


def policy(text: str, answers: Accounts | None = None) -> Policy:
    """The policy that this text and these answers make."""
    document = read_policy(text.encode(), "p")
    return resolve(document, answers or accounts(), (1000, 60000))


def app(text: str, answers: Accounts | None = None) -> App:
    """The one app of a policy that has this in it."""
    return policy(f"apps: {{a: {{{text}}}}}", answers).apps["a"]


def warnings(text: str, answers: Accounts | None = None) -> tuple[str, ...]:
    """What is reported of an app that can be used."""
    return policy(f"apps: {{a: {{{text}}}}}", answers).warnings


def problems(text: str, answers: Accounts | None = None) -> tuple[str, ...]:
    """What is wrong with an app that cannot be used."""
    with pytest.raises(PolicyError) as caught:
        policy(f"apps: {{a: {{{text}}}}}", answers)
    return caught.value.problems


# What has to be looked up.


def wanted(text: str) -> Lookups:
    return lookups(read_policy(f"apps: {{a: {{{text}}}}}".encode(), "p"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Lookups()),
        ('allow: {users: [1, "2-3"], everyone: true}', Lookups()),
        (
            "allow: {users: [a], groups: [b, 7]}",
            Lookups(users=frozenset("a"), groups=frozenset("b")),
        ),
        (
            "group: b, parent: {group: c}",
            Lookups(groups=frozenset("bc")),
        ),
        ("group: 5, parent: {group: 6}", Lookups()),
        (
            "deny: {users: [a], groups: [b, 7]}",
            Lookups(
                users=frozenset("a"),
                groups=frozenset("b"),
                member_groups=frozenset("b"),
                gids=frozenset({7}),
                listing=True,
            ),
        ),
        (
            "allow: {groups: [d, 8]}, at_boot: {users: [a, 9], groups: [b, 7]}",
            Lookups(
                users=frozenset("a"),
                groups=frozenset("bd"),
                member_groups=frozenset("bd"),
                gids=frozenset({7, 8}),
                uids=frozenset({9}),
                listing=True,
            ),
        ),
        ('at_boot: {users: ["5-6"]}', Lookups(listing=True)),
        ("at_boot: {everyone: true}", Lookups(listing=True)),
        ('group: 5, at_boot: {users: ["5-6", 9], everyone: true}', Lookups()),
    ],
)
def test_only_what_matters_is_looked_up(text: str, expected: Lookups) -> None:
    """Members where they matter, primary groups where a directory needs one, nothing else."""
    assert wanted(text) == expected


# What comes of names that have ids.


def test_an_app_that_says_nothing_allows_nobody() -> None:
    """Everything has its default, and no group of its own."""
    found = app("")
    assert (found.mode, found.gid, found.parent_mode, found.parent_gid) == (0o700, None, 0o711, 0)
    assert (found.max_directories, found.adopt, found.deny_all) == (1000, False, None)
    assert found.allow.spans() == ()
    assert list(found.at_boot) == []


def test_names_become_ids_with_their_lines() -> None:
    """Every rule knows where it stands."""
    text = """\
apps:
  a:
    description: hello
    allow:
      users: [alice, 1007,
              "2000-2999", "2500-3500", "2100-2200", "7-7"]
      groups: [chat,
               77]
      everyone: true
    deny:
      users: [mallory]
      groups: [guests]
    mode: "0750"
    group: chat
    parent: {mode: "0755", group: guests}
    max_directories: 5
    adopt: true
"""
    found = policy(text).apps["a"]
    assert found.description == "hello"
    assert found.allow.line == 4
    assert found.allow.users == {1001: 5, 1007: 5, 7: 6}
    assert found.allow.ranges == (RangeRule(2000, 2999, 6), RangeRule(3000, 3500, 6))
    assert found.allow.groups == {500: 7, 77: 8}
    assert found.allow.everyone == RangeRule(1000, 60000, 9)
    assert found.allow.members == {}
    assert (found.deny.line, found.deny.users, found.deny.groups) == (10, {1666: 11}, {600: 12})
    assert found.deny.members == {1666: 12}
    assert (found.mode, found.gid, found.parent_mode, found.parent_gid) == (0o750, 500, 0o755, 600)
    assert (found.max_directories, found.adopt, found.position.line) == (5, True, 2)


def test_everyone_means_the_policys_range_or_that_of_the_system() -> None:
    """The range that is written wins over /etc/login.defs."""
    text = "apps: {a: {allow: {everyone: true}}}"
    assert policy(text).uid_range == (1000, 60000)
    written = policy(f"uid_range: [5, 9]\n{text}")
    assert written.uid_range == (5, 9)
    assert written.apps["a"].allow.everyone == RangeRule(5, 9, 2)


def test_names_that_came_to_light_can_be_shown() -> None:
    """Of users from all answers, of groups, root's in any case; not those that are no text."""
    found = policy(
        "apps: {}",
        accounts(entries={7: User("seven", 7, 7)}, gids={77: Group("g77", 77), 78: Absent()}),
    )
    assert found.user_names[7] == "seven"
    assert found.user_names[1001] == "alice"
    assert found.group_names[77] == "g77"
    odd = accounts(entries={8: User("a\udcff", 8, 8)}, gids={79: Group("\x1b[1m", 79)})
    assert 8 not in policy("apps: {}", odd).user_names
    assert 79 not in policy("apps: {}", odd).group_names
    assert found.group_names[500] == "chat"
    assert policy("apps: {}", Accounts()).group_names == {0: "root"}


def test_a_denied_group_means_all_that_the_database_counts_to_it() -> None:
    """Listed members, users who have it as primary group, and users known from elsewhere."""
    answers = accounts(
        primary={500: frozenset({1003, 65534})},
        gids={501: Group("other", 501, frozenset({1004})), 502: Absent()},
        entries={1005: User("five", 1005, 502)},
    )
    found = app("deny: {groups: [chat, 501, 502]}", answers)
    assert set(found.deny.members) == {1001, 1002, 1003, 1004, 1005}
    assert set(found.deny.groups) == {500, 501, 502}


# Names without ids.


@pytest.mark.parametrize("key", ["allow", "at_boot"])
@pytest.mark.parametrize("entry", ["users: [alice, ghost]", "groups: [chat, ghosts]"])
def test_a_name_that_does_not_exist_is_a_warning(key: str, entry: str) -> None:
    """The list lacks it, it is reported and tried again, and the rest holds."""
    text = f"allow: {{everyone: true}}, {key}: {{{entry}}}".removeprefix(
        "allow: {everyone: true}, " if key == "allow" else ""
    )
    found = policy(f"apps: {{a: {{{text}}}}}")
    (warning,) = found.warnings
    assert "there is no " in warning
    assert "ghost" in warning
    assert f"{key} of app a lacks" in warning
    assert len(found.unresolved) == 1
    assert found.apps["a"].deny_all is None


def test_a_denied_name_that_does_not_exist_denies_nobody() -> None:
    """There is nobody whom it could mean."""
    found = policy("apps: {a: {deny: {users: [ghost], groups: [ghosts, chat]}}}")
    assert found.apps["a"].deny_all is None
    assert found.apps["a"].deny.groups == {500: 1}
    assert len(found.warnings) == len(found.unresolved) == 2
    assert found.unresolved == ("user 'ghost'", "group 'ghosts'")


@pytest.mark.parametrize(
    "entry",
    [
        "users: [remote]",
        "users: [never-asked]",
        "groups: [remotes]",
        "groups: [halves]",
        "groups: [9]",
    ],
)
def test_a_denied_name_that_cannot_be_looked_up_denies_everybody(entry: str) -> None:
    """Nobody can tell whom it means: no directory for anyone, and none at boot."""
    text = f"allow: {{users: [alice]}}, at_boot: {{users: [alice]}}, deny: {{{entry}}}"
    found = policy(f"apps: {{a: {{{text}}}}}", accounts(gids={9: DOWN}))
    assert found.apps["a"].deny_all is not None
    assert list(found.apps["a"].at_boot) == []
    (warning,) = found.warnings
    assert "cannot be looked up" in warning
    assert "app a denies everybody until the user database answers" in warning
    assert len(found.unresolved) == 1


def test_members_that_the_database_cannot_list_make_a_denied_group_deny_everybody() -> None:
    """A user may have left the group on his side (newgrp, a user namespace), so its list counts."""
    assert app("deny: {groups: [chat]}", accounts(primary=DOWN)).deny_all is not None


@pytest.mark.parametrize("entry", ["users: [remote, alice]", "groups: [remotes, chat]"])
def test_an_allowed_name_that_cannot_be_looked_up_is_left_out(entry: str) -> None:
    """The others are allowed, it is reported and tried again."""
    found = policy(f"apps: {{a: {{allow: {{{entry}}}}}}}")
    assert found.apps["a"].deny_all is None
    assert {**found.apps["a"].allow.users, **found.apps["a"].allow.groups}
    (warning,) = found.warnings
    assert "cannot be looked up (Connection refused)" in warning
    assert len(found.unresolved) == 1


@pytest.mark.parametrize("group", ["ghosts", "remotes"])
@pytest.mark.parametrize("form", ["group: {}", "parent: {{group: {}}}"])
def test_an_app_whose_group_has_no_gid_is_not_served(form: str, group: str) -> None:
    """Nobody can tell what its directories should be like, so it is no app to make or repair."""
    found = policy(f"apps: {{a: {{{form.format(group)}}}, b: {{}}}}")
    assert list(found.apps) == ["b"]
    assert found.unserved == {"a": f"its group '{group}' has no id"}
    assert len(found.unresolved) == 1
    assert "app a is not served" in found.warnings[0]


def test_the_same_name_is_reported_at_each_of_its_places() -> None:
    """Each place has its warning; it is tried again once."""
    found = policy("apps: {a: {allow: {users: [ghost]}}, b: {allow: {users: [ghost]}}}")
    assert [warning.split(": ")[0] for warning in found.warnings] == ["p:1:28", "p:1:58"]
    assert found.unresolved == ("user 'ghost'",)


def test_everything_unavailable_is_reported_and_nobody_is_allowed_by_name() -> None:
    """A database that is down at boot leaves numbers working, and no more."""
    text = "apps: {a: {allow: {users: [alice, 7], groups: [chat]}, at_boot: {users: [7]}}}"
    document = read_policy(text.encode(), "p")
    found = resolve(document, Accounts.unavailable(lookups(document)), (1000, 60000))
    assert found.apps["a"].allow.users == {7: 1}
    assert list(found.apps["a"].at_boot) == []
    assert set(found.unresolved) == {"user 'alice'", "group 'chat'", "uid 7"}


# Ids that a name may not have.


@pytest.mark.parametrize("key", ["allow", "deny", "at_boot"])
@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("users: [toor]", "user 'toor' has id 0"),
        ("groups: [wheel]", "group 'wheel' has id 0"),
        ("users: [nobody]", "user 'nobody' has id 65534"),
        ("groups: [nogroup]", "group 'nogroup' has id 65534"),
    ],
)
def test_a_name_for_root_or_for_nobody_is_a_problem(key: str, entry: str, reason: str) -> None:
    """Another name for uid 0 is root, and an overflow id is whoever has no mapping.

    Taken out: both rules of `Registry._judge`; then there is no problem.
    """
    (problem,) = problems(f"{key}: {{{entry}}}")
    assert reason in problem


def test_root_is_a_user_like_others() -> None:
    """Whoever writes root means root."""
    found = app("allow: {users: [root], groups: [root]}, group: root")
    assert (found.allow.users, found.allow.groups, found.gid) == ({0: 1}, {0: 1}, 0)


def test_the_group_of_a_directory_is_judged_too() -> None:
    """A directory of everybody's without a mapping is no private one."""
    (problem,) = problems("group: nogroup")
    assert problem.startswith("p:1:19: group 'nogroup' has id 65534")


# Who gets a directory at boot.


def boot(text: str, answers: Accounts | None = None) -> list[tuple[int, int]]:
    """The directories that an app has made at boot, with their groups."""
    return list(app(text, answers).at_boot)


ALL = "allow: {everyone: true}"


def test_at_boot_takes_what_allow_takes() -> None:
    """Names, numbers, ranges, groups with primary members, everyone; each uid once."""
    answers = accounts(
        entries={1007: User("seven", 1007, 77), 1010: User("ten", 1010, 100), 1012: Absent()},
        primary={500: frozenset({1003}), 700: frozenset({1004})},
    )
    assert boot(f"{ALL}, at_boot: {{users: [alice, 1007, 1012]}}", answers) == [
        (1001, 1001),
        (1007, 77),
        (1012, NO_GROUP),
    ]
    assert boot(
        f'{ALL}, at_boot: {{users: ["1009-1011", 1010]}}', accounts(entries={1010: Absent()})
    )
    assert boot(f'{ALL}, at_boot: {{users: ["1009-1011"]}}', answers) == [
        (1009, NO_GROUP),
        (1010, 100),
        (1011, NO_GROUP),
    ]
    assert [uid for uid, _ in boot(f"{ALL}, at_boot: {{groups: [chat]}}", answers)] == [
        *(1001, 1002, 1003),
    ]


def test_the_group_that_the_policy_names_is_that_of_all() -> None:
    """Then nobody has to be looked up for it."""
    text = f'{ALL}, group: chat, at_boot: {{users: [alice, 1007, "1009-1010"]}}'
    assert boot(text) == [(1001, 500), (1007, 500), (1009, 500), (1010, 500)]


def test_a_range_at_boot_stays_two_numbers() -> None:
    """Sixty thousand uids are listed when they are wanted and not before."""
    text = "allow: {everyone: true}, at_boot: {everyone: true}, group: 5, max_directories: 60000"
    found = app(text).at_boot
    assert found.spans == ((1000, 60000),)
    assert len(found) == 59001
    assert next(iter(found)) == (1000, 5)


def test_overflow_ids_get_no_directory_in_a_range() -> None:
    """They are nobody's, and a range may go past them."""
    text = 'allow: {users: ["65530-65540"]}, at_boot: {users: ["65530-65540"]}, group: 5'
    assert [uid for uid, _ in boot(text)] == [*range(65530, 65534), *range(65536, 65541)]


@pytest.mark.parametrize(
    "text",
    [
        "allow: {users: [alice]}, deny: {users: [alice]}, at_boot: {users: [alice]}",
        "allow: {users: [alice]}, deny: {users: [1001]}, at_boot: {users: [alice]}",
        'allow: {everyone: true}, deny: {users: ["1000-1005"]}, at_boot: {users: [alice]}',
        "allow: {users: [alice]}, deny: {groups: [chat]}, at_boot: {users: [alice]}",
        "allow: {users: [bob]}, deny: {groups: [chat]}, at_boot: {users: [bob]}",
        'allow: {everyone: true}, deny: {users: [1500]}, group: 5, at_boot: {users: ["1400-1600"]}',
        "allow: {everyone: true}, deny: {users: [1500]}, group: 5, max_directories: 60000, "
        "at_boot: {everyone: true}",
    ],
)
def test_an_at_boot_user_whom_the_app_denies_is_a_problem(text: str) -> None:
    """The policy contradicts itself, whatever form the two entries have."""
    (problem,) = problems(text)
    assert "whom deny of app a refuses (line 1)" in problem


@pytest.mark.parametrize(
    "text",
    [
        "at_boot: {users: [alice]}",
        "allow: {users: [bob]}, at_boot: {users: [alice]}",
        "allow: {groups: [guests]}, at_boot: {users: [alice]}",
        'allow: {users: ["1000-1009"]}, group: 5, at_boot: {users: ["1000-1010"]}',
        "allow: {users: [7]}, group: 5, at_boot: {users: [7, 8]}",
    ],
)
def test_an_at_boot_user_whom_the_app_does_not_allow_is_a_problem(text: str) -> None:
    """Who has no rule is denied, and so must not be there at boot."""
    (problem,) = problems(text)
    assert "whom allow of app a does not name; add them to allow" in problem


def test_every_contradiction_is_told_at_its_place() -> None:
    """One problem for each entry, not only for the first."""
    text = """\
apps:
  a:
    allow: {users: [alice, bob]}
    deny: {users: [alice]}
    at_boot:
      users:
      - alice
      - mallory
      - bob
"""
    with pytest.raises(PolicyError) as caught:
        policy(text)
    assert [problem.split(",")[0] for problem in caught.value.problems] == [
        "p:7:9: at_boot names uid 1001",
        "p:8:9: at_boot names uid 1666",
    ]


def test_a_member_of_an_allowed_group_may_be_there_at_boot() -> None:
    """By the database, because there is no peer yet whose groups the kernel could tell."""
    assert boot("allow: {groups: [chat]}, at_boot: {users: [alice, bob]}") == [
        (1001, 1001),
        (1002, 500),
    ]


def test_members_of_a_group_whom_the_app_denies_are_left_out() -> None:
    """A new member of a group must not keep the broker from starting."""
    text = f"{ALL}, deny: {{users: [alice]}}, at_boot: {{groups: [chat]}}"
    assert boot(text) == [(1002, 500)]
    assert warnings(text) == ()


def test_members_of_a_group_whom_the_app_does_not_allow_are_left_out_with_a_warning() -> None:
    """Nobody meant that, and nothing is contradicted."""
    text = "allow: {users: [alice]}, at_boot: {groups: [chat]}"
    assert boot(text) == [(1001, 1001)]
    (warning,) = warnings(text)
    assert "does not name 1 of the members (the first is uid 1002)" in warning


@pytest.mark.parametrize("name", ["ghost", "remote"])
def test_as_long_as_a_name_in_allow_has_no_id_no_contradiction_is_seen(name: str) -> None:
    """It may turn out to allow the user; until then there is no directory, and a warning."""
    text = f"allow: {{users: [{name}]}}, at_boot: {{users: [alice]}}"
    assert boot(text) == []
    assert any("as far as can be told now" in warning for warning in warnings(text))


def test_members_of_an_allowed_group_that_cannot_be_listed_contradict_nothing() -> None:
    """A half answer is no answer."""
    text = "allow: {groups: [halves]}, at_boot: {users: [alice]}"
    assert boot(text) == []
    assert len(warnings(text)) == 2


@pytest.mark.parametrize(
    ("entry", "answers"),
    [
        ("users: [remote]", accounts()),
        ("users: [1007]", accounts(entries={1007: DOWN})),
        ("users: [1007]", accounts()),
        ('users: ["1007-1008"]', accounts(primary=DOWN)),
        ("everyone: true", accounts(primary=DOWN)),
        ("groups: [remotes]", accounts()),
        ("groups: [halves]", accounts()),
        ("groups: [1234]", accounts(gids={1234: DOWN})),
    ],
)
def test_what_cannot_be_looked_up_is_not_made_at_boot(entry: str, answers: Accounts) -> None:
    """It is left out until the database answers, and tried again."""
    found = policy(f"apps: {{a: {{{ALL}, max_directories: 70000, at_boot: {{{entry}}}}}}}", answers)
    assert list(found.apps["a"].at_boot) == []
    assert "at_boot of app a lacks" in found.warnings[0]
    assert len(found.unresolved) == 1


def test_more_at_boot_than_max_directories_is_a_problem() -> None:
    """Where the policy itself says how many: it can never hold."""
    (problem,) = problems(f'{ALL}, group: 5, at_boot: {{users: ["2000-3000"]}}')
    assert "at_boot names 1001 users and max_directories is 1000" in problem
    assert len(boot(f'{ALL}, group: 5, at_boot: {{users: ["2000-2999"]}}')) == 1000


def test_more_members_than_max_directories_is_a_warning() -> None:
    """A group may grow without anyone touching the policy."""
    (warning,) = warnings(f"{ALL}, max_directories: 1, at_boot: {{groups: [chat]}}")
    assert "at_boot means 2 users and max_directories is 1" in warning
    assert warnings(f"{ALL}, max_directories: 2, at_boot: {{groups: [chat]}}") == ()


@given(st.sets(st.integers(1000, 1040)), st.sets(st.integers(990, 1050)))
def test_who_is_there_already_is_left_out_of_a_boot_list(wanted: set[int], there: set[int]) -> None:
    """And nobody else, whatever spans the list is made of."""
    listed = BootList(spans=of_ids(wanted), gids={1010: 7})
    assert list(listed) == [(uid, 7 if uid == 1010 else NO_GROUP) for uid in sorted(wanted)]
    assert list(listed.besides(there)) == [each for each in listed if each[0] not in there]
