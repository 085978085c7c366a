"""What a Varlink client writes and reads, by the standard library's json alone.

It is what the core is compared with, and uses nothing of it: a mistake would be made twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple


class ReplyMessage(NamedTuple):
    """A reply, or with `error` the end of a call that failed."""

    parameters: dict[str, object]
    error: str | None = None
    continues: bool = False


def encode_call(
    method: str, parameters: Mapping[str, object] | None = None, **flags: bool
) -> bytes:
    """Write a call, with the NUL; without parameters where there are none."""
    members: dict[str, object] = {"method": method}
    if parameters:
        members["parameters"] = dict(parameters)
    return json.dumps(members | flags, separators=(",", ":")).encode("ascii") + b"\0"


def decode_reply(message: bytes) -> ReplyMessage:
    """Read the one reply that these bytes are, with the NUL; AssertionError if it is none."""
    text, end, rest = message.partition(b"\0")
    assert (end, rest) == (b"\0", b""), message
    members = json.loads(text)
    reply = ReplyMessage(
        members.pop("parameters", {}), members.pop("error", None), members.pop("continues", False)
    )
    assert not members, message
    return reply
