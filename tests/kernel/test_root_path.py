"""Only a path that root alone decides on is opened."""

import os
from pathlib import Path

import own_run
import pytest

from sockbroker.kernel.root_path import DirectoryError, open_root_path

pytestmark = pytest.mark.root


@pytest.mark.parametrize("path", ["/run", "/run/", "//run//below/", "/"])
def test_roots_own_is_opened(run: Path, path: str) -> None:
    """What is root's from / on is opened, with O_PATH, whatever slashes the path has."""
    (run / "below").mkdir(mode=0o755)
    descriptor = open_root_path(path)
    try:
        assert os.path.samestat(os.stat(descriptor), Path(path).stat())
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.listdir(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("path", ["run", "", "/run/../run", "/run/./below", "."])
def test_only_plain_absolute_paths(run: Path, path: str) -> None:
    """A path that says where it leads only at second sight is refused."""
    with pytest.raises(DirectoryError, match="absolute"):
        open_root_path(path)


@pytest.mark.parametrize(
    ("owner", "mode", "word"),
    [(1000, 0o755, "uid 1000"), (0, 0o775, "0775"), (0, 0o757, "0757"), (0, 0o1777, "1777")],
)
def test_others_on_the_way(run: Path, owner: int, mode: int, word: str) -> None:
    """A component that others own or can write to is refused, and nothing is made in it."""
    (run / "others" / "below").mkdir(parents=True)
    (run / "others").chmod(mode)
    os.chown(run / "others", owner, 0)
    for path in ("/run/others", "/run/others/below", "/run/others/new"):
        with pytest.raises(DirectoryError, match=word):
            open_root_path(path, make_mode=0o755)
    assert own_run.names(run / "others") == ["below"]


@pytest.mark.parametrize("kind", ["link", "fifo", "file", "absent"])
def test_what_is_no_directory(run: Path, kind: str) -> None:
    """Links (to root's own, too), fifos, files and nothing are refused at once."""
    (run / "real").mkdir()
    match kind:
        case "link":
            (run / "it").symlink_to("real")
        case "fifo":
            os.mkfifo(run / "it")
        case "file":
            (run / "it").touch()
    before = own_run.descriptors()
    for path in ("/run/it", "/run/it/below"):
        with pytest.raises(DirectoryError, match="/run/it: "):
            open_root_path(path)
    assert own_run.descriptors() == before


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_it_is_made_exactly(run: Path, umask: int) -> None:
    """The last component is made with the mode that is asked for, whatever the umask."""
    before = os.umask(umask)
    try:
        os.close(open_root_path("/run/own", make_mode=0o755))
    finally:
        os.umask(before)
    assert own_run.attributes(run / "own") == (0, 0, "0755")


def test_what_is_there_gets_the_mode(run: Path) -> None:
    """A directory that is there and narrower is opened to who has to reach what is in it."""
    (run / "own").mkdir(mode=0o700)
    os.close(open_root_path("/run/own", make_mode=0o755))
    assert own_run.attributes(run / "own") == (0, 0, "0755")
