"""Runs a test in a world of its own: private mounts and network, an empty /run, real users.

Whatever a test does to /run or to abstract names is gone with the process that did it. Results and
exceptions come back by pickle, so what a child raises fails the test that started it.
"""

import ctypes
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

# From <sched.h> and <sys/mount.h>; os.unshare came with Python 3.12.
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWTIME = 0x00000080
MS_NOSUID = 2
MS_NODEV = 4
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18

ALICE = 1234
MALLORY = 4321

# In a container not even root can know what is bound elsewhere on the machine, nor where a network
# namespace is mounted below the /run that a test covers. The number is that of the first PID
# namespace: PROC_PID_INIT_INO, include/linux/proc_ns.h.
WHOLE_MACHINE = (
    os.stat("/proc/self/ns/pid").st_ino == 0xEFFFFFFC
    and " - nsfs " not in Path("/proc/self/mountinfo").read_text()
)

needs_root = pytest.mark.root

_libc = ctypes.CDLL(None, use_errno=True)


class ChildFailed(AssertionError):
    """A child raised what cannot be pickled, or died."""


def in_private_world(test: Callable[[], T]) -> T:
    """Run `test` as root in private mount and network namespaces with an empty tmpfs on /run."""

    def enter() -> T:
        unshare(CLONE_NEWNS | CLONE_NEWNET)
        _mount("none", "/", None, MS_REC | MS_PRIVATE)
        mount_tmpfs("/run", "mode=0755")
        os.mkdir("/run/sockbroker", 0o755)
        return test()

    return in_child(enter)


def as_user(uid: int, act: Callable[[], T]) -> T:
    """Run `act` in a child that is this user, with the gid of the same number only."""

    def become() -> T:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        return act()

    return in_child(become)


def in_user_namespace(uid: int, uid_map: str, act: Callable[[], T]) -> T:
    """Run `act` as that user in a user namespace of his own, with the map of uids given."""

    def enter() -> T:
        # Else /proc/self belongs to root, because the process changed its uid.
        _libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
        unshare(CLONE_NEWUSER)
        if uid_map:
            with open("/proc/self/uid_map", "w") as file:
                file.write(uid_map)
        return act()

    return as_user(uid, enter)


def in_child(act: Callable[[], T]) -> T:
    """Run `act` in a forked child and return what it returns, or raise what it raises."""
    # No pipe: a grandchild that outlives the child would hold it open.
    with open(os.memfd_create("result"), "w+b", buffering=0) as file:
        child = os.fork()
        if child == 0:
            _report(act, file.fileno())
        _, status = os.waitpid(child, 0)
        file.seek(0)
        answer = file.read()
    if not answer:
        raise ChildFailed(f"the child died with wait status {status}")
    succeeded, value = pickle.loads(answer)  # noqa: S301  # a child of this very process wrote it
    if succeeded:
        return value  # type: ignore[no-any-return]
    raise value


def _report(act: Callable[[], object], writable: int) -> None:
    try:
        try:
            answer = pickle.dumps((True, act()))
        except BaseException as error:
            try:
                answer = pickle.dumps((False, error))
                pickle.loads(answer)  # noqa: S301  # just written
            except Exception:
                answer = pickle.dumps((False, ChildFailed(traceback.format_exc())))
        with open(writable, "wb", closefd=False) as file:
            file.write(answer)
    finally:
        # No clean-up of what belongs to the parent: its files, its pytest.
        os._exit(0)


def background(act: Callable[[], object]) -> int:
    """Start `act` in a child that ends with this process, and return its pid."""
    child = os.fork()
    if child == 0:
        try:
            end_with_parent()
            act()
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(0)
    return child


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; a change of the uid undoes it."""
    _libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` for new ones."""
    _check(_libc.unshare(flags), "unshare")


def mount_tmpfs(path: str, options: str = "") -> None:
    """Mount an empty tmpfs on `path`."""
    _mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options)


def mount_file(source: str, target: str) -> None:
    """Mount a file over another one, in a namespace of one's own."""
    _mount(source, target, None, MS_BIND)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    result = _libc.mount(
        source.encode(),
        target.encode(),
        None if kind is None else kind.encode(),
        flags,
        options.encode() or None,
    )
    _check(result, f"mount on {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
