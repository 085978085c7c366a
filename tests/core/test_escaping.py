"""The escaped form: what a terminal sees of other people's names."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sockbroker.core.escaping import (
    escape,
    escape_address,
    legible,
    unescape,
    unescape_address,
)

CASES = [
    (b"", ""),
    (b"control.sock", "control.sock"),
    (b"two words", "two words"),
    (b"\0", r"\x00"),
    (b"a\nb", r"a\x0ab"),
    (b"\x1b[2J", r"\x1b[2J"),
    (b"\x7f", r"\x7f"),
    (b"back\\slash", r"back\\slash"),
    (rb"\x41", r"\\x41"),
    ("grün".encode(), r"gr\xc3\xbcn"),
    (b"\xff\xfe", r"\xff\xfe"),
    (b"@name", r"\x40name"),
    (b"user@host", "user@host"),
    (b"@@", r"\x40@"),
]


@pytest.mark.parametrize(("name", "shown"), CASES)
def test_known_forms(name: bytes, shown: str) -> None:
    """Each of these names has this form, and the form leads back to the name."""
    assert escape(name) == shown
    assert unescape(shown) == name


@pytest.mark.parametrize(("name", "shown"), CASES)
def test_str_is_shown_as_its_bytes(name: bytes, shown: str) -> None:
    """A name that came as str, undecodable bytes and all, looks as its bytes do."""
    assert escape(name.decode("utf-8", "surrogateescape")) == shown


@given(st.binary())
def test_every_name_comes_back(name: bytes) -> None:
    """Any bytes survive being shown and typed back, as words too."""
    assert unescape(escape(name)) == name
    assert unescape(escape(name, word=True)) == name


@given(st.binary())
def test_only_printable_ascii(name: bytes) -> None:
    """Nothing that moves a cursor, forges a line or looks like something else gets through."""
    shown = escape(name)
    assert shown.isascii()
    assert not shown or shown.isprintable()
    assert not shown.startswith("@")
    assert " " not in escape(name, word=True)


@given(st.text(alphabet=st.characters(exclude_categories=())))
@example("\ud800")
@example("\udcff")
def test_text_of_any_kind_can_be_shown(text: str) -> None:
    """Text with any characters, lone surrogates included, is shown and never raises."""
    for shown in (escape(text), escape(text, word=True), legible(text)):
        assert shown.isascii()
        assert not shown or shown.isprintable()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_text_comes_back_as_utf8(text: str) -> None:
    """Text survives being shown and typed back, as its UTF-8."""
    assert unescape(escape(text)) == text.encode()


@given(st.binary(), st.binary())
def test_different_names_look_different(one: bytes, other: bytes) -> None:
    """Two names never have the same form."""
    assert (escape(one) == escape(other)) == (one == other)


@given(st.text(alphabet=r"\x41@0a "))
def test_whatever_is_typed_is_read_in_one_way(typed: str) -> None:
    """What somebody types is either read, and then escaping it reads the same, or refused."""
    try:
        name = unescape(typed)
    except ValueError:
        return
    assert unescape(escape(name)) == name


@pytest.mark.parametrize("typed", ["\\", "a\\", r"\n", r"\x4", r"\xg0", r"\x 1", r"\X41", "\\\\\\"])
def test_a_broken_escape_is_refused(typed: str) -> None:
    """A backslash that begins no escape is an error, not a guess."""
    with pytest.raises(ValueError, match="backslash"):
        unescape(typed)


def test_typing_a_name_as_it_is() -> None:
    """What needs no escape, an umlaut or an @, stands for itself."""
    assert unescape("@grün") == "@grün".encode()


def test_a_sentence_keeps_escapes_that_are_in_it() -> None:
    """A sentence with a name that was escaped before is not escaped twice, and is safe."""
    assert legible(r"the name \x1b is odd" + "\x1b\n") == r"the name \x1b is odd\x1b\x0a"


@given(st.binary())
@example(b"\0@name")
@example(b"@name")
@example(b"\0\0name")
def test_an_address_and_its_form_lead_to_each_other(address: bytes) -> None:
    """A path and an abstract name are never taken for one another, whatever is in them."""
    shown = escape_address(address)
    assert unescape_address(shown) == address
    assert shown.startswith("@") == address.startswith(b"\0")
