"""The one form in which names that come from others are shown: ASCII that can be typed back.

A name in a folder or in the kernel's socket table is any bytes at all. Shown raw it could move the
cursor of a terminal, forge a line of a log, or look like another name. So every byte that is not
printable ASCII is `\\xHH`, a backslash is doubled, and an `@` at the start is `\\x40`, because a
bare `@` there stands for the NUL of an abstract socket. Each text has exactly one escaped form, and
`unescape` leads back to the very bytes; for the address of a socket, a path or an abstract name,
`escape_address` and `unescape_address` do the same.
"""

_SHOWN = {byte: chr(byte) if 0x20 <= byte <= 0x7E else f"\\x{byte:02x}" for byte in range(256)}
_SHOWN[0x5C] = "\\\\"


def escape(name: bytes | str, *, word: bool = False) -> str:
    """Give the escaped form of a name; with `word` it is one word, spaces being escaped too.

    A str stands for its UTF-8 bytes, and for the undecodable ones that os.fsdecode kept in it.
    """
    if name.isascii():
        # Nearly every name there is: saves the work on the way of `list` over ten thousand
        # directories.
        text = name if isinstance(name, str) else name.decode("ascii")
        if text.isprintable() and "\\" not in text and text[:1] != "@":
            return text.replace(" ", "\\x20") if word else text
    if isinstance(name, str):
        name = _encode(name)
    shown = "".join([_SHOWN[byte] for byte in name])
    if name[:1] == b"@":
        shown = "\\x40" + shown[1:]
    return shown.replace(" ", "\\x20") if word else shown


def unescape(shown: str) -> bytes:
    """Give the bytes that an escaped form stands for; ValueError where a backslash begins none.

    What a person types without escaping it (an umlaut, an `@`) stands for itself.
    """
    first, *others = shown.split("\\")
    parts = [_encode(first)]
    pieces = iter(others)
    for piece in pieces:
        if piece[:1] == "x" and len(piece) >= 3 and _is_hexadecimal(piece[1:3]):
            parts += [bytes([int(piece[1:3], 16)]), _encode(piece[3:])]
        elif piece == "" and (literal := next(pieces, None)) is not None:
            parts += [b"\\", _encode(literal)]  # two backslashes in a row
        else:
            raise ValueError(
                rf"a backslash must be followed by another one or by xHH: {escape(shown)}"
            )
    return b"".join(parts)


def escape_address(address: bytes, *, word: bool = False) -> str:
    """Give the escaped form of a socket's address, with `@` for the NUL of an abstract name."""
    if address[:1] == b"\0":
        return "@" + escape(address[1:], word=word)
    return escape(address, word=word)


def unescape_address(shown: str) -> bytes:
    """Give the address that was shown or typed: abstract after a bare `@`; ValueError as above."""
    if shown[:1] == "@":
        return b"\0" + unescape(shown[1:])
    return unescape(shown)


def legible(sentence: str) -> str:
    """Make a sentence safe to print on one line; backslashes and a leading `@` stay.

    For text in which names may have been escaped already; there is no way back.
    """
    if sentence.isascii() and sentence.isprintable():
        return sentence
    return "".join([chr(byte) if byte == 0x5C else _SHOWN[byte] for byte in _encode(sentence)])


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # A surrogate that stands for no byte: only JSON can bring one. Shown as the bytes it would
        # have.
        return text.encode("utf-8", "surrogatepass")


def _is_hexadecimal(digits: str) -> bool:
    return all(digit in "0123456789abcdefABCDEF" for digit in digits)
