"""From a policy as written to a policy with ids, as it holds on this machine now.

`lookups` says what has to be asked, somebody asks it, `resolve` puts the answers in. A name without
an id never makes this fail: while nobody can tell, an app whose `deny` names it denies everybody
and any other list lacks it; both are in `Policy.unresolved`, to be tried again.
"""

from dataclasses import dataclass
from typing import Final

from sockbroker.core.accounts import Absent, Accounts, Lookups, Unavailable
from sockbroker.core.boot_list import Access, boot_list
from sockbroker.core.policy import (
    App,
    AppText,
    Document,
    GroupEntry,
    Policy,
    PolicyError,
    Selection,
)
from sockbroker.core.registry import Consequence, Registry
from sockbroker.core.rules import BootList, RangeRule, Rules, disjoint
from sockbroker.core.spans import Span

__all__ = ["Accounts", "lookups", "resolve"]

_DENIES_ALL: Final = "a name in deny cannot be looked up; until it can, nobody is allowed"


def lookups(document: Document) -> Lookups:
    """Say what the user database must be asked before `document` can be resolved."""
    users: set[str] = set()
    groups: set[str] = set()
    member_groups: set[str] = set()
    gids: set[int] = set()
    uids: set[int] = set()
    listing = False
    for app in document.apps.values():
        for selection in (app.allow, app.deny, app.at_boot):
            users.update(entry.name for entry in selection.users if entry.name is not None)
        with_members = [*app.deny.groups, *app.at_boot.groups]
        if app.at_boot.position is not None:
            with_members += app.allow.groups
            numbers = [entry for entry in app.at_boot.users if entry.name is None]
            if app.group is None:
                uids.update(entry.first for entry in numbers if entry.first == entry.last)
                listing |= any(entry.first != entry.last for entry in numbers)
                listing |= app.at_boot.everyone is not None
        listing |= bool(with_members)
        member_groups.update(entry.name for entry in with_members if entry.name is not None)
        gids.update(entry.gid for entry in with_members if entry.name is None)
        more = (*app.allow.groups, *filter(None, (app.group, app.parent_group)))
        groups.update(entry.name for entry in more if entry.name is not None)
    return Lookups(
        users=frozenset(users),
        groups=frozenset(groups | member_groups),
        member_groups=frozenset(member_groups),
        gids=frozenset(gids),
        uids=frozenset(uids),
        listing=listing,
    )


def resolve(document: Document, accounts: Accounts, login_defs_range: Span) -> Policy:
    """Put the answers of the user database into `document`.

    Raises PolicyError for what cannot be right whatever the database will say later: an `at_boot`
    user whom the app denies, a name with an id that nobody may have.
    """
    registry = Registry(accounts)
    uid_range = document.uid_range or login_defs_range
    apps: dict[str, App] = {}
    unserved: dict[str, str] = {}
    for text in document.apps.values():
        app = _resolve_app(text, uid_range, registry)
        if isinstance(app, App):
            apps[text.name] = app
        else:
            unserved[text.name] = app
    if registry.problems:
        raise PolicyError(registry.problems.render(document.file))
    return Policy(
        file=document.file,
        apps=apps,
        unserved=unserved,
        warnings=registry.warnings.render(document.file),
        unresolved=tuple(registry.unresolved),
        uid_range=uid_range,
        user_names=registry.user_names(),
        group_names=registry.group_names(),
    )


def _resolve_app(app: AppText, uid_range: Span, registry: Registry) -> App | str:
    """Return the app, or why it cannot be served."""
    gid = _resolve_group(app, app.group, registry)
    parent_gid = _resolve_group(app, app.parent_group, registry)
    deny, denied = _resolve_rules(
        app.deny,
        registry,
        Consequence(
            absent=f"deny of app {app.name} does not stop it",
            unavailable=f"app {app.name} denies everybody",
        ),
        with_members=True,
        uid_range=uid_range,
    )
    allow, allowed = _resolve_rules(
        app.allow,
        registry,
        Consequence.of(f"allow of app {app.name} lacks it"),
        # The kernel says what groups a peer has. Only at boot there is no peer to ask it about.
        with_members=app.at_boot.position is not None,
        uid_range=uid_range,
    )
    if isinstance(gid, str) or isinstance(parent_gid, str):
        return gid if isinstance(gid, str) else f"{parent_gid}"
    at_boot = BootList()
    if not denied.unavailable:
        access = Access(
            allow=allow,
            deny=deny,
            allow_complete=not (allowed.absent or allowed.unavailable),
            gid=gid,
            uid_range=uid_range,
        )
        at_boot = boot_list(app, access, registry)
    return App(
        name=app.name,
        description=app.description,
        position=app.position,
        mode=app.mode,
        gid=gid,
        parent_mode=app.parent_mode,
        parent_gid=parent_gid or 0,
        max_directories=app.max_directories,
        adopt=app.adopt,
        allow=allow,
        deny=deny,
        at_boot=at_boot,
        deny_all=_DENIES_ALL if denied.unavailable else None,
    )


def _resolve_group(app: AppText, entry: GroupEntry | None, registry: Registry) -> int | str | None:
    """Return the gid, None where the policy names no group, or why there is none."""
    if entry is None:
        return None
    gid = registry.group(entry, Consequence.of(f"app {app.name} is not served"))
    return gid if isinstance(gid, int) else f"its group {entry.name!r} has no id"


@dataclass(slots=True)
class _Missing:
    """Whether names in a list have no id, and why."""

    absent: bool = False
    unavailable: bool = False

    def note(self, answer: Absent | Unavailable) -> None:
        if isinstance(answer, Absent):
            self.absent = True
        else:
            self.unavailable = True


def _resolve_rules(
    selection: Selection,
    registry: Registry,
    consequence: Consequence,
    *,
    with_members: bool,
    uid_range: Span,
) -> tuple[Rules, _Missing]:
    """Return the rules of `allow` or `deny`, and what they lack."""
    missing = _Missing()
    users: dict[int, int] = {}
    ranges: list[RangeRule] = []
    for user in selection.users:
        line = user.line
        if user.name is None and user.first != user.last:
            ranges.append(RangeRule(user.first, user.last, line))
            continue
        uid = user.first if user.name is None else registry.uid(user, consequence)
        if isinstance(uid, int):
            users.setdefault(uid, line)
        else:
            missing.note(uid)
    groups: dict[int, int] = {}
    members: dict[int, int] = {}
    for group in selection.groups:
        line = group.line
        gid = registry.group(group, consequence)
        if not isinstance(gid, int):
            missing.note(gid)
            continue
        groups.setdefault(gid, line)
        uids = registry.members(group, gid, consequence) if with_members else frozenset[int]()
        if isinstance(uids, Unavailable):
            missing.note(uids)
        else:
            members |= dict.fromkeys(uids - members.keys(), line)
    everyone = selection.everyone
    rules = Rules(
        line=None if selection.position is None else selection.position.line,
        users=users,
        ranges=disjoint(ranges),
        groups=groups,
        members=members,
        everyone=None if everyone is None else RangeRule(*uid_range, everyone.line),
    )
    return rules, missing
