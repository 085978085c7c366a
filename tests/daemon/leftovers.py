"""What starts have the most to do with: what a killed run left, and a directory that is spoiled."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from running import ALICE

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in (
        (0x01, 7, 2**32 - 1),  # the owner
        (0x02, 7, 1999),  # another user, who may do anything
        (0x04, 0, 2**32 - 1),  # the group
        (0x10, 7, 2**32 - 1),  # the mask
        (0x20, 0, 2**32 - 1),  # others
    )
)


def left_by_another_kill(base: Path, staged: str = "chat") -> None:
    """Half of chat, half of the folder of `staged`, and what alice made of her directory."""
    tag = "0123456789abcdef"
    chat = base / "chat"
    (base / f".sockbroker-new-{staged}/.sockbroker").mkdir(parents=True, mode=0o700)
    chat.mkdir(mode=0o755)
    (chat / ".sockbroker").mkdir(mode=0o700)
    for name in (f".new-{ALICE}-{tag}", f".new-2000-{tag}", f".old-2000-{tag}"):
        (chat / name).mkdir(mode=0o700)
    (chat / f".new-2000-{tag}/file").touch()
    alice = chat / f"{ALICE}"
    alice.mkdir()
    os.chown(alice, ALICE, 99)
    os.setxattr(alice, "system.posix_acl_access", ACL)
    alice.chmod(0o1777)
