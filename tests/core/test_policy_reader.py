"""From text to a policy: what is understood, and how everything else is told."""

import string
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sockbroker.core.policy import (
    AppText,
    Document,
    GroupEntry,
    PolicyError,
    Position,
    Selection,
    UserEntry,
)
from sockbroker.core.policy_reader import read_policy
from sockbroker.core.strict_yaml import MAX_BYTES

EXAMPLE = """\
uid_range: [1000, 60000]        # whom "everyone" means
apps:
  chat:
    description: Local chat
    allow:
      users: [alice, 1007, "2000-2999"]
      groups: [chat, 27]
      everyone: false
    deny:
      users: [mallory, "1009"]
      groups: [guests]
    mode: "0750"
    group: chat
    parent: {mode: "0755", group: adm}
    at_boot:
      users: [alice]
      groups: [chat]
      everyone: true
    max_directories: 70000
    adopt: true
  other: {}
"""


def problems(text: str | bytes) -> list[str]:
    """What is wrong with it, without the name of the file."""
    with pytest.raises(PolicyError) as caught:
        read_policy(text if isinstance(text, bytes) else text.encode(), "p")
    return [problem.removeprefix("p:") for problem in caught.value.problems]


def app(text: str) -> AppText:
    """The one app of a policy that has this in it."""
    return read_policy(f"apps: {{a: {{{text} }}}}".encode(), "p").apps["a"]


def app_problem(text: str) -> str:
    """The one problem of an app that has this in it, without its place."""
    (problem,) = problems(f"apps: {{a: {{{text} }}}}")
    return problem.split(": ", 1)[1]


def test_everything_that_can_be_written_is_read() -> None:
    """Each value arrives as it was written, with its place.

    Taken out: the first line's number (lines began with 0), and that a word was quoted.
    """
    alice = UserEntry("alice", 0, 0, 6, 15)
    assert read_policy(EXAMPLE.encode(), "/etc/p.yaml") == Document(
        file="/etc/p.yaml",
        uid_range=(1000, 60000),
        apps={
            "chat": AppText(
                name="chat",
                position=Position(3, 3),
                description="Local chat",
                allow=Selection(
                    position=Position(5, 5),
                    users=(
                        alice,
                        UserEntry(None, 1007, 1007, 6, 22),
                        UserEntry(None, 2000, 2999, 6, 28),
                    ),
                    groups=(GroupEntry("chat", 0, 7, 16), GroupEntry(None, 27, 7, 22)),
                ),
                deny=Selection(
                    position=Position(9, 5),
                    users=(
                        UserEntry("mallory", 0, 0, 10, 15),
                        UserEntry(None, 1009, 1009, 10, 24),
                    ),
                    groups=(GroupEntry("guests", 0, 11, 16),),
                ),
                at_boot=Selection(
                    position=Position(15, 5),
                    users=(UserEntry("alice", 0, 0, 16, 15),),
                    groups=(GroupEntry("chat", 0, 17, 16),),
                    everyone=Position(18, 7),
                ),
                mode=0o750,
                group=GroupEntry("chat", 0, 13, 12),
                parent_mode=0o755,
                parent_group=GroupEntry("adm", 0, 14, 35),
                max_directories=70000,
                adopt=True,
            ),
            "other": AppText(name="other", position=Position(21, 3)),
        },
    )
    assert alice.position == Position(6, 15)
    assert GroupEntry("chat", 0, 7, 16).position == Position(7, 16)


def test_a_policy_may_have_no_apps() -> None:
    """Nobody gets anything then, which must be said and not only be left out.

    Taken out: the difference between no apps and no word of them.
    """
    assert read_policy(b"apps: {}", "p") == Document(file="p", uid_range=None, apps={})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1:1: there is no policy in this file; say apps: {}"),
        ("# nothing\n", "1:1: there is no policy in this file; say apps: {}"),
        ("---\n", "2:1: there is no value here; a policy is a mapping"),
        ("[]", "1:1: a policy is a mapping; begin with a line that says apps:"),
        ("chat", "1:1: a policy is a mapping"),
        ("uid_range: [1, 2]", "1:1: the key apps is missing; say apps: {}"),
        ("apps:", "1:6: there is no value here; apps is a mapping"),
        ("apps: []", "1:7: apps is a mapping of names to apps"),
        ("apps: {a: }", "1:11: there is no value here; app 'a' is a mapping; write {}"),
        ("apps: {a: 5}", "1:11: app 'a' is a mapping; write {}"),
        ("apps: {}\nsocket: x", "2:1: a policy has no key 'socket'; it may have uid_range, apps"),
        ("apps: {}\napps: {}", "2:1: key 'apps' is in line 1 already; remove one of the two"),
        ("apps: {a: {}, a: {}}", "1:15: key 'a' is in line 1 already"),
        ("apps: {}\n---\napps: {}", "2:1: a second document begins here; keep one"),
        ("apps: {a: &x {}}", "1:11: anchors (&) are not understood"),
        ("apps: {a: {group: &x b}}", "1:19: anchors (&) are not understood"),
        ("apps: {a: {group: !!str b}}", "1:19: tags (!) are not understood"),
        ("apps: !!map {}", "1:7: tags (!) are not understood"),
        ("apps: {a: !!python/object:os.system {}}", "1:11: tags (!) are not understood"),
        ("apps: {a: {group: !!binary Zm9v}}", "1:19: tags (!) are not understood"),
        ("apps: {a: {group: ! b}}", "1:19: tags (!) are not understood"),
        ("apps: {a: {<<: {}}}", "1:12: merge keys (<<) are not understood"),
        ("apps: {[a]: {}}", "1:8: a list or mapping cannot be a key"),
        ("apps: {? {a: {b: c}} : {}}", "1:10: a list or mapping cannot be a key"),
        ("uid_range: 5\napps: {}", "1:12: uid_range is two numbers; write it like [1000, 60000]"),
        ("uid_range: [1]\napps: {}", "1:12: uid_range is two numbers"),
        ("uid_range: [1, 2, 3]\napps: {}", "1:12: uid_range is two numbers"),
        ("uid_range: [60000, 1000]\napps: {}", "1:12: uid_range ends before it begins; write [100"),
        ("uid_range: [a, 1000]\napps: {}", "1:13: a uid is a number from 0 to 4294967294"),
        ("uid_range: [1, []]\napps: {}", "1:16: a uid is a number"),
        ("apps: {}\r\n\rapps: {}", "2:1: character U+000D cannot be seen"),
        ("apps: {a: {}}\r", "1:14: character U+000D cannot be seen"),
        ("\ufeffapps: {}", "1:1: character U+FEFF cannot be seen"),
        ("apps: {} # \u202e", "1:12: character U+202E cannot be seen"),
        ("apps: {} # \x1b", "1:12: character U+001B cannot be seen"),
        ("apps: {}\n\n#\0", "3:2: character U+0000 cannot be seen"),
        (b"apps: {}\n# \xc3\xa4 \xff", "2:5: byte 0xff is not UTF-8"),
        ("apps: {}".encode("utf-16"), "1:1: byte 0xff is not UTF-8"),
        (b"apps: {}" + b" " * MAX_BYTES, "1:1: 4194312 bytes are more than 4194304"),
    ],
)
def test_what_is_no_policy_is_told(text: str | bytes, problem: str) -> None:
    """The place, what is wrong and the mend, and only that one.

    Taken out: each of: the anchors, the keys that are known, a key twice, a second document, UTF-8,
    what cannot be seen, the length.
    """
    (found,) = problems(text)
    assert found.startswith(problem)


def test_an_alias_is_told_and_nothing_is_expanded() -> None:
    """A bomb of aliases costs as many messages as it has aliases.

    Taken out: the report of an alias, and that of an anchor.
    """
    text = "apps:\n  a: &a {group: x}\n  b: *a\n  *a : {}\n"
    assert [problem.split(";")[0] for problem in problems(text)] == [
        "2:6: anchors (&) are not understood",
        "3:6: aliases (*) are not understood",
        "4:3: aliases (*) are not understood",
    ]
    bomb = "a: &a [x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{f'*{chr(97 + i)},' * 9}]\n" for i in range(20)
    )
    assert len(problems(bomb)) < 1000


@pytest.mark.parametrize("opening", ["[", "{", "- ", "? ", "{a: ", "[{"])
def test_depth_is_bounded(opening: str) -> None:
    """A hundred thousand levels are refused as eleven are, at once.

    Taken out: the look at the depth; then it does not come to an end.
    """
    began = time.process_time()
    deep = problems(opening * 100_000)
    assert time.process_time() - began < 10
    assert "deeper than 10 levels" in deep[-1]
    assert "what follows was not read" in deep[-1]


def test_ten_levels_are_read() -> None:
    """What is ten deep is wrong only for what it says.

    Taken out: one of the ten levels.
    """
    assert problems("apps: {a: {x: [[[[[[[[]]]]]]]]}}")[1].startswith("1:22: this is deeper")
    assert problems("apps: {a: {x: [[[[[[[]]]]]]]}}") == [
        "1:12: an app has no key 'x'; it may have description, allow, deny, mode, group, parent, "
        "at_boot, max_directories, adopt"
    ]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("systemd", "/run/systemd belongs to the system"),
        ("Chat", "'Chat' cannot be the name of an app"),
        ('"../x"', "'../x' cannot be the name of an app"),
        ('"a\\0"', "'a\\x00' cannot be the name of an app"),
        ("1.0", "'1.0' cannot be the name of an app"),
        ("2024-01-01", "'2024-01-01' cannot be the name of an app"),
        ("no", "YAML does not take no for a name; write it in quotes"),
        ("true", "YAML does not take true for a name"),
        ("null", "YAML does not take null for a name"),
        ("a" * 99, "'" + "a" * 57 + "...' cannot be the name of an app"),
    ],
)
def test_an_app_has_a_name_that_is_one(name: str, problem: str) -> None:
    """Spelled as apps are, and neither the system's nor a truth value of YAML.

    Taken out: the call of `app_name`.
    """
    (found,) = problems(f"apps: {{{name}: {{}}}}")
    assert found.startswith(f"1:8: {problem}")


def test_a_quoted_truth_value_is_a_name() -> None:
    """Whoever quotes it means the word.

    Taken out: that it was quoted.
    """
    assert list(read_policy(b'apps: {"no": {}}', "p").apps) == ["no"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("alice", ("alice", 0, 0)),
        ('"alice"', ("alice", 0, 0)),
        ("_apt", ("_apt", 0, 0)),
        ("pc1$", ("pc1$", 0, 0)),
        ("Alice.Smith", ("Alice.Smith", 0, 0)),
        ("3com", ("3com", 0, 0)),
        ("alice@example.org", ("alice@example.org", 0, 0)),
        ("EXAMPLE\\alice", ("EXAMPLE\\alice", 0, 0)),
        ("domain users", ("domain users", 0, 0)),
        ("josé", ("josé", 0, 0)),
        ('"no"', ("no", 0, 0)),
        ("a-b", ("a-b", 0, 0)),
        ("0", (None, 0, 0)),
        ("1007", (None, 1007, 1007)),
        ('"1007"', (None, 1007, 1007)),
        ("4294967294", (None, 2**32 - 2, 2**32 - 2)),
        ('"2000-2999"', (None, 2000, 2999)),
        ("'7-7'", (None, 7, 7)),
        ('"0-4294967294"', (None, 0, 2**32 - 2)),
    ],
)
def test_users_are_names_numbers_and_ranges(
    written: str, read: tuple[str | None, int, int]
) -> None:
    """A name is whatever a directory service may have for one; quoted digits are a number too.

    Taken out: that it was quoted.
    """
    for key in ("allow", "deny", "at_boot"):
        text = app(f"{key}: {{users: [{written}]}}")
        (entry,) = getattr(text, key).users
        assert entry[:3] == read


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("0x10", "'0x10' is neither a user's name nor digits"),
        ("1_000", "'1_000' is neither a user's name nor digits"),
        ("1.5", "'1.5' is neither"),
        ("1e3", "'1e3' is neither"),
        ('"12:30"', "'12:30' is neither"),
        ("007", "'007' is not a uid; write it in decimal without leading zeros"),
        ("4294967295", "'4294967295' is not a uid; write it in decimal"),
        ("18446744073709551616", "'18446744073709551616' is not a uid"),
        ("65534", "the kernel shows uid 65534 for every id without a mapping"),
        ("65535", "the kernel shows uid 65535 for every id without a mapping"),
        ("-1", "'-1' is no name of a user"),
        ("true", "YAML does not take 'true' for a name; write it in quotes"),
        ("No", "YAML does not take 'No' for a name"),
        ("~", "YAML does not take '~' for a name"),
        ('""', "'' is no name of a user"),
        ("2000-2999", 'a range is written in quotes; write "2000-2999"'),
        ('"2999-2000"', 'the range ends before it begins; write "2000-2999"'),
        ('"2000 - 2999"', "'2000 - 2999' is not a range of uids"),
        ('"0200-0299"', "'0200-0299' is not a range of uids"),
        ('"1-4294967295"', "'1-4294967295' is not a range of uids"),
        ('"*"', "'*' names no user; write everyone: true"),
        ('"@wheel"', "'@wheel' is no name of a user"),
        ("-rf", "'-rf' is no name of a user"),
        ('"a,b"', "'a,b' is no name of a user"),
        ('"a:b"', "'a:b' is no name of a user"),
        ("a/b", "'a/b' is no name of a user"),
        ('"a "', "'a ' is no name of a user"),
        ('"a\\nb"', "'a\\nb' is no name of a user"),
        ('"a\\e[1m"', "'a\\x1b[1m' is no name of a user"),
        ("a" * 257, "'" + "a" * 57 + "...' is no name of a user"),
        ("[]", 'a user is a name, a number or a range like "2000-2999"'),
        ("{a: b}", "a user is a name"),
    ],
)
def test_what_only_looks_like_a_user_is_told(written: str, problem: str) -> None:
    """Nothing is guessed: a number in another form is not taken for a name.

    Taken out: each of: other forms of numbers, leading zeros, ranges with blanks, signs in a name,
    its first character, the overflow ids.
    """
    assert app_problem(f"allow: {{users: [{written}]}}").startswith(problem)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("'1-5'", "'1-5': ranges are for users; name each group by itself"),
        ("65534", "the kernel shows gid 65534 for every id without a mapping"),
        ("08", "'08' is not a gid"),
        ("0x1", "'0x1' is neither a group's name nor digits"),
        ("yes", "YAML does not take 'yes' for a name"),
        ("[]", "a group is a name or a number"),
    ],
)
def test_what_only_looks_like_a_group_is_told(written: str, problem: str) -> None:
    """In a list and as the group of a directory alike.

    Taken out: other forms of numbers, and the overflow ids.
    """
    assert app_problem(f"allow: {{groups: [{written}]}}").startswith(problem)
    assert app_problem(f"group: {written}").startswith(problem)
    assert app_problem(f"parent: {{group: {written}}}").startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mdoe: x", "an app has no key 'mdoe'; it may have description, allow"),
        (
            "mode: 0750",
            '0750 without quotes is another number in YAML; write it in quotes, "0750"',
        ),
        ("mode: 750", "750 without quotes is another number in YAML"),
        ("mode: 0o700", "'0o700' is not a mode of 3 or 4 octal digits"),
        ('mode: "08"', "'08' is not a mode"),
        ("mode: 12:30", "'12:30' is not a mode"),
        ("mode: -1", "'-1' is not a mode"),
        ("mode: [7]", 'a mode is octal digits in quotes; write it like "0700"'),
        ("mode:", "there is no value here; a mode is"),
        ('mode: "0600"', 'mode "0600" takes a right from the owner; write "0700"'),
        ('mode: "4755"', 'mode "4755" sets the user id; write "0755"'),
        (
            'mode: "0750"',
            'mode "0750" lets the group do what others may not, and no group is named',
        ),
        ('mode: "1755"', 'mode "1755" is sticky, and no group is named'),
        ('parent: {mode: "0777"}', 'parent mode "0777" is not possible; write one of "0711"'),
        ("parent: {mode: 0711}", "0711 without quotes"),
        ("parent: {owner: root}", "parent has no key 'owner'; it may have mode, group"),
        ('parent: "0711"', "parent is a mapping; write it like"),
        ("allow: [alice]", "allow is a mapping; write users: [...] or groups: [...] in it"),
        ("allow: {user: [alice]}", "allow has no key 'user'; it may have users, groups, everyone"),
        ("allow: {users: alice}", "users is a list; write users: []"),
        ("allow: {users: }", "there is no value here; users is a list"),
        ("allow: {everyone: yes}", "everyone is true or false"),
        ('allow: {everyone: "true"}', "everyone is true or false; write one of these two, without"),
        ("allow: {everyone: [true]}", "everyone is true or false"),
        ("deny: {everyone: true}", "deny has no key 'everyone'; it may have users, groups"),
        ("adopt: 1", "adopt is true or false"),
        ("max_directories: 0", "max_directories is a number from 1 to 4294967294"),
        ("max_directories: -5", "max_directories is a number"),
        ("max_directories: 1e3", "max_directories is a number"),
        ("max_directories: {}", "max_directories is a number"),
        ('description: "a\\nb"', "a description is one line"),
        ('description: "\\u202e"', "a description is one line"),
        ("description: []", "a description is a text in one line"),
    ],
)
def test_what_an_app_cannot_say_is_told(text: str, problem: str) -> None:
    """Each with the mend, and once.

    Taken out: each of: that a mode is quoted, the keys that are known, the forms of true, the modes
    of a parent, the least number, one line of description.
    """
    assert app_problem(text).startswith(problem)


def test_values_in_other_forms_that_mean_the_same() -> None:
    """Quotes, leading zeros of modes, true written out: no matter.

    Taken out: modes that have not four digits.
    """
    assert app('mode: "755"').mode == 0o755
    assert app("mode: '00755'").mode == 0o755
    assert app('max_directories: "5"').max_directories == 5
    assert app("description: no").description == "no"
    assert app("description:").description == ""
    assert app("adopt: false").adopt is False
    assert app("allow: {everyone: true}").allow.everyone is not None
    assert app("allow: {everyone: false}").allow.everyone is None
    assert app("allow: {}").allow.position == Position(1, 12)
    assert app("group: 0").group == GroupEntry(None, 0, 1, 19)


def test_all_problems_come_in_one_go() -> None:
    """In the order of the file, with what is wrong in the middle of it not hiding the rest.

    Taken out: all problems but the first, and each rule by itself.
    """
    text = """\
apps:
  systemd: {}
  a:
    mode: 0700
    allow: {users: [0x10, alice, -1]}
    frobnicate: {deep: [down, {here: true}]}
    deny: {users: [bob], users: [eve]}
  a: {}
  b: 5
uid_range: [5, 1]
"""
    assert [problem.split(" ")[0] for problem in problems(text)] == [
        *("2:3:", "4:11:", "5:21:", "5:34:", "6:5:", "7:26:", "8:3:", "9:6:", "10:12:"),
    ]


def test_a_syntax_error_comes_with_all_that_was_wrong_before_it() -> None:
    """And with nothing that only seems wrong because the text ends there.

    Taken out: all problems but the first, and the syntax error.
    """
    text = (
        'apps:\n  systemd: {}\n  a:\n    mode: "0750"\n    allow: {users: [-1, [}\n    group: a\n'
    )
    assert [problem.split(";")[0] for problem in problems(text)] == [
        "2:3: /run/systemd belongs to the system, not to an app",
        "5:21: '-1' is no name of a user: that begins with a letter, a digit or _",
        '5:25: a user is a name, a number or a range like "2000-2999"',
        "5:26: not YAML: while parsing a flow node, did not find expected node content",
    ]


@pytest.mark.parametrize(
    "text", ["a: b: c", "\tapps: {}", "apps: {", "%NO\n---\n{}", '"', "apps: `"]
)
def test_what_is_not_yaml_says_where_it_stops(text: str) -> None:
    """The last problem is where YAML ends, in words that say what to look at.

    Taken out: the report of the syntax error.
    """
    last = problems(text)[-1]
    assert "not YAML: " in last
    assert last.endswith("check indentation and quotes; what follows was not read")


def test_line_ends_of_other_systems_are_line_ends() -> None:
    """A file that was edited elsewhere means the same, and its lines count the same.

    Taken out: that a carriage return may stand before a line feed.
    """
    assert read_policy(b"apps:\r\n  a: {}\r\n", "p").apps["a"].position == Position(2, 3)


def test_a_large_policy_is_read_quickly() -> None:
    """Ten thousand apps, each with users and groups, take no more than a few seconds.

    Taken out: nothing; put in: a look at all apps before at each of them.
    """
    lines = [f"  app{n}: {{allow: {{users: [{n}, u{n}], groups: [g]}}}}" for n in range(10_000)]
    began = time.process_time()
    document = read_policy("\n".join(["apps:", *lines]).encode(), "p")
    assert time.process_time() - began < 30
    assert len(document.apps) == 10_000


def test_a_file_that_is_all_wrong_is_told_in_bounded_space() -> None:
    """Tens of thousands of problems are not kept one by one.

    Taken out: MAX_PROBLEMS.
    """
    found = problems("apps: {a: {allow: {users: [" + "-x," * 20_000 + "]}}}")
    assert len(found) == 1001
    assert found[-1].endswith("and 19000 more; mend the others first")


WORDS = [
    *(
        "apps",
        "uid_range",
        "allow",
        "deny",
        "at_boot",
        "users",
        "groups",
        "everyone",
        "mode",
        "group",
    ),
    *(
        "parent",
        "max_directories",
        "adopt",
        "description",
        "chat",
        "alice",
        "root",
        "1000",
        '"0750"',
    ),
    *(
        '"2000-2999"',
        "true",
        "false",
        "null",
        "~",
        "<<",
        "0x10",
        "-1",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
    ),
    *(
        ": ",
        "\n",
        "\n  ",
        "\n    ",
        "\n      ",
        "- ",
        "? ",
        "&a ",
        "*a",
        "!!map ",
        "!",
        "%TAG",
        "---",
    ),
    *("...", "'", '"', "|", ">", "#", " #", "\t", "\r", "\\", '"\\ud800"', '"\\0"', "@", "`", "é"),
]


def judged(text: bytes) -> None:
    """Read it; it must be a document, or problems that say where and what."""
    found: tuple[str, ...] = ()
    try:
        assert isinstance(read_policy(text, "p"), Document)
    except PolicyError as error:
        found = error.problems or ("nothing",)
    lines = text.count(b"\n") + text.count(b"\r") + 2
    for problem in found:
        file, line, column, message = problem.split(":", 3)
        assert file == "p"
        assert 1 <= int(line) <= lines
        assert int(column) >= 1
        assert message.startswith(" ")
        assert message.isprintable()


@given(st.binary(max_size=200))
@example(b"\xff\xfe")
@example(b"\xef\xbb\xbf")
def test_any_bytes_are_a_policy_or_problems_with_places(text: bytes) -> None:
    """Whatever is in the file, nothing but PolicyError is raised, and it can be shown anywhere.

    Taken out: what catches `Stopped`.
    """
    judged(text)


@given(st.text(string.printable, max_size=200))
def test_any_text_is_a_policy_or_problems_with_places(text: str) -> None:
    """The same for text.

    Taken out: what catches `Stopped`.
    """
    judged(text.encode())


@settings(max_examples=1000)
@given(st.lists(st.sampled_from(WORDS), max_size=40).map("".join))
def test_any_words_are_a_policy_or_problems_with_places(text: str) -> None:
    """The same for what is nearly a policy.

    Taken out: what catches `Stopped`.
    """
    judged(text.encode())


@settings(max_examples=500)
@given(
    st.integers(0, len(EXAMPLE)),
    st.integers(0, 30),
    st.sampled_from(WORDS) | st.text(max_size=3),
)
def test_a_good_policy_with_a_slip_is_a_policy_or_problems(
    start: int, length: int, slip: str
) -> None:
    """The same for a policy with something missing or in its place.

    Taken out: what catches `Stopped`.
    """
    text = EXAMPLE[:start] + slip + EXAMPLE[start + length :]
    judged(text.encode(errors="surrogatepass"))
