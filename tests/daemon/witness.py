"""What must not change whatever the owner of a directory does, and what he can mount."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from running import ALICE, BOB, MS_NODEV, MS_NOSUID, RUN, eventually, mount, umount

from file_record import record

Attributes = dict[str, tuple[int, ...]]


def attributes(top: Path, without: tuple[Path, ...] = ()) -> Attributes:
    """All that shows in any file below that anybody did anything to it, to the nanosecond.

    Nothing is read and no file is opened: reading would show only in the time of access.
    """
    found: Attributes = {}
    waiting = [top]
    while waiting:
        path = waiting.pop()
        if path in without:
            continue
        found[str(path)] = record(path)
        if stat.S_ISDIR(path.lstat().st_mode):
            waiting.extend(path.iterdir())
    return found


def furnish() -> None:
    """Make what /run has on a real machine, beside the broker's: links and writing would show."""
    for name in ("systemd/system", "lock", f"user/{ALICE}", "other"):
        (RUN / name).mkdir(parents=True)
    (RUN / "utmp").write_text("somebody")
    os.mkfifo(RUN / "initctl", 0o600)
    (RUN / f"user/{ALICE}/secret").write_text("alice's")
    os.chown(RUN / f"user/{ALICE}", ALICE, ALICE)
    (RUN / f"user/{ALICE}").chmod(0o700)
    (RUN / f"other/{BOB}").mkdir()
    (RUN / "for-all").write_text("stays")
    (RUN / "for-all").chmod(0o666)


@contextmanager
def nothing_outside_changes(*without: str) -> Iterator[None]:
    """See that no attribute of anything in /etc and in the rest of /run has changed at the end.

    The rest: all but the app's folder, what is the broker's own, and what the caller names.
    """
    left_out = ("demo", "sockbroker", ".sockbroker.lock", *without)

    def look() -> Attributes:
        return attributes(Path("/etc")) | attributes(RUN, tuple(RUN / name for name in left_out))

    before = look()
    yield
    after = look()
    changed = [
        f"{path}: {before.get(path)} became {after.get(path)}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]
    assert not changed, changed


@contextmanager
def silent_file_server(target: Path, uid: int, *, allow_other: bool = True) -> Iterator[None]:
    """What fusermount3(1) mounts for a user, with a server that never answers.

    Whoever asks it for anything waits for ever, even in the face of SIGKILL.
    """
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={server},rootmode=40000,user_id={uid},group_id={uid}"
        options += ",allow_other" * allow_other
        mount("silent", target, "fuse", MS_NOSUID | MS_NODEV, options)
        try:
            yield
        finally:
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            for line in lines:  # the directory below it may have another name by now
                if " - fuse silent " in line:
                    umount(Path(line.split()[4]))
    finally:
        os.close(server)


def wait_until_deleted(seconds: float = 60) -> None:
    """Until nothing of what was released is left."""
    eventually(
        "deleted",
        lambda: not [name for name in os.listdir(RUN / "demo") if name.startswith(".old-")],
        seconds,
    )


def looping(act: Callable[[], object]) -> Callable[[], None]:
    """`act` again and again, whatever the kernel says to it; for a Peer that the test ends."""

    def loop() -> None:
        while True:
            try:
                act()
            except OSError:
                pass

    return loop
