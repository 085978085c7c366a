"""Which words may name an app, and which numbers may be a user."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockbroker.core.names import (
    MAX_ID,
    OVERFLOW_IDS,
    RESERVED_NAMES,
    is_app_name,
    is_user_id,
    parse_uid,
)

HOSTILE = [
    *("", ".", "..", "../etc", "a/b", "/abs", "a.b", "-rf", "_a", "1app", "%s", "$(id)", "A", "aB"),
    *("app\n", "app\0", "\0app", "app ", " app", "a pp", "app\x7f", "app\t", "a" * 32, "a" * 4096),
    *(
        "café",
        "\N{FULLWIDTH LATIN SMALL LETTER A}pp",
        "app\u202e",
        "app\ud800",
        "ap\u0131",
        "app\N{ARABIC-INDIC DIGIT ONE}",
    ),
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_what_could_be_more_than_one_harmless_component_is_no_name(text: str) -> None:
    """Nothing that is special to a path, a shell, a terminal or a reader names an app.

    Taken out: the end of the word (`match` for `fullmatch`), and ASCII (letters of all kinds
    passed); with each, some of these pass.
    """
    assert not is_app_name(text)


@pytest.mark.parametrize("text", ["a", "chat", "a-b_c-1", "a" * 31, "no", "x-", "z9", "systemd"])
def test_plain_words_are_names(text: str) -> None:
    """A lower-case word of up to 31 characters names an app, whether it is reserved or not.

    Taken out: the last of the 31 characters.
    """
    assert is_app_name(text)


@given(st.text())
def test_every_name_is_one_component_of_ascii(text: str) -> None:
    """Whatever passes is ASCII, without a separator, a dot or a blank, and not too long.

    Taken out: the end of the word (`match` for `fullmatch`).
    """
    if is_app_name(text):
        assert text.isascii()
        assert text.replace("-", "").replace("_", "").isalnum()
        assert text == text.lower()
        assert 1 <= len(text) <= 31


@pytest.mark.parametrize(
    "name",
    ["systemd", "user", "lock", "dbus", "udev", "log", "mount", "shm", "sudo", "sockbroker"],
)
def test_what_the_system_has_in_run_is_reserved(name: str) -> None:
    """The names that every distribution uses below /run are kept from apps.

    Taken out: a word of the list.
    """
    assert name in RESERVED_NAMES


def test_every_reserved_name_is_one_that_could_be_asked_for() -> None:
    """Only what is spelled like an app has to be kept.

    Taken out: nothing; put in: a word with capitals.
    """
    assert [name for name in sorted(RESERVED_NAMES) if not is_app_name(name)] == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("1000", 1000),
        ("65534", 65534),
        (str(MAX_ID), MAX_ID),
        (str(MAX_ID + 1), None),
        ("18446744073709552616", None),
        ("", None),
        ("00", None),
        ("01000", None),
        ("+1", None),
        ("-1", None),
        (" 1", None),
        ("1\n", None),
        ("1_000", None),
        ("0x10", None),
        ("1.0", None),
        ("\N{ARABIC-INDIC DIGIT ONE}", None),
        ("\N{SUPERSCRIPT TWO}", None),
        ("9" * 5000, None),
    ],
)
def test_uids_are_read_in_one_form_only(text: str, number: int | None) -> None:
    """Decimal digits as they are always written, up to the highest id; anything else is none.

    Taken out: the look for a leading zero, that for ASCII, and the last of ten digits; with each,
    one is read wrongly.
    """
    assert parse_uid(text) == number


@given(st.integers(0, MAX_ID))
def test_every_uid_is_read_back(number: int) -> None:
    """A number that is written in decimal means itself.

    Taken out: the last of the ten digits.
    """
    assert parse_uid(str(number)) == number


@pytest.mark.parametrize(
    ("number", "possible"),
    [(0, True), (1000, True), (65533, True), (65536, True), (MAX_ID, True)]
    + [(number, False) for number in (-1, -2, 65534, 65535, 2**32 - 1, 2**32, 2**64)],
)
def test_overflow_ids_identify_nobody(number: int, *, possible: bool) -> None:
    """What the kernel shows for ids without a mapping is nobody's, and so is what is no id.

    Taken out: OVERFLOW_IDS of `is_user_id`.
    """
    assert is_user_id(number) == possible


def test_the_overflow_ids_are_the_three() -> None:
    """The kernel's overflow id, its 16-bit form, and -1.

    Taken out: one of the three.
    """
    assert sorted(OVERFLOW_IDS) == [65534, 65535, 4294967295]
