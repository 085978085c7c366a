"""What hypothesis draws for a history of the broker: users, apps, and policies that are good."""

from __future__ import annotations

from hypothesis import strategies as st
from model import APPS, GROUPS, NO_LIMIT, USERS, Rules
from running import CHAT

MODES = [(0o700, None), (0o755, None), (0o711, None), (0o770, CHAT), (0o2750, CHAT), (0o750, CHAT)]

One = tuple[str, int] | int
"""An app and a user, or the number of a directory that there is."""

users = st.sampled_from(sorted(USERS))
apps = st.sampled_from(APPS)
owners = st.integers(0, 14)
ones = st.tuples(apps, users) | owners
groups = st.frozensets(st.sampled_from(sorted(GROUPS)))


@st.composite
def rules_of_an_app(draw: st.DrawFn) -> Rules:
    """Rules that make a good policy: only who is allowed for sure has a directory at boot."""
    mode, gid = draw(st.sampled_from(MODES))
    allowed = draw(st.frozensets(users))
    denied = draw(st.one_of(st.just(frozenset()), st.frozensets(users, max_size=2)))
    rules = Rules(
        users=allowed,
        groups=draw(groups),
        everyone=draw(st.sampled_from([True, True, False])),
        denied=denied,
        denied_groups=draw(st.one_of(st.just(frozenset()), groups)),
        mode=mode,
        gid=gid,
        parent=draw(st.sampled_from([0o711, 0o755])),
    )
    if draw(st.booleans()):
        sure = frozenset(uid for uid in allowed if rules.allow(uid, ()))
        return Rules(**{**vars(rules), "at_boot": sure})
    return Rules(**{**vars(rules), "limit": draw(st.sampled_from([1, 2, NO_LIMIT]))})


policies = st.dictionaries(apps, rules_of_an_app(), max_size=len(APPS))
