"""The mends: the smallest change, and who may be told to make it."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockbroker.core.acl import Acl, Entry, Tag
from sockbroker.core.connecting import judge
from sockbroker.core.mending import Change, Join, Mend, NewSession, mends, removal, roots_alone
from sockbroker.core.permission import Identity, Kind, Node
from sockbroker.core.quoting import shell_command
from sockbroker.core.way import Bound, Passed, Reached, SocketType, Step, Unbound, Way

ROOT, ALICE, BOB, TEAM = 0, 1000, 1001, 500
WHO = Identity(uid=BOB, groups=frozenset({BOB}))
SOCKET = b"/run/chat/s"
LIVE = Bound(type=SocketType.STREAM, listening=True)


def folder(
    path: bytes, mode: int = 0o755, uid: int = ROOT, gid: int = ROOT, acl: Acl | None = None
) -> Passed:
    return Passed(path=path, node=Node(kind=Kind.FOLDER, mode=mode, uid=uid, gid=gid, acl=acl))


def sock(
    mode: int = 0o755,
    uid: int = ALICE,
    gid: int = ALICE,
    acl: Acl | None = None,
    path: bytes = SOCKET,
) -> Reached:
    node = Node(kind=Kind.SOCKET, mode=mode, uid=uid, gid=gid, acl=acl)
    return Reached(path=path, node=node, device=1, inode=2)


def way(*steps: Step, end: Reached) -> Way:
    return Way(written=end.path, steps=(folder(b"/"), folder(b"/run"), *steps), end=end)


def found(
    whole: Way, *, login: Identity | None = None, private: frozenset[int] = frozenset({0, ALICE})
) -> tuple[Mend, ...]:
    verdict = judge(whole, LIVE, WHO, links_protected=True)
    return mends(whole, verdict, WHO, login=login, private_groups=private)


def change(*command: str, step: int = 3, by: tuple[int, ...], alone: bool = False) -> Change:
    words = (*(word.encode() for word in command[:-1]), command[-1].encode())
    return Change(step=step, runners=by, command=words, only_him=alone)


def test_nothing_to_mend() -> None:
    """No advice without a refusal.

    Taken out: that only refusals are mended (whatever was judged was).
    """
    assert found(way(folder(b"/run/chat"), end=sock(0o777))) == ()


def test_the_umask_took_the_write_bit() -> None:
    """One bit of the socket, or an entry for him alone; its owner or root may do it.

    Taken out: that only refusals are mended (whatever was judged was).
    """
    assert found(way(folder(b"/run/chat"), end=sock())) == (
        change("chmod", "o+w", "/run/chat/s", by=(ALICE, ROOT)),
        change("setfacl", "-m", "u:1001:w", "/run/chat/s", by=(ALICE, ROOT), alone=True),
    )


@pytest.mark.parametrize(
    "unsafe",
    [
        folder(b"/run/chat", 0o1777),  # sticky or not
        folder(b"/run/chat", 0o775),
        folder(b"/run/chat", 0o755, uid=ALICE),
    ],
)
def test_root_runs_nothing_where_names_can_be_swapped(unsafe: Passed) -> None:
    """The owner is asked; where that is root there is no command at all.

    Taken out: `roots_alone` of `_runners`, and each of its two looks at a folder; with each, root
    is named.
    """
    of_alice, *_ = found(way(unsafe, end=sock()))
    assert of_alice == change("chmod", "o+w", "/run/chat/s", by=(ALICE,))
    of_root, *_ = found(way(unsafe, end=sock(uid=ROOT, gid=ROOT)))
    assert of_root == change("chmod", "o+w", "/run/chat/s", by=())


def test_root_runs_nothing_below_what_was_not_seen() -> None:
    """A relative path begins in a folder whose own folders nobody has looked at.

    Taken out: that `roots_alone` wants every folder seen.
    """
    relative = Way(written=b"s", steps=(folder(b"/run/chat"),), end=sock())
    assert not roots_alone(relative, SOCKET)
    assert roots_alone(way(end=sock()), b"/")
    assert roots_alone(way(end=sock()), b"/run")
    assert roots_alone(way(end=sock()), b"/run/chat")


def test_every_refusal_is_mended_once() -> None:
    """A folder that is passed twice too; in the order of the way.

    Taken out: what was mended already.
    """
    closed = folder(b"/run/chat", 0o600)
    changes = [each for each in found(way(closed, closed, end=sock())) if isinstance(each, Change)]
    assert [each for each in changes if not each.only_him] == [
        change("chmod", "o+x", "/run/chat", step=2, by=(ROOT,)),
        change("chmod", "o+w", "/run/chat/s", step=4, by=(ALICE, ROOT)),
    ]


def test_what_is_missing_for_owner_and_group() -> None:
    """The class that he is in gets the bit, and no other.

    Taken out: the class (all got the bit).
    """
    mine = found(way(folder(b"/run/chat", 0o600, uid=BOB), end=sock(0o777)))
    assert mine == (change("chmod", "u+x", "/run/chat", step=2, by=(BOB, ROOT)),)
    ours = found(way(folder(b"/run/chat", 0o701, gid=BOB), end=sock(0o777)))
    assert ours == (change("chmod", "g+x", "/run/chat", step=2, by=(ROOT,)),)


def test_a_group_that_has_it_can_be_joined() -> None:
    """That is what the group is for, unless it is root's or one user's.

    Taken out: the private groups.
    """
    shared = way(folder(b"/run/chat"), end=sock(0o770, gid=TEAM))
    assert found(shared) == (
        Join(step=3, gid=TEAM),
        change("setfacl", "-m", "u:1001:w", "/run/chat/s", by=(ALICE, ROOT), alone=True),
    )
    first, *_ = found(shared, private=frozenset({TEAM}))
    assert first == change("chmod", "o+w", "/run/chat/s", by=(ALICE, ROOT))


def test_a_group_of_the_acl_can_be_joined() -> None:
    """Where its entry has the permission, and the mask leaves it.

    Taken out: the mask, the -n of setfacl, and that the group has the permission.
    """
    team = Entry(Tag.NAMED_GROUP, 6, TEAM)
    plain = (Entry(Tag.OWNER, 7), Entry(Tag.GROUP, 0), team)
    good = Acl((*plain, Entry(Tag.MASK, 6), Entry(Tag.OTHER, 0)))
    assert found(way(folder(b"/run/chat"), end=sock(0o760, acl=good))) == (
        Join(step=3, gid=TEAM),
        change("setfacl", "-n", "-m", "u:1001:w", "/run/chat/s", by=(ALICE, ROOT), alone=True),
    )
    masked = Acl((*plain, Entry(Tag.MASK, 4), Entry(Tag.OTHER, 0)))
    first, alone = found(way(folder(b"/run/chat"), end=sock(0o740, acl=masked)))
    assert first == change("chmod", "o+w", "/run/chat/s", by=(ALICE, ROOT))
    assert isinstance(alone, Change)
    assert alone.command[:3] == (b"setfacl", b"-n", b"-m")
    assert alone.command[3] == b"u:1001:w,m::rw"


def test_his_own_entry_is_widened() -> None:
    """And the mask only by what it lacks.

    Taken out: the bits that he has, the mask, and the -n of setfacl.
    """
    mine = Entry(Tag.USER, 4, BOB)
    entries = (Entry(Tag.OWNER, 7), mine, Entry(Tag.GROUP, 0))
    masked = Acl((*entries, Entry(Tag.MASK, 4), Entry(Tag.OTHER, 0)))
    assert found(way(folder(b"/run/chat"), end=sock(0o740, acl=masked))) == (
        change(
            "setfacl", "-n", "-m", "u:1001:rw,m::rw", "/run/chat/s", by=(ALICE, ROOT), alone=True
        ),
    )
    without = Acl((*entries, Entry(Tag.OTHER, 0)))
    (only,) = found(way(folder(b"/run/chat"), end=sock(0o740, acl=without)))
    assert isinstance(only, Change)
    assert only.command[3] == b"u:1001:rw,m::w"


def test_a_session_from_before_the_group() -> None:
    """He is in the group, the process is not: nothing on the disk has to change.

    Taken out: the look at a new session.
    """
    login = Identity(uid=BOB, groups=frozenset({BOB, TEAM}))
    shared = way(folder(b"/run/chat"), end=sock(0o770, gid=TEAM))
    assert found(shared, login=login) == (NewSession(step=3, gid=TEAM),)
    other, *_ = found(way(folder(b"/run/chat"), end=sock()), login=login)
    assert isinstance(other, Change)


def test_what_is_no_permission_has_no_mend_here() -> None:
    """A dead server's socket can be removed, by whom it is safe for.

    Taken out: that a refusal needs a grant to be mended.
    """
    whole = way(folder(b"/run/chat"), end=sock(0o777))
    verdict = judge(whole, Unbound(), WHO, links_protected=True)
    assert mends(whole, verdict, WHO, login=None) == ()
    assert removal(whole, sock()) == change("rm", "/run/chat/s", by=(ALICE, ROOT))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((b"chmod", b"o+w", b"/run/chat/s"), "chmod o+w /run/chat/s"),
        ((b"rm", b"/a b"), "rm '/a b'"),
        ((b"rm", b"/$(reboot)"), "rm '/$(reboot)'"),
        ((b"rm", b"/it's"), "rm '/it'\\''s'"),
        ((b"rm", b"/!x;`y`\\"), "rm '/!x;`y`\\'"),
        ((b"rm", b""), "rm ''"),
        ((b"rm", b"/~"), "rm '/~'"),
        ((b"rm", b"/a\nb"), None),
        ((b"rm", b"/\x1b[2J"), None),
        ((b"rm", b"/\x7f"), None),
        ((b"rm", b"/\xff"), None),
        ((b"rm", "/grün".encode()), None),
        ((b"rm", b"/a\0"), None),
    ],
)
def test_quoting(words: tuple[bytes, ...], line: str | None) -> None:
    """A name is taken literally by a shell and by a terminal, or there is no command.

    Taken out: the quotes, and that only printable ASCII can be quoted.
    """
    assert shell_command(words) == line


@given(st.lists(st.binary(), min_size=1))
def test_a_shell_takes_back_what_was_quoted(words: list[bytes]) -> None:
    """Word by word, and nothing that a terminal obeys is in it.

    Taken out: the quotes, and that only printable ASCII can be quoted.
    """
    line = shell_command(words)
    if line is not None:
        assert [word.encode() for word in shlex.split(line)] == words
        assert line.isascii()
        assert line.isprintable()
