"""Socket files are found without asking, following or waiting for anything that a user made."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import own_run
import pytest

from sockbroker.kernel.entries import Owned
from sockbroker.kernel.runtime_sockets import SocketFile, Survey, Unseen

pytestmark = pytest.mark.root

ALICE = 1234


@pytest.fixture
def directory() -> Iterator[Path]:
    """Alice's directory for the app chat."""
    with own_run.mounted_run() as run:
        (run / "chat/.sockbroker").mkdir(parents=True)
        path = run / f"chat/{ALICE}"
        path.mkdir()
        os.chown(path, ALICE, ALICE)
        yield path


class Ended(Exception):
    pass


def survey(act: Callable[[Survey], object], *, pace: Callable[[], None] = lambda: None) -> object:
    with Owned(os.open("/run", os.O_PATH)) as base:
        return act(Survey(base, "/run", claims=list, pace=pace))


def seen() -> list[tuple[bytes, str | None]]:
    """Every path, with the reason if it could not be looked at."""
    found: list[tuple[bytes, str | None]] = []

    def look(survey: Survey) -> None:
        for each in survey.look(None):
            found.append((each.path, each.reason if isinstance(each, Unseen) else None))

    survey(look)
    return found


def make(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize("below", ["", "sub"])
def test_a_file_server_that_never_answers(directory: Path, below: str) -> None:
    """It is told of and not asked, at once."""
    target = directory / below
    target.mkdir(exist_ok=True)
    expected = [(os.fsencode(target), "something is mounted on it")]

    def look() -> None:
        assert seen() == expected

    with own_run.mounted_fuse(target, uid=ALICE, allow_other=True):
        own_run.within(60, look)


def test_while_the_owner_swaps_things(directory: Path) -> None:
    """A directory that becomes a link to another's, over and over, leads nowhere else."""
    elsewhere = directory.parent / "4321"
    elsewhere.mkdir()
    make(elsewhere / "s")
    os.chown(elsewhere, 4321, 4321)
    (directory / "sub").mkdir()
    (directory / "link").symlink_to(elsewhere)
    make(directory / "sub/s")
    os.chown(directory / "sub", ALICE, ALICE)

    def swap() -> None:
        os.rename(directory / "sub", directory / "aside")
        os.rename(directory / "link", directory / "sub")
        os.rename(directory / "sub", directory / "link")
        os.rename(directory / "aside", directory / "sub")

    possible = {directory / "sub/s", directory / "aside/s", directory / "link/s", elsewhere / "s"}
    with own_run.looping_as(ALICE, swap):
        for _ in range(300):
            found: list[SocketFile] = []
            survey(lambda it, found=found: found.extend(it.look(None)))  # type: ignore[misc]
            for each in found:
                assert Path(os.fsdecode(each.path)) in possible
                of_elsewhere = each.inode == (elsewhere / "s").stat().st_ino
                assert of_elsewhere == (each.path == os.fsencode(elsewhere / "s"))


def test_looked_at_again(directory: Path) -> None:
    """The same file, none, or another one in its place."""
    make(directory / "s")

    def act(survey: Survey) -> list[bool | None]:
        (found,) = survey.look("chat")
        assert isinstance(found, SocketFile)
        answers = [survey.look_again(found)]
        (directory / "s").rename(directory / "t")
        answers.append(survey.look_again(found))
        make(directory / "s")
        answers.append(survey.look_again(found))
        directory.rename("/run/chat/aside")
        answers.append(survey.look_again(found))
        return answers

    assert survey(act) == [True, False, None, False]


def test_it_can_be_ended(directory: Path) -> None:
    """What `pace` raises comes out, and leaves no descriptor behind."""
    for number in range(10):
        (directory / f"{number}/{number}").mkdir(parents=True)
    before = own_run.descriptors()
    for steps in range(60):
        left = [steps]

        def pace(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Ended

        try:
            survey(lambda it: list(it.look(None)), pace=pace)
        except Ended:
            continue
        assert steps > 20
        break
    assert own_run.descriptors() == before
