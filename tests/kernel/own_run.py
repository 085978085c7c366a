"""A /run of the test's own, other users, and what a hostile one of them can do.

For the tests of what the broker has on disk.  They need root.  Nothing here pretends: the mounts,
uids, ACLs, signals and system call filters are the kernel's.
"""

import ctypes
import os
import signal
import stat
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sockbroker.kernel.directories import Base, Parent, Wanted
from sockbroker.kernel.removal import remove

MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH, CLONE_NEWNS = 0x1000, 0x4000, 1 << 18, 2, 0x20000
SOURCE = Path(__file__).resolve().parents[2] / "src"

PARENT = Parent(mode=0o711, gid=0)
PRIVATE = Wanted(mode=0o700, gid=None)
SHARED = Wanted(mode=0o2750, gid=4321)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (*(ctypes.c_char_p,) * 3, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def mount(source: str, target: Path, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {kind} on {target}")


def umount(target: Path) -> None:
    """umount2(2) with MNT_DETACH."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH):
        raise OSError(ctypes.get_errno(), f"umount {target}")


@contextmanager
def mounted_run() -> Iterator[Path]:
    """A fresh tmpfs on /run, in a mount namespace that this process makes for itself."""
    if _libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNS)")
    mount("none", Path("/"), "", MS_REC | MS_PRIVATE)  # nothing goes out to the machine's
    run = Path("/run")
    mount("tmpfs", run, "tmpfs", options="mode=0755,size=256m,nr_inodes=1m")
    try:
        yield run
    finally:
        umount(run)


@contextmanager
def mounted_fuse(target: Path, *, uid: int, allow_other: bool) -> Iterator[None]:
    """What fusermount3 does for a user, with a server that never answers."""
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={server},rootmode=40000,user_id={uid},group_id={uid}"
        mount("fuse", target, "fuse", options=options + ",allow_other" * allow_other)
        try:
            yield
        finally:
            umount(_fuse_mount())  # the directory below it may have another name by now
    finally:
        os.close(server)


def _fuse_mount() -> Path:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    (found,) = (line.split()[4] for line in lines if " - fuse fuse " in line)
    return Path(found)


def run_as(uid: int, act: Callable[[], None], *, groups: tuple[int, ...] = ()) -> None:
    """Run `act` in a process of that user; AssertionError if it raises."""
    _wait(_start_as(uid, act, groups))


@contextmanager
def looping_as(uid: int, act: Callable[[], None]) -> Iterator[None]:
    """Have a process of that user repeat `act`, whatever it raises, until the block ends."""

    def loop() -> None:
        while True:
            try:
                act()
            except OSError:
                pass

    child = _start_as(uid, loop, ())
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def within(seconds: float, act: Callable[[], None]) -> None:
    """Run `act` in another process; AssertionError if it raises, or hangs even in the kernel."""
    child = _start_as(0, act, ())
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("hangs")


def _start_as(uid: int, act: Callable[[], None], groups: tuple[int, ...]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if uid:
                os.setgroups(groups)
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            act()
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    return child


def _wait(child: int) -> None:
    _, status = os.waitpid(child, 0)
    assert status == 0, "the other user's process failed; see its traceback"


def acl(*, user: int, permissions: int) -> bytes:
    """The xattr of an ACL with one more user (acl(5), posix_acl_xattr.h)."""
    no_id = 2**32 - 1
    entries = (
        (0x01, 7, no_id),  # ACL_USER_OBJ
        (0x02, permissions, user),  # ACL_USER
        (0x04, 0, no_id),  # ACL_GROUP_OBJ
        (0x10, 7, no_id),  # ACL_MASK
        (0x20, 0, no_id),  # ACL_OTHER
    )
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ACCESS_ACL, DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"


def attributes(path: Path) -> tuple[int, int, str]:
    """Owner, group and mode."""
    status = path.lstat()
    return status.st_uid, status.st_gid, f"{stat.S_IMODE(status.st_mode):04o}"


def acls(path: Path) -> list[str]:
    """The ACLs that are there."""
    return [name for name in os.listxattr(path) if name.startswith("system.")]


def names(path: Path) -> list[str]:
    """All names in a directory."""
    return sorted(os.listdir(path))


def descriptors() -> int:
    """How many descriptors are open (and one for counting)."""
    return len(os.listdir("/proc/self/fd"))


def never() -> bool:
    """What `stop` is for a deletion that is to go on."""
    return False


def recover(base_path: Path, app: str, uid: int, wanted: Wanted) -> None:
    """What a start after a kill does: lock, sweep, delete what waits, make what is missing."""
    with Base.open(str(base_path)) as base:
        base.lock()
        assert base.sweep() == []
        with base.folder(app, PARENT, adopt=False) as folder:
            for name in folder.sweep(folder.names()):
                remove(folder.fileno(), name, stop=never)
            folder.ensure(uid, wanted, new_gid=uid, limit=10)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid_openat2(error: int) -> None:
    """Have openat2(2) fail with `error` in this process and its children from now on."""
    pr_set_seccomp, mode_filter, number = 22, 2, 437
    program = b"".join(
        struct.pack("<HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load seccomp_data.nr
            (0x15, 0, 1, number),  # if it is openat2
            (0x06, 0, 0, 0x00050000 | error),  # SECCOMP_RET_ERRNO
            (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
        )
    )
    rules = _Filter(length=4, filter=program)
    if _libc.prctl(pr_set_seccomp, mode_filter, ctypes.byref(rules), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")
