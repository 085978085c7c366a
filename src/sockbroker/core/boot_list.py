"""Works out who gets a directory of an app at every start, before anyone asks.

Whoever the policy names under `at_boot.users` must be somebody whom the app allows, else the policy
contradicts itself and is refused. Members of `at_boot.groups` come and go without the policy being
touched, and a new member must not keep the broker from starting: whoever of them the app denies is
left out.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from sockbroker.core.accounts import Unavailable
from sockbroker.core.names import OVERFLOW_IDS
from sockbroker.core.policy import AppText, Position, UserEntry
from sockbroker.core.registry import Consequence, Registry
from sockbroker.core.rules import BootList, Rules
from sockbroker.core.spans import Span, Spans, common, count, merged, of_ids, overlap, without

_OVERFLOW = merged((number, number) for number in OVERFLOW_IDS)


class Access(NamedTuple):
    """What `boot_list` has to know of an app: its rules, and whether they are all of them."""

    allow: Rules
    deny: Rules
    # False while a name in `allow` has no id: whoever is not allowed now may be so later.
    allow_complete: bool
    gid: int | None
    uid_range: Span


def boot_list(app: AppText, access: Access, registry: Registry) -> BootList:
    """Resolve `at_boot`, and report what contradicts the rest of the app."""
    if app.at_boot.position is None:
        return BootList()
    allowed, denied = access.allow.spans(), access.deny.spans()
    named = [*_named(app, access, registry)]
    users = without(merged(span for span, _ in named), _OVERFLOW)
    refused = common(users, denied)
    stray = without(without(users, refused), allowed)
    if refused or stray:
        _report(app, access, registry, named, refused, stray)
    users = without(without(users, refused), stray)
    members = common(without(_members(app, registry, allowed, denied), denied), allowed)
    if count(users) > app.max_directories:
        registry.problems.add(
            app.at_boot.position,
            f"at_boot names {count(users)} users and max_directories is {app.max_directories}; "
            f"write max_directories: {count(users)} or name fewer",
        )
    everybody = merged([*users, *members])
    if count(everybody) > max(app.max_directories, count(users)):
        registry.warnings.add(
            app.at_boot.position,
            f"with the members of its groups at_boot means {count(everybody)} users and "
            f"max_directories is {app.max_directories}, so that the last ones get no directory; "
            f"write max_directories: {count(everybody)} or more",
        )
    return BootList(spans=everybody, gid=access.gid, gids=registry.primary_gids())


Named: TypeAlias = tuple[Span, UserEntry | Position]
"""Uids, and where they are named: the entry, of which there may be many, or `everyone`."""


def _named(app: AppText, access: Access, registry: Registry) -> Iterator[Named]:
    """Yield the uids of each entry of at_boot.users, leaving out what cannot be told yet."""
    consequence = Consequence.of(f"at_boot of app {app.name} lacks it")
    for entry in app.at_boot.users:
        if entry.name is not None:
            uid = registry.uid(entry, consequence)
            if isinstance(uid, int):
                yield (uid, uid), entry
        elif entry.first != entry.last:
            if _gids_known(app, access, registry, entry.position):
                yield (entry.first, entry.last), entry
        elif access.gid is not None or registry.knows_group_of(entry, consequence):
            yield (entry.first, entry.last), entry
    everyone = app.at_boot.everyone
    if everyone is not None and _gids_known(app, access, registry, everyone):
        yield access.uid_range, everyone


def _gids_known(app: AppText, access: Access, registry: Registry, position: Position) -> bool:
    """Tell whether the groups for a whole range can be told."""
    consequence = Consequence.of(f"at_boot of app {app.name} lacks this range")
    return access.gid is not None or registry.knows_all_groups(position, consequence)


def _report(
    app: AppText,
    access: Access,
    registry: Registry,
    named: list[Named],
    refused: Spans,
    stray: Spans,
) -> None:
    """Report the users named under at_boot whom the app denies, or does not allow."""
    for span, where in named:
        position = where.position if isinstance(where, UserEntry) else where
        for first, last in overlap(span, refused):
            registry.problems.add(
                position,
                f"at_boot names {_uids(first, last)}, whom deny of app {app.name} refuses "
                f"(line {access.deny.line}); take them out of the one or the other",
            )
        for first, last in overlap(span, stray):
            message = f"at_boot names {_uids(first, last)}, whom allow of app {app.name} does "
            if access.allow_complete:
                message += "not name; add them to allow or take them out of at_boot"
                registry.problems.add(position, message)
            else:
                message += "not name as far as can be told now; no directory is made for them"
                registry.warnings.add(position, message)


def _members(app: AppText, registry: Registry, allowed: Spans, denied: Spans) -> Spans:
    """Return the members of groups under at_boot, as far as they can be told; report strays."""
    consequence = Consequence.of(f"at_boot of app {app.name} lacks them")
    everybody: Spans = ()
    for entry in app.at_boot.groups:
        gid = registry.group(entry, consequence)
        if not isinstance(gid, int):
            continue
        members = registry.members(entry, gid, consequence)
        if isinstance(members, Unavailable):
            continue
        spans = of_ids(members)
        everybody = merged([*everybody, *spans])
        stray = without(without(spans, denied), allowed)
        if stray:
            registry.warnings.add(
                entry.position,
                f"allow of app {app.name} does not name {count(stray)} of the members (the first "
                f"is uid {stray[0][0]}), so that they get no directory; add the group to allow",
            )
    return everybody


def _uids(first: int, last: int) -> str:
    return f"uid {first}" if first == last else f"uids {first} to {last}"
