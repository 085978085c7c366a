"""The user database: real files and services of the C library, working, broken and hanging.

Each test that needs one has an /etc/passwd, /etc/group and /etc/nsswitch.conf of its own, mounted
over the machine's in a mount namespace. The broken service is `hesiod`, which comes with the C
library and has no server here; the hanging ones are a fifo in the place of /etc/passwd, and hesiod
with a name server that never answers.
"""

import os
import pwd
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from private_world import in_private_world, needs_root
from sockbroker.core.accounts import Absent, Accounts, Group, Lookups, Unavailable, User
from sockbroker.kernel.accounts import groups_of, login_defs_range, look_up

USERS = """\
root:x:0:0:root:/root:/bin/sh
alice:x:1001:1001::/:/bin/sh
bob:x:1002:500::/:/bin/sh
"""
GROUPS = """\
root:x:0:
alice:x:1001:
chat:x:500:alice,nosuch
empty:x:600:
"""
ALICE = User("alice", 1001, 1001)
BOB = User("bob", 1002, 500)


def mount(what: str | Path, where: str) -> None:
    """Have `where` show what is at `what`."""
    subprocess.run(["mount", "--bind", what, where], check=True)


def use(services: str, passwd: str = USERS, group: str = GROUPS) -> None:
    """Have these be the machine's users and groups, and the services that are asked."""
    # [SUCCESS=merge] is for groups alone; for users the C library makes an error of it.
    lines = {"passwd": services.replace("[SUCCESS=merge]", ""), "group": services, "hosts": "files"}
    texts = {
        "passwd": passwd,
        "group": group,
        "nsswitch.conf": "# ours\n" + "".join(f"{key}:\t{lines[key]}  # it\n" for key in lines),
    }
    here = Path("/run/etc")
    here.mkdir()
    for name, text in texts.items():
        (here / name).write_text(text, encoding="utf-8", errors="surrogateescape")
        mount(here / name, f"/etc/{name}")


def world(
    services: str, test: Callable[[], None], passwd: str = USERS, group: str = GROUPS
) -> None:
    """Run a test with these users."""

    def run() -> None:
        use(services, passwd, group)
        test()

    in_private_world(run)


def ask(
    seconds: float = 20,
    *,
    users: Iterable[str] = (),
    groups: Iterable[str] = (),
    member_groups: Iterable[str] = (),
    gids: Iterable[int] = (),
    uids: Iterable[int] = (),
    listing: bool = False,
) -> Accounts:
    """Look these up."""
    wanted = Lookups(
        users=frozenset(users),
        groups=frozenset(groups),
        member_groups=frozenset(member_groups),
        gids=frozenset(gids),
        uids=frozenset(uids),
        listing=listing,
    )
    return look_up(wanted, deadline_seconds=seconds)


@needs_root
def test_who_is_there_is_found_and_who_is_not_is_absent() -> None:
    """By name and by number, users and groups."""

    def test() -> None:
        found = ask(
            users=["alice", "nosuch"],
            groups=["chat", "nogroup"],
            gids=[500, 501],
            uids=[1002, 1003],
        )
        assert found.users == {"alice": ALICE, "nosuch": Absent()}
        assert found.groups == {"chat": Group("chat", 500), "nogroup": Absent()}
        assert found.gids == {500: Group("chat", 500, frozenset({1001})), 501: Absent()}
        assert found.entries == {1001: ALICE, 1002: BOB, 1003: Absent()}
        assert found.primary == {}

    world("files", test)


@needs_root
def test_members_become_uids_where_they_matter() -> None:
    """A member who does not exist is nobody."""

    def test() -> None:
        found = ask(groups=["chat", "empty", "root"], member_groups=["chat", "empty"])
        assert found.groups["chat"] == Group("chat", 500, frozenset({1001}))
        assert found.groups["empty"] == Group("empty", 600, frozenset())
        assert found.entries == {1001: ALICE}

    world("files", test)


@needs_root
def test_the_listing_tells_primary_groups() -> None:
    """Of everybody whom the database lists."""

    def test() -> None:
        found = ask(listing=True)
        assert found.primary == {
            0: frozenset({0}),
            1001: frozenset({1001}),
            500: frozenset({1002}),
        }
        assert found.entries[1002] == BOB

    world("files", test)


@needs_root
@pytest.mark.parametrize(
    ("services", "local", "missing"),
    [
        ("files", "found", "absent"),
        ("files hesiod", "found", "unavailable"),
        # What getpwnam_r itself gets wrong: the last service's "not found" hides the dead one.
        ("hesiod files", "found", "unavailable"),
        ("files nosuchservice", "found", "unavailable"),
        ("nosuchservice files", "found", "unavailable"),
        ("hesiod", "unavailable", "unavailable"),
        ("nosuchservice", "unavailable", "unavailable"),
        ("", "found", "absent"),
        # Conditions are the C library's business.
        ("files [NOTFOUND=return] hesiod", "found", "absent"),
        ("hesiod [UNAVAIL=return] files", "unavailable", "unavailable"),
        ("files [!UNAVAIL=return] hesiod", "found", "absent"),
    ],
)
def test_a_broken_service_is_not_an_absent_name(services: str, local: str, missing: str) -> None:
    """Wherever it stands in the line; names that a working one has are found all the same."""

    def state(answer: object) -> str:
        return "found" if isinstance(answer, User | Group) else type(answer).__name__.lower()

    def test() -> None:
        found = ask(
            users=["alice", "nosuch"],
            uids=[1002, 4242],
            groups=["chat", "nosuch"],
            gids=[600, 4242],
        )
        assert {state(found.users["alice"]), state(found.groups["chat"])} == {local}
        assert {state(found.entries[1002]), state(found.gids[600])} == {local}
        assert {state(found.users["nosuch"]), state(found.groups["nosuch"])} == {missing}
        assert {state(found.entries[4242]), state(found.gids[4242])} == {missing}

    world(services, test)


@needs_root
def test_a_file_that_is_not_there_is_a_broken_service() -> None:
    """The C library says ENOENT then, which is no answer to whether a name exists."""

    def test() -> None:
        etc = Path("/run/empty")
        etc.mkdir()
        (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\n")
        mount(etc, "/etc")
        found = ask(users=["root"], groups=["root"])
        assert found.users["root"] == Unavailable("No such file or directory")
        assert found.groups["root"] == Unavailable("No such file or directory")
        (etc / "nsswitch.conf").unlink()
        (etc / "passwd").write_text(USERS)
        assert ask(users=["alice"]).users["alice"] == ALICE

    in_private_world(test)


@needs_root
def test_a_group_of_several_services_needs_all_of_them() -> None:
    """With [SUCCESS=merge] members may be missing although the group was found."""

    def test() -> None:
        found = ask(groups=["chat", "nosuch"], member_groups=["chat"], gids=[500])
        group = found.groups["chat"]
        assert isinstance(group, Group)
        assert group.gid == 500
        assert isinstance(group.members, Unavailable)
        assert found.gids[500] == group
        assert isinstance(found.groups["nosuch"], Unavailable)

    world("files [SUCCESS=merge] hesiod", test)
    world(
        "files [SUCCESS=merge] files",
        lambda: _assert_equal(
            ask(groups=["chat"], member_groups=["chat"]).groups["chat"],
            Group("chat", 500, frozenset({1001})),
        ),
    )


def _assert_equal(found: object, expected: object) -> None:
    assert expected == found


@needs_root
def test_a_member_who_cannot_be_looked_up_leaves_the_members_unknown() -> None:
    """Half of the members are not the members; the gid is known."""

    def test() -> None:
        found = ask(groups=["chat"], member_groups=["chat"])
        group = found.groups["chat"]
        assert isinstance(group, Group)
        assert (group.gid, isinstance(group.members, Unavailable)) == (500, True)

    world("files hesiod", test)


@needs_root
def test_a_database_that_hangs_is_unavailable_at_the_deadline() -> None:
    """And as long as it hangs no second thread is put at risk; afterwards all is well again."""

    def test() -> None:
        os.mkfifo("/run/fifo")
        mount("/run/fifo", "/etc/passwd")
        for _ in range(3):
            began = time.monotonic()
            found = ask(1, users=["alice"], groups=["chat"], uids=[5], gids=[5], listing=True)
            assert time.monotonic() - began < 30
            assert isinstance(found.users["alice"], Unavailable)
            assert isinstance(found.groups["chat"], Unavailable)
            assert isinstance(found.entries[5], Unavailable)
            assert isinstance(found.gids[5], Unavailable)
            assert isinstance(found.primary, Unavailable)
            with pytest.raises(OSError, match="cannot be asked"):
                groups_of(1001, deadline_seconds=0.1)
            assert threading.active_count() == 2
        # Whoever opens the fifo gets an empty passwd file, and then the real one again.
        subprocess.run(["umount", "--lazy", "/etc/passwd"], check=True)
        with open("/run/fifo", "w"):
            pass
        assert ask(users=["alice"]).users["alice"] == ALICE

    world("files", test)


@needs_root
def test_a_directory_server_that_hangs_does_not_hide_local_names() -> None:
    """What the files have is found first, users, groups and members; the rest is unavailable."""

    def test() -> None:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        etc = Path("/run/etc")
        for name, text in (
            ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n"),
            ("hesiod.conf", "lhs=.ns\nrhs=.example.org\nclasses=IN\n"),
        ):
            (etc / name).write_text(text)
        mount(etc, "/etc")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 53))
            silent.settimeout(60)
            found = ask(
                6, users=["alice", "remote"], groups=["root", "remotes"], member_groups=["root"]
            )
            assert silent.recv(4096)  # it was asked, and so it hangs and is not only broken
        assert found.users == {"alice": ALICE, "remote": Unavailable("no answer in time")}
        assert found.groups["root"] == Group("root", 0, frozenset({1001}))
        assert found.groups["remotes"] == Unavailable("no answer in time")

    world("files hesiod", test, group="root:x:0:alice\n")


@needs_root
def test_what_was_selected_for_a_look_up_is_undone() -> None:
    """The process's own view of the user database is that of the machine."""

    def test() -> None:
        assert isinstance(ask(users=["nosuch"]).users["nosuch"], Unavailable)
        assert pwd.getpwnam("alice").pw_uid == 1001

    world("files hesiod", test)


@needs_root
def test_a_changed_configuration_is_seen() -> None:
    """Without a restart, as other programs see it."""

    def test() -> None:
        assert isinstance(ask(users=["nosuch"]).users["nosuch"], Unavailable)
        Path("/run/etc/nsswitch.conf").write_text("passwd: files\ngroup: files\n")
        assert ask(users=["nosuch"]).users["nosuch"] == Absent()

    world("files hesiod", test)


@needs_root
def test_a_large_database_takes_seconds() -> None:
    """Twenty thousand users and a group of all of them: an entry far larger than the buffer."""
    count = 20_000
    passwd = USERS + "".join(f"u{n}:x:{n + 100_000}:900::/:/bin/sh\n" for n in range(count))
    group = GROUPS + "all:x:900:" + ",".join(f"u{n}" for n in range(count)) + "\n"
    uids = frozenset(range(100_000, 100_000 + count))

    def test() -> None:
        began = time.monotonic()
        found = ask(groups=["all"], member_groups=["all"], listing=True)
        assert found.groups["all"] == Group("all", 900, uids)
        assert not isinstance(found.primary, Unavailable)
        assert found.primary[900] == uids
        named = ask(users=[f"u{n}" for n in range(count)])
        assert len({user for user in named.users.values() if isinstance(user, User)}) == count
        assert time.monotonic() - began < 10

    world("files", test, passwd, group)


MANY = range(2_000, 22_000)


@needs_root
def test_many_uids_are_what_each_by_itself_is() -> None:
    """The file is read once for all of them, and says the same as when it is searched for each.

    Seen to fail with the last of two entries for a uid, and with entries that begin with + or -.
    """
    odd = "first:x:2000:7::/:/bin/sh\nsecond:x:2000:8::/:/bin/sh\n"
    odd += "+plus:x:2001:7::/:/bin/sh\n-minus:x:2002:7::/:/bin/sh\nlast:x:2003:7::/:/bin/sh\n"

    def test() -> None:
        found = ask(uids=MANY).entries
        for uid in range(2000, 2010):
            assert found[uid] == ask(uids=[uid]).entries[uid], uid
        assert found[2000] == User("first", 2000, 7)
        assert found[2003] == User("last", 2003, 7)
        assert {str(found[uid]) for uid in MANY[4:]} == {str(Absent())}

    world("files", test, USERS + odd)


@needs_root
def test_the_first_entry_of_a_uid_counts_in_a_listing() -> None:
    """As it does for who looks the uid up.

    Seen to fail with the last one.
    """
    twice = "first:x:2000:7::/:/bin/sh\nsecond:x:2000:8::/:/bin/sh\n"

    def test() -> None:
        assert ask(listing=True).entries[2000] == User("first", 2000, 7)

    world("files", test, USERS + twice)


@needs_root
def test_a_listing_has_entries_of_any_length() -> None:
    """The C library says when its buffer is too small, and then gets a larger one.

    Seen to fail when the first buffer is kept.
    """
    long = "".join(
        f"u{length}:x:{length}:900:{'x' * length}:/:/bin/sh\n" for length in (3000, 30_000, 300_000)
    )

    def test() -> None:
        entries = ask(listing=True).entries
        for uid in (3000, 30_000, 300_000, 1001):
            assert isinstance(entries[uid], User), uid

    world("files", test, long + USERS)


@needs_root
def test_twenty_thousand_uids_take_one_reading() -> None:
    """And not as many searches of a long file, each of which takes a millisecond.

    Seen to fail when each uid is looked up.
    """
    long = "".join(f"u{n}:x:{n}:900::/:/bin/sh\n" for n in range(100_000, 105_000))

    def test() -> None:
        began = time.process_time()
        found = ask(uids=[*MANY, 100_007]).entries
        assert time.process_time() - began < 2
        assert found[2000] == Absent()
        assert found[100_007] == User("u100007", 100_007, 900)

    world("files", test, USERS + long)


@needs_root
@pytest.mark.parametrize("services", ["files", "files hesiod", "hesiod files"])
def test_many_uids_of_a_file_that_is_not_there(services: str) -> None:
    """Nobody is absent for that: a file that cannot be opened is listed as if it were empty.

    Seen to fail without the look-up that has to come first.
    """

    def test() -> None:
        etc = Path("/run/empty")
        etc.mkdir()
        (etc / "nsswitch.conf").write_text(f"passwd: {services}\ngroup: files\n")
        mount(etc, "/etc")
        assert {type(answer) for answer in ask(uids=MANY).entries.values()} == {Unavailable}

    in_private_world(test)


@needs_root
def test_names_that_are_no_text_do_no_harm() -> None:
    """Bytes that are not UTF-8 are carried through."""

    def test() -> None:
        found = ask(groups=["odd"], member_groups=["odd"], listing=True)
        assert found.groups["odd"] == Group("odd", 700, frozenset({1700}))
        assert found.entries[1700] == User("m\udcfcller", 1700, 1700)

    odd = "m\udcfcller"
    world("files", test, USERS + f"{odd}:x:1700:1700::/:/bin/sh\n", f"odd:x:700:{odd}\n")


@needs_root
def test_the_groups_of_a_user_are_those_of_a_login() -> None:
    """The primary one and all that list him; None for who does not exist."""

    def test() -> None:
        assert groups_of(1001) == (1001, frozenset({1001, 500, *range(2000, 2100)}))
        assert groups_of(1002) == (500, frozenset({500}))
        assert groups_of(4242) is None

    many = "".join(f"g{n}:x:{n}:alice\n" for n in range(2000, 2100))
    world("files", test, group=GROUPS + many)


@needs_root
def test_the_groups_of_a_user_who_cannot_be_looked_up_are_an_error() -> None:
    """Nobody is taken for absent because a service is down."""

    def test() -> None:
        with pytest.raises(OSError, match="cannot be asked"):
            groups_of(4242)
        assert groups_of(1001) == (1001, frozenset({1001, 500}))

    world("files hesiod", test)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (1000, 60000)),
        ("UID_MIN 500\nUID_MAX 2000\n", (500, 2000)),
        ("UID_MIN\t\t 500\n", (500, 60000)),
        ("  UID_MAX 70000", (1000, 70000)),
        ("#UID_MIN 500\nSYS_UID_MIN 7\nSUB_UID_MAX 8\nUID_MIN_X 9\n", (1000, 60000)),
        ("UID_MIN 500\nUID_MIN 600\n", (600, 60000)),
        ("UID_MIN 70000\n", (1000, 60000)),
        ("UID_MAX 4294967295\n", (1000, 60000)),
        ("UID_MIN none\nUID_MAX -5\n", (1000, 60000)),
        ("\0\udcff UID_MIN 5\n", (1000, 60000)),
    ],
)
def test_the_uids_of_people_are_those_of_login_defs(
    tmp_path: Path, text: str, expected: tuple[int, int]
) -> None:
    """As far as the file has sane ones, else the usual ones."""
    path = tmp_path / "login.defs"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert login_defs_range(str(path)) == expected


def test_without_login_defs_the_uids_of_people_are_the_usual_ones(tmp_path: Path) -> None:
    """Not every system has the file."""
    assert login_defs_range(str(tmp_path / "none")) == (1000, 60000)
