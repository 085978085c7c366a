"""It all works with the few capabilities that the daemon keeps, and without openat2."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import own_run
import pytest
from own_run import PARENT, SHARED, acl, acls, attributes, names

from sockbroker.kernel.directories import Base

pytestmark = pytest.mark.root

HERE = Path(__file__).parent
PROGRAM = HERE / "broken_off.py"
KEPT = "chown,fowner,fsetid,dac_read_search"


def confined(capabilities: str, program: list[str], *, umask: int = 0o077) -> str:
    """Run Python with no other capabilities than these; return what it prints."""
    kept = "-all" + "".join(f",+{name}" for name in capabilities.split(","))
    return subprocess.run(
        ["setpriv", f"--bounding-set={kept}", "--inh-caps=-all", sys.executable, *program],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        umask=umask,
    ).stdout


def work(capabilities: str, name: str, *, umask: int = 0o077) -> None:
    confined(capabilities, [str(PROGRAM), str(own_run.SOURCE), "/run", name], umask=umask)


def test_the_set_is_what_it_says() -> None:
    """The programs that these tests start really have these capabilities and no more."""
    program = "print(open('/proc/self/status').read().split('CapEff:')[1].split()[0])"
    # linux/capability.h: CHOWN 0, DAC_READ_SEARCH 2, FOWNER 3, FSETID 4
    assert int(confined(KEPT, ["-c", program]), 16) == 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4


@pytest.mark.parametrize(
    ("capabilities", "umask"), [(KEPT, 0o077), (KEPT, 0o777), ("chown", 0o077)]
)
def test_creation(run: Path, umask: int, capabilities: str) -> None:
    """Folder and directory come out exact, setgid too, for a group that root is not in.

    CHOWN alone is enough with a umask that leaves root what it makes, as the daemon's own does.
    """
    work(capabilities, "start", umask=umask)
    assert attributes(run / "chat") == (0, 0, "0711")
    assert attributes(run / "chat/.sockbroker") == (0, 0, "0700")
    assert attributes(run / "chat/1000") == (1000, 4321, "2750")


@pytest.mark.parametrize("mode", [0o000, 0o1777, 0o4700])
def test_repair(run: Path, mode: int) -> None:
    """Mode, group and ACLs of a directory that is another user's are set right."""
    work(KEPT, "start")
    path = run / "chat/1000"
    os.chown(path, 1000, 99)
    for name in (own_run.ACCESS_ACL, own_run.DEFAULT_ACL):
        os.setxattr(path, name, acl(user=1001, permissions=7))
    path.chmod(mode)
    work(KEPT, "start")
    assert (attributes(path), acls(path)) == ((1000, 4321, "2750"), [])


@pytest.mark.parametrize("capabilities", [KEPT, "chown"])
def test_deletion(run: Path, capabilities: str) -> None:
    """What the owner and others have locked, at any depth, is deleted; CHOWN alone is enough.

    Taken out: what `removal._take_over` changes; then what is locked stays.
    """
    with Base.open("/run") as base, base.folder("chat", PARENT, adopt=False) as folder:
        folder.ensure(1000, SHARED, new_gid=1000, limit=10)
        name = folder.move_aside(1000)
    top = run / "chat" / name
    for number, mode in enumerate((0o000, 0o1777, 0o500, 0o2770)):
        (top / f"{number}/below/deep").mkdir(parents=True)
        (top / f"{number}/below/deep/file").touch()
        for path in (f"{number}/below/deep", f"{number}/below", f"{number}"):
            os.chown(top / path, 1000 + number, 100)
            (top / path).chmod(mode)
        os.setxattr(top / f"{number}", own_run.ACCESS_ACL, acl(user=0, permissions=0))
    top.chmod(0o000)
    program = (
        f"import os, sys; sys.path.insert(0, {str(own_run.SOURCE)!r})\n"
        "from sockbroker.kernel.removal import remove\n"
        f"print(remove(os.open('/run/chat', os.O_PATH), {name!r}, stop=lambda: False))"
    )
    assert confined(capabilities, ["-c", program]) == "Removed()\n"
    assert names(run / "chat") == [".sockbroker"]


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
def test_without_openat2(error: int) -> None:
    """Every test of entries, folders, base and removal holds where a filter takes openat2 away.

    Taken out: `_NO_OPENAT2` of `entries`; then nothing can be opened.
    """
    tests = [
        str(HERE / f"test_{module}.py")
        for module in ("entries", "app_folder", "directories", "removal")
    ]
    program = (
        f"import sys; sys.path[:0] = {[str(HERE), str(own_run.SOURCE)]!r}\n"
        f"import own_run, pytest; own_run.forbid_openat2({error})\n"
        "from sockbroker.kernel.syscalls import openat2\n"
        "try:\n"
        "    openat2('/', 0, dir_fd=-100, resolve=0)\n"
        "except OSError as failure:\n"
        f"    assert failure.errno == {error}\n"
        "else:\n"
        "    sys.exit('openat2 still works')\n"
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *{tests!r}]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, stdout=subprocess.PIPE, text=True
    )
    assert ended.returncode == 0, ended.stdout
