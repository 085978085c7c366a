"""Commands that people copy from a terminal into a shell: quoted so that both take them literally.

A name that has anything but printable ASCII in it cannot be: a terminal would obey it, or show it
as something else, and POSIX has no form for it that a shell takes back.  So there is no command
then.
"""

from collections.abc import Sequence
from typing import Final

_BARE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+:,./-")


def shell_command(words: Sequence[bytes]) -> str | None:
    """Give the words as a line for a POSIX shell, or None where one cannot be written literally."""
    if not all(0x20 <= byte <= 0x7E for word in words for byte in word):
        return None
    return " ".join(map(_quoted, words))


def _quoted(word: bytes) -> str:
    text = word.decode("ascii")
    if word and _BARE.issuperset(word):
        return text
    return "'" + text.replace("'", "'\\''") + "'"
