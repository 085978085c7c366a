"""The other network namespaces that can be seen from here, and how root looks into one.

A socket's file can be connected to from every network namespace, but only the table of its own has
it.  A namespace shows by the processes in it and by being mounted somewhere (ip-netns(8)); one that
lives on only in a descriptor or a socket that some process keeps does not show.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from sockbroker.kernel.mounts import Mounts

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000
_INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h

_ATTEMPTS: Final = 10
"""At namespaces that come and go, as those of short-lived services do."""

_libc = ctypes.CDLL(None, use_errno=True)


def other_namespaces(mounts: Mounts) -> list[list[str]]:
    """Return, for each network namespace that shows but our own, the paths by which to open it.

    Which one a process is in everybody may know: each namespace has a /proc/PID/net of its own,
    with other inodes.
    """
    own = os.stat("/proc/self/net/unix").st_ino
    found: dict[int, list[str]] = {}
    for pid in _pids():
        try:
            inode = os.stat(f"/proc/{pid}/net/unix").st_ino
        except OSError:
            continue  # it has ended
        if inode != own:
            found.setdefault(inode, []).append(f"/proc/{pid}/ns/net")
    return [*found.values(), *([path] for path in _mounted(mounts))]


def all_show(mounts: Mounts) -> bool:
    """Tell whether the processes of the whole machine can be seen here."""
    try:
        pid_namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return False
    on_proc = [each for each in mounts if each.point == b"/proc" and each.type == "proc"]
    hidden = any(
        option.startswith(b"hidepid=") and option not in (b"hidepid=0", b"hidepid=off")
        for each in on_proc
        for option in each.file_system_options
    )
    return pid_namespace == _INITIAL_PID_NAMESPACE and not (hidden and os.geteuid() != 0)


def in_each_other(act: Callable[[], T], mounts: Mounts) -> tuple[list[T], bool]:
    """Run `act` in every other network namespace, and tell whether really all were entered.

    OSError where /proc cannot be read.  One that ends meanwhile is none any more; but as it may be
    only the processes known of it that have ended, it is looked for again.
    """
    results: list[T] = []
    done: set[str] = set()
    all_entered = all_show(mounts)
    for _ in range(_ATTEMPTS):
        ended = False
        for paths in other_namespaces(mounts):
            if not done.isdisjoint(paths):
                continue
            try:
                results.append(within(paths, act))
            except (FileNotFoundError, ProcessLookupError):
                ended = True
                continue
            except OSError:
                all_entered = False
            done.update(paths)
        if not ended:
            return results, all_entered
    return results, False


def within(paths: list[str], act: Callable[[], T]) -> T:
    """Run `act` in the network namespace that these paths open; OSError where one may not.

    FileNotFoundError if it has ended.  In a thread that ends with it: no other one is ever anywhere
    else than before.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            if _libc.setns(descriptor, _CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            results.append(act())
        except BaseException as error:  # carried to who waits
            errors.append(error)

    descriptor = _open_any(paths)
    try:
        thread = threading.Thread(target=enter, name="namespace")
        thread.start()
        thread.join()
    finally:
        os.close(descriptor)
    if errors:
        raise errors[0]
    return results[0]


def _open_any(paths: list[str]) -> int:
    """Open the first path that may be opened: root may not trace every process either."""
    refused: OSError = FileNotFoundError()
    for path in paths:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError as error:
            refused = error
    raise refused


def _pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdecimal()]


def _mounted(mounts: Mounts) -> list[str]:
    try:
        own = os.readlink(b"/proc/self/ns/net")
    except OSError:
        own = b""
    named = [each for each in mounts if each.type == "nsfs" and each.root.startswith(b"net:")]
    return [os.fsdecode(each.point) for each in named if each.root != own]
