"""The verdict: what decides, and what cannot be told, step by step."""

import pytest

from sockbroker.core.connecting import PATH_LIMIT, Cause, Verdict, judge, judge_abstract
from sockbroker.core.permission import Identity, Kind, Node, Unread
from sockbroker.core.way import (
    Blind,
    Bound,
    Dead,
    DeadEnd,
    End,
    Followed,
    Missing,
    NotSeen,
    Passed,
    Reached,
    Socket,
    SocketType,
    Step,
    Unbound,
    Untold,
    Way,
)

ROOT, ALICE, BOB = 0, 1000, 1001
WHO = Identity(uid=BOB, groups=frozenset({BOB}))
LIVE = Bound(type=SocketType.STREAM, listening=True, backlog=5)


def node(kind: Kind, mode: int, uid: int = ROOT, acl: Unread | None = None) -> Node:
    return Node(kind=kind, mode=mode, uid=uid, gid=uid, acl=acl)


def passed(mode: int = 0o755, *, acl: Unread | None = None) -> Passed:
    return Passed(path=b"/f", node=node(Kind.FOLDER, mode, acl=acl))


def link(uid: int = ALICE, *, last: bool = True, nosymfollow: bool = False) -> Followed:
    return Followed(
        path=b"/f/l",
        node=node(Kind.LINK, 0o777, uid),
        target=b"s",
        folder=node(Kind.FOLDER, 0o1777),
        last=last,
        mount_forbids=nosymfollow,
    )


def reached(mode: int = 0o777, kind: Kind = Kind.SOCKET, acl: Unread | None = None) -> Reached:
    return Reached(path=b"/f/s", node=node(kind, mode, ALICE, acl), device=1, inode=2)


def verdict(
    *steps: Step,
    end: End | None = None,
    socket: Socket = LIVE,
    wanted: SocketType | None = None,
    protected: bool | None = True,
    written: bytes = b"/f/s",
) -> Verdict:
    way = Way(written=written, steps=steps, end=reached() if end is None else end)
    return judge(way, socket, WHO, links_protected=protected, wanted=wanted)


def test_everything_lets_him_through() -> None:
    """Then he can, and nothing decides."""
    found = verdict(passed(), passed())
    assert (found.can_connect, found.deciding, found.error) == (True, None, None)
    assert [each.cause for each in found.judged] == [
        Cause.SEARCH, Cause.SEARCH, Cause.WRITE, Cause.SOCKET,
    ]  # fmt: skip
    assert found.refused == ()


@pytest.mark.parametrize(
    ("steps", "end", "step", "cause", "error"),
    [
        ([passed(0o700)], reached(), 0, Cause.SEARCH, "EACCES"),
        ([passed(), passed(0o700)], reached(0o755), 1, Cause.SEARCH, "EACCES"),
        ([passed()], reached(0o755), 1, Cause.WRITE, "EACCES"),
        ([passed(), link()], reached(), 1, Cause.PROTECTED_LINK, "EACCES"),
        ([passed(), link(nosymfollow=True)], reached(), 1, Cause.PROTECTED_LINK, "EACCES"),
        ([passed(), link(BOB, nosymfollow=True)], reached(), 1, Cause.LINK_ON_MOUNT, "ELOOP"),
        (
            [passed(), link(last=False, nosymfollow=True)],
            reached(),
            1,
            Cause.LINK_ON_MOUNT,
            "ELOOP",
        ),
        (
            [passed()],
            Missing(path=b"/f/s", folder=passed().node, last=True),
            1,
            Cause.MISSING,
            "ENOENT",
        ),
        ([passed()], DeadEnd(path=b"/", kind=Dead.NOT_A_FOLDER), 1, Cause.DEAD_END, "ENOTDIR"),
        ([passed()], DeadEnd(path=b"/", kind=Dead.TOO_MANY_LINKS), 1, Cause.DEAD_END, "ELOOP"),
        (
            [passed()],
            DeadEnd(path=b"/", kind=Dead.NAME_TOO_LONG),
            1,
            Cause.DEAD_END,
            "ENAMETOOLONG",
        ),
        ([passed()], reached(kind=Kind.FILE), 1, Cause.NOT_A_SOCKET, "ECONNREFUSED"),
        ([passed()], reached(0o755, kind=Kind.FOLDER), 1, Cause.WRITE, "EACCES"),
    ],
)
def test_the_first_that_refuses_decides(
    steps: list[Step], end: End, step: int, cause: Cause, error: str
) -> None:
    """With the error that the kernel gives for it."""
    found = verdict(*steps, end=end)
    assert found.can_connect is False
    assert found.deciding is not None
    assert (found.deciding.step, found.deciding.cause, found.error) == (step, cause, error)
    assert found.refused[0] is found.deciding


def test_links_in_the_middle_are_not_protected() -> None:
    """Only the last one of a path is, measured."""
    assert verdict(passed(), link(last=False)).can_connect is True


def test_the_error_behind_many_links_is_not_foretold() -> None:
    """The kernel counts them twice there; that he cannot connect is certain."""
    few, many = ([link(last=False)] * count + [link()] for count in (19, 20))
    assert (verdict(*few).can_connect, verdict(*few).error) == (False, "EACCES")
    assert (verdict(*many).can_connect, verdict(*many).error) == (False, None)


@pytest.mark.parametrize(
    ("steps", "end", "protected", "cause"),
    [
        ([passed(0o770, acl=Unread.UNREAD)], reached(), True, Cause.SEARCH),
        ([passed()], reached(0o770, acl=Unread.UNREAD), True, Cause.WRITE),
        ([passed()], NotSeen(path=b"/f/s", kind=Blind.FORBIDDEN), True, Cause.NOT_SEEN),
        ([passed(), link()], reached(), None, Cause.PROTECTED_LINK),
    ],
)
def test_what_is_not_seen_leaves_it_open(
    steps: list[Step], end: End, protected: bool | None, cause: Cause
) -> None:
    """Unknown is not yes, and not no."""
    found = verdict(*steps, end=end, protected=protected)
    assert (found.can_connect, found.error) == (None, None)
    assert found.deciding is not None
    assert found.deciding.cause is cause


def test_a_refusal_behind_something_unseen_decides() -> None:
    """But which error comes first is not known then."""
    found = verdict(passed(0o770, acl=Unread.UNREAD), passed(0o700))
    assert (found.can_connect, found.error) == (False, None)
    assert found.deciding is not None
    assert found.deciding.step == 1


def test_a_path_that_is_too_long() -> None:
    """No permission helps."""
    assert verdict(passed(), written=b"/" * PATH_LIMIT).can_connect is True
    found = verdict(passed(0), written=b"/" * (PATH_LIMIT + 1))
    assert (found.can_connect, found.error) == (False, "EINVAL")
    assert found.deciding is not None
    assert found.deciding.cause is Cause.PATH_TOO_LONG


STREAM, DGRAM, SEQPACKET = SocketType.STREAM, SocketType.DGRAM, SocketType.SEQPACKET
SOCKETS = [
    (LIVE, None, True, Cause.SOCKET, None),
    (LIVE, STREAM, True, Cause.SOCKET, None),
    (LIVE, DGRAM, False, Cause.OTHER_TYPE, "EPROTOTYPE"),
    (Bound(type=DGRAM, listening=False), DGRAM, True, Cause.SOCKET, None),
    (Bound(type=DGRAM, listening=False), STREAM, False, Cause.OTHER_TYPE, "EPROTOTYPE"),
    (Bound(type=DGRAM, listening=False, peered=True), None, False, Cause.PEERED, "EPERM"),
    (Bound(type=SEQPACKET, listening=True), SEQPACKET, True, Cause.SOCKET, None),
    (Bound(type=STREAM, listening=False), None, False, Cause.NOT_LISTENING, "ECONNREFUSED"),
    (Bound(type=STREAM, listening=True, shut=True), None, False, Cause.SHUT, "ECONNREFUSED"),
    (Bound(type=STREAM, listening=True, waiting=6, backlog=5), None, True, Cause.SOCKET, None),
    (Unbound(), None, False, Cause.STALE, "ECONNREFUSED"),
    (Unbound(), DGRAM, False, Cause.STALE, "ECONNREFUSED"),
    (Untold("why"), None, None, Cause.SOCKET, None),
]


@pytest.mark.parametrize(("socket", "wanted", "can", "cause", "error"), SOCKETS)
def test_the_state_of_the_socket(
    socket: Socket, wanted: SocketType | None, can: bool | None, cause: Cause, error: str | None
) -> None:
    """Judged alike behind a path and by an abstract name."""
    for found in (
        verdict(passed(), socket=socket, wanted=wanted),
        judge_abstract(socket, wanted=wanted),
    ):
        assert (found.can_connect, found.judged[-1].cause, found.error) == (can, cause, error)


@pytest.mark.parametrize(
    ("listening", "waiting", "full"), [(True, 5, False), (True, 6, True), (False, 6, False)]
)
def test_a_full_queue(listening: bool, waiting: int, full: bool) -> None:
    """The kernel lets one more wait than the backlog says."""
    assert Bound(type=STREAM, listening=listening, waiting=waiting, backlog=5).full is full
