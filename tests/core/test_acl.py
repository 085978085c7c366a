"""ACLs: read from the kernel's bytes, and handed down to what is made in a folder."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockbroker.core.acl import Acl, Entry, Tag, inherited, parse_acl
from sockbroker.core.binding import mode_at_bind, umask_behind

# What setfacl -m u:1234:rwx,g:5678:r-x made of a folder of mode 0750.
VALUE = bytes.fromhex(
    "02000000"
    "01000700ffffffff"
    "02000700d2040000"
    "04000500ffffffff"
    "080005002e160000"
    "10000700ffffffff"
    "20000000ffffffff"
)
ACL = Acl(
    (
        Entry(Tag.OWNER, 7),
        Entry(Tag.USER, 7, 1234),
        Entry(Tag.GROUP, 5),
        Entry(Tag.NAMED_GROUP, 5, 5678),
        Entry(Tag.MASK, 7),
        Entry(Tag.OTHER, 0),
    )
)


def test_the_kernels_bytes_are_read() -> None:
    """Every kind of entry, and a number only where one is named."""
    assert parse_acl(VALUE) == ACL
    assert ACL.only(Tag.MASK) == Entry(Tag.MASK, 7)
    assert Acl(()).only(Tag.MASK) is None
    assert ACL.of_user(1234) == Entry(Tag.USER, 7, 1234)
    assert ACL.of_user(5678) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\2\0\0",
        b"\1\0\0\0",
        VALUE[:-1],
        VALUE + b"\0",
        struct.pack("<IHHI", 2, 3, 7, 0),
    ],
)
def test_what_is_no_acl(value: bytes) -> None:
    """Neither cut off, nor of another version, nor with a tag that nobody knows."""
    with pytest.raises(ValueError, match=r"."):
        parse_acl(value)


@given(st.binary(max_size=60))
def test_no_bytes_break_the_reader(value: bytes) -> None:
    """It reads them or says that it cannot."""
    try:
        entries = parse_acl(value).entries
    except ValueError:
        return
    assert all(0 <= entry.bits <= 7 for entry in entries)


def test_what_a_socket_inherits() -> None:
    """The umask narrows the mask of a default ACL, so that those it names cannot write."""
    mode, acl = inherited(ACL, 0o755)
    assert mode == 0o750
    assert acl.only(Tag.MASK) == Entry(Tag.MASK, 5)
    assert acl.of_user(1234) == Entry(Tag.USER, 7, 1234)
    assert inherited(ACL, 0o777)[0] == 0o770


def test_an_acl_without_a_mask_is_inherited_by_the_group() -> None:
    """As the mode's group bits are the group's then."""
    plain = Acl((Entry(Tag.OWNER, 7), Entry(Tag.GROUP, 7), Entry(Tag.OTHER, 7)))
    assert inherited(plain, 0o755) == (
        0o755,
        Acl((Entry(Tag.OWNER, 7), Entry(Tag.GROUP, 5), Entry(Tag.OTHER, 5))),
    )


@pytest.mark.parametrize(
    ("umask", "default", "mode"),
    [
        (0o022, None, 0o755),
        (0o077, None, 0o700),
        (0o000, None, 0o777),
        (0o022, ACL, 0o750),
        (0o002, ACL, 0o770),
    ],
)
def test_the_mode_at_bind(umask: int, default: Acl | None, mode: int) -> None:
    """0777 without the umask, and with a default ACL what that leaves of it."""
    assert mode_at_bind(umask, default) == mode


@pytest.mark.parametrize(
    ("mode", "umask"),
    [(0o755, 0o022), (0o700, 0o077), (0o777, 0), (0o600, None), (0o1755, None), (0o055, None)],
)
def test_the_umask_behind_a_mode(mode: int, umask: int | None) -> None:
    """Where the mode looks like one that only a umask has made."""
    assert umask_behind(mode) == umask
