"""Which modes a runtime directory and its parent may have."""

import pytest

from sockbroker.core.modes import (
    PARENT_MODES,
    parent_mode_fault,
    parent_mode_risk,
    parse_mode,
    runtime_mode_faults,
)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("700", 0o700),
        ("0700", 0o700),
        ("00700", 0o700),
        ("2750", 0o2750),
        ("02750", 0o2750),
        ("7777", 0o7777),
        *(
            (text, None)
            for text in ("", "7", "70", "000700", "12750", "0o700", "08", "0790", "rwx")
        ),
        *((text, None) for text in ("0700\n", " 0700", "-700", "+700", "0_700", "7\u0667\u0660")),
    ],
)
def test_a_mode_is_octal_digits(text: str, mode: int | None) -> None:
    """Three or four, or one more that is a zero, and nothing else.

    Taken out: the end of the text (`match` for `fullmatch`); then a line feed passes.
    """
    assert parse_mode(text) == mode


GOOD = ["0700", "0711", "0755", "2700", "2755", "0701", "0705"]
GOOD_WITH_GROUP = ["0710", "0750", "0770", "0775", "02770", "1770", "3770", "3775", "0730"]


@pytest.mark.parametrize("text", GOOD)
def test_modes_that_depend_on_no_group_need_none(text: str) -> None:
    """What the group may, others may too: then the policy need not say which group.

    Taken out: the look at what others may, so that any right of the group wanted one.
    """
    assert runtime_mode_faults(int(text, 8), has_group=False) == ()


@pytest.mark.parametrize("text", GOOD_WITH_GROUP)
def test_modes_that_depend_on_a_group_need_one(text: str) -> None:
    """The default group is nothing to rely on, so that rights by it must name it.

    Taken out: that a right by a group needs one.
    """
    assert runtime_mode_faults(int(text, 8), has_group=True) == ()
    (fault,) = runtime_mode_faults(int(text, 8), has_group=False)
    assert "add group:" in fault


@pytest.mark.parametrize(
    ("text", "reason", "mend"),
    [
        ("0600", "owner", '"0700"'),
        ("0500", "owner", '"0700"'),
        ("0000", "owner", '"0700"'),
        ("4755", "user id", '"0755"'),
        ("0777", "everybody", '"0775"'),
        ("0702", "everybody", '"0700"'),
        ("0703", "everybody", '"0701"'),
        ("0740", "the group", '"0750"'),
        ("0720", "the group", '"0730"'),
        ("0704", "others", '"0705"'),
        ("1777", "everybody", '"1775"'),
        ("0644", "owner", '"0755"'),
    ],
)
def test_a_bad_mode_comes_with_the_one_that_was_meant(text: str, reason: str, mend: str) -> None:
    """It is refused with or without a group, says why, and what to write.

    Taken out: each rule by itself, and what `_mended` takes away.
    """
    (fault,) = runtime_mode_faults(int(text, 8), has_group=True)
    assert reason in fault
    assert fault.endswith(mend)


def test_no_mode_that_passes_is_a_hole() -> None:
    """Of all modes there are: rwx for the owner, no set-user-id, no writing by others, x with r.

    Taken out: each rule by itself; then some mode is one.
    """
    for mode in range(0o10000):
        if runtime_mode_faults(mode, has_group=False) == ():
            assert mode & 0o700 == 0o700
            assert not mode & 0o5022
            assert not mode >> 3 & ~mode & 0o7
        if runtime_mode_faults(mode, has_group=True) == ():
            assert mode & 0o700 == 0o700
            assert not mode & 0o4002
            for rights in (mode >> 3 & 7, mode & 7):
                assert rights & 1 or not rights & 6


def test_every_proposed_mode_is_good() -> None:
    """Whoever writes what the message says gets no second one.

    Taken out: what `_mended` takes away; then 4700 is proposed.
    """
    for mode in range(0o10000):
        for fault in runtime_mode_faults(mode, has_group=True):
            proposed = int(fault.rpartition('"')[0].rpartition('"')[2], 8)
            assert runtime_mode_faults(proposed, has_group=True) == ()


def test_a_parent_has_one_of_five_modes() -> None:
    """Nobody but root may ever write in it, and each other mode is told the five.

    Taken out: the list's end (0770 passed as well).
    """
    assert [mode for mode in range(0o10000) if parent_mode_fault(mode) is None] == sorted(
        PARENT_MODES
    )
    assert sorted(PARENT_MODES) == [0o700, 0o710, 0o711, 0o750, 0o755]
    assert '"0711", "0755", "0750", "0710", "0700"' in str(parent_mode_fault(0o777))


def test_who_may_list_a_parent_is_told_of() -> None:
    """Whoever can list a folder can hold its lock; what is proposed instead has no such risk.

    Taken out: each of the two bits that are looked at, and the look at the group.
    """
    risky = {(mode, gid) for mode in PARENT_MODES for gid in (0, 5) if parent_mode_risk(mode, gid)}
    assert risky == {(0o755, 0), (0o755, 5), (0o750, 5)}
    for mode, gid in risky:
        risk = str(parent_mode_risk(mode, gid))
        assert f'"{mode:04o}" lets {"everybody" if mode & 4 else "group 5"} list' in risk
        proposed = int(risk.rpartition('"')[0].rpartition('"')[2], 8)
        assert parent_mode_fault(proposed) is None
        assert parent_mode_risk(proposed, gid) is None
