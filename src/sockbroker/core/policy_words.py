"""What single words of a policy mean: a user, a range of them, a group, a number.

YAML and people write numbers in many ways (0x10, 1_000, 12:30, 08). Here a number is plain decimal
digits and everything that only looks like one is refused, not taken for a name.
"""

import re
from typing import Final

from sockbroker.core.names import MAX_ID, OVERFLOW_IDS, parse_uid
from sockbroker.core.strict_yaml import quote

# Longer than any name that a database of users allows (useradd: 32, Active Directory: 104).
MAX_NAME_BYTES: Final = 256

# What YAML 1.1 takes for a truth value or for nothing, if it is not quoted.
_NOT_WORDS: Final = frozenset(
    ("y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", "")
)

_RANGE: Final = re.compile(r"([0-9]+)\s*-\s*([0-9]+)")
_NUMBER_LIKE: Final = re.compile(r"0[xXoObB][0-9a-fA-F_]+|[0-9][0-9_.,:]*([eE][-+]?[0-9]*)?")
# Nearly every name there is; the longer way is for the others.
_USUAL_NAME: Final = re.compile(r"[a-z_][a-z0-9_.-]{0,30}\$?")


class WordError(Exception):
    """The word means nothing; the text says why, and the mend."""


def is_not_word(text: str, *, quoted: bool) -> bool:
    """Tell whether YAML 1.1 takes `text` for true, false or nothing."""
    return not quoted and text.lower() in _NOT_WORDS


def read_user(text: str, *, quoted: bool) -> tuple[str | None, int, int]:
    """Return the name, or None and the first and last uid; raises WordError."""
    if (uid := _read_id(text, "uid")) is not None:
        return None, uid, uid
    if _USUAL_NAME.fullmatch(text) is not None and text not in _NOT_WORDS:
        return text, 0, 0
    if (match := _RANGE.fullmatch(text)) is not None:
        first, last = parse_uid(match[1]), parse_uid(match[2])
        if first is None or last is None or f"{first}-{last}" != text:
            raise WordError(
                f"{quote(text)} is not a range of uids; write both in decimal, at most {MAX_ID}, "
                'without blanks, like "2000-2999"'
            )
        if first > last:
            raise WordError(f'the range ends before it begins; write "{last}-{first}"')
        if not quoted:
            raise WordError(f'a range is written in quotes; write "{text}"')
        return None, first, last
    return _read_name(text, quoted=quoted, kind="user"), 0, 0


def read_group(text: str, *, quoted: bool) -> tuple[str | None, int]:
    """Return the name, or None and the gid; raises WordError."""
    if (gid := _read_id(text, "gid")) is not None:
        return None, gid
    if _USUAL_NAME.fullmatch(text) is not None and text not in _NOT_WORDS:
        return text, 0
    if _RANGE.fullmatch(text) is not None:
        raise WordError(f"{quote(text)}: ranges are for users; name each group by itself")
    return _read_name(text, quoted=quoted, kind="group"), 0


def read_number(text: str, what: str, *, least: int) -> int:
    """Read a number from `least` to the highest id; raises WordError."""
    number = parse_uid(text)
    if number is None or number < least:
        raise WordError(
            f"{what} is a number from {least} to {MAX_ID} in decimal digits, not {quote(text)}"
        )
    return number


def _read_id(text: str, kind: str) -> int | None:
    """Read a number; None if the text has anything but digits; raises WordError for a bad one."""
    if not (text.isdecimal() and text.isascii()):
        return None
    number = parse_uid(text)
    if number is None:
        raise WordError(
            f"{quote(text)} is not a {kind}; write it in decimal without leading zeros, at "
            f"most {MAX_ID}"
        )
    if number in OVERFLOW_IDS:
        raise WordError(
            f"the kernel shows {kind} {number} for every id without a mapping, so that it "
            "identifies nobody and is always refused; remove it"
        )
    return number


def _read_name(text: str, *, quoted: bool, kind: str) -> str:
    if is_not_word(text, quoted=quoted):
        raise WordError(f"YAML does not take {quote(text)} for a name; write it in quotes")
    if _NUMBER_LIKE.fullmatch(text) is not None:
        raise WordError(f"{quote(text)} is neither a {kind}'s name nor digits; write it in decimal")
    if text in ("*", "ALL", "@all"):
        raise WordError(f"{quote(text)} names no {kind}; write everyone: true if that is meant")
    if not (text[:1].isalnum() or text[:1] == "_"):
        raise WordError(
            f"{quote(text)} is no name of a {kind}: that begins with a letter, a digit or _; "
            "write the name alone"
        )
    if (
        not text.isprintable()
        or text.endswith(" ")
        or any(sign in text for sign in "/:,")
        or len(text.encode()) > MAX_NAME_BYTES
    ):
        raise WordError(
            f"{quote(text)} is no name of a {kind}: that has no '/', ':' or ',', nothing invisible "
            f"and at most {MAX_NAME_BYTES} bytes; write one name to an item"
        )
    return text
