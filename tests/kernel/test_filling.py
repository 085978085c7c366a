"""The folder that is made together with its directories, on a real tmpfs as root."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import own_run
import pytest
from own_run import PARENT, attributes, names

from sockbroker.kernel.directories import Base, Parent
from sockbroker.kernel.filling import fill

pytestmark = pytest.mark.root

SHARED_GROUP = 4321
SHARED_PARENT = Parent(mode=0o711, gid=SHARED_GROUP)
UIDS = [(uid, SHARED_GROUP) for uid in (1000, 1001, 70000)]
MS_REMOUNT = 32
STAGED = ".sockbroker-new-chat"


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The daemon's."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def filled(base: Base, directories: list[tuple[int, int]] = UIDS, mode: int = 0o2750) -> list[int]:
    """What it yields."""
    filling = fill(
        base.fileno(),
        "chat",
        parent=SHARED_PARENT,
        mode=mode,
        directories=directories,
    )
    return list(filling)


@pytest.mark.parametrize("mode", [0o700, 0o2750])
def test_all_is_made_exactly(base: Base, run: Path, mode: int) -> None:
    """The folder, its marker and each directory have owner, group and mode, and no ACL.

    Seen to fail without the chmod, the chown, the mode or owner of the folder, and the removal of
    what was inherited from the base.
    """
    os.setxattr(run, own_run.DEFAULT_ACL, own_run.acl(user=1001, permissions=7))
    run.chmod(0o2755)
    assert filled(base, mode=mode)[-1] == len(UIDS)
    assert names(run) == ["chat"]
    assert attributes(run / "chat") == (0, SHARED_GROUP, "0711")
    assert attributes(run / "chat/.sockbroker") == (0, 0, "0700")
    assert names(run / "chat") == [".sockbroker", *sorted(str(uid) for uid, _ in UIDS)]
    for uid, gid in UIDS:
        assert attributes(run / f"chat/{uid}") == (uid, gid, f"{mode:04o}")
        assert own_run.acls(run / f"chat/{uid}") == []
    assert own_run.acls(run / "chat") == []
    with base.folder("chat", own_run.PARENT, adopt=False) as folder:  # the broker takes it for its
        assert sorted(folder.uids()) == [uid for uid, _ in UIDS]
        assert folder.count() == len(UIDS)


def test_nobody_sees_it_half_made(base: Base, run: Path) -> None:
    """Until it has its name nobody but root can reach anything of it, at any step.

    Seen to fail with the folder being opened to others before its directories are made.
    """
    run.joinpath(STAGED).mkdir(mode=0o777)  # of a killed run, or of an administrator's
    directories = [(uid, SHARED_GROUP) for uid in range(1000, 1100)]
    filling = fill(base.fileno(), "chat", parent=PARENT, mode=0o755, directories=directories)
    steps = 0
    for made in filling:
        if made == len(directories):
            continue
        steps += 1
        assert names(run) == [STAGED]
        assert stat.S_IMODE((run / STAGED).stat().st_mode) == 0o700
        assert (run / STAGED).stat().st_uid == 0
        assert len(names(run / STAGED / "folder")) == made + 1
    assert steps > 3
    assert names(run) == ["chat"]


def test_what_has_the_name_already_is_left_alone(base: Base, run: Path) -> None:
    """Nothing is made then, and nothing of it is changed, whatever it is."""
    for make in (Path.mkdir, Path.touch, lambda path: path.symlink_to("/etc")):
        make(run / "chat")
        assert filled(base) == [0]
        assert names(run) == ["chat"]
        (run / "chat").rmdir() if make is Path.mkdir else (run / "chat").unlink()


def test_whoever_takes_the_name_meanwhile_keeps_it(base: Base, run: Path) -> None:
    """And nothing is left of what was made.

    Seen to fail without RENAME_NOREPLACE, and without the dismantling.
    """
    directories = [(uid, uid) for uid in range(1000, 1040)]
    filling = fill(base.fileno(), "chat", parent=PARENT, mode=0o700, directories=directories)
    assert next(filling) > 0
    (run / "chat").mkdir(mode=0o755)
    assert list(filling)[-1] == 0
    assert names(run) == ["chat"]
    assert names(run / "chat") == []


def test_an_error_leaves_nothing(base: Base, run: Path) -> None:
    """A file system that is full, for one: who makes one after the other says which there was.

    Seen to fail without the dismantling.
    """
    own_run.mount("tmpfs", run, "tmpfs", MS_REMOUNT, "mode=0755,nr_inodes=8")
    assert filled(base, [(uid, uid) for uid in range(1000, 1020)]) == [0]
    assert names(run) == []


def test_one_that_was_broken_off_is_swept(base: Base, run: Path) -> None:
    """A sweep removes what a kill left, and so does the next one to make the same folder.

    Seen to fail without the inner folder in `dismantle`.
    """
    directories = [(uid, uid) for uid in range(1000, 1040)]

    def break_off() -> None:
        filling = fill(
            base.fileno(),
            "chat",
            parent=PARENT,
            mode=0o700,
            directories=directories,
        )
        next(filling)
        filling.close()
        assert names(run) == [STAGED]

    break_off()
    assert base.sweep() == []
    assert names(run) == []
    break_off()
    base.folder("chat", own_run.PARENT, adopt=False).close()
    assert names(run) == ["chat"]
    assert names(run / "chat") == [".sockbroker"]


def test_what_comes_out_otherwise_is_not_shown(base: Base, run: Path) -> None:
    """Each directory is looked at before the folder gets its name, whatever has changed its mode.

    Seen to fail without the comparison.
    """
    os.umask(0o277)  # as no daemon has it
    assert filled(base, mode=0o700)[-1] == 0
    assert names(run) == []
