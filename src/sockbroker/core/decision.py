"""Whether a peer may have its directory of an app, and which rule says so.

Pure and quick: a few look-ups in what `resolution` prepared. Whatever is not allowed in so many
words is refused. The answer names the rule for the log and for operators; a peer that is refused
never learns it.
"""

from dataclasses import dataclass

from sockbroker.core.names import is_user_id
from sockbroker.core.peer import AskGroups, Groups, Peer
from sockbroker.core.policy import App, Policy


@dataclass(frozen=True, slots=True)
class Rule:
    """What made a decision, and where it stands."""

    file: str
    # None: no line says so, the broker does by itself.
    line: int | None
    text: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.text}"


@dataclass(frozen=True, slots=True)
class Allowed:
    """The peer may have a directory of this app."""

    app: App
    rule: Rule
    # What the peer was found to have; None where nobody asked, or it could not be read.
    groups: Groups


@dataclass(frozen=True, slots=True)
class Refused:
    """The peer may not."""

    rule: Rule


def decide(policy: Policy, app_name: str, peer: Peer, groups: AskGroups) -> Allowed | Refused:
    """Decide for one peer and one app, which need not be one of the policy.

    The groups are asked for only if a rule of the app names one.
    """
    if peer.pid <= 0:
        return _refused(policy, None, "the kernel shows no pid of the peer")
    if not is_user_id(peer.uid):
        return _refused(policy, None, "an overflow uid identifies nobody")
    app = policy.apps.get(app_name)
    if app is None:
        return _refused(policy, None, policy.unserved.get(app_name, "unknown app"))
    if app.deny_all is not None:
        return _refused(policy, app.deny.line, app.deny_all)
    asked = groups() if app.names_groups else None
    known = None if asked is None else asked | {peer.gid}
    refused = _denied(policy, app, peer.uid, known)
    if refused is not None:
        return refused
    line_and_text = _allowed(app, peer.uid, known)
    if line_and_text is None:
        return _refused(policy, app.allow.line or app.position.line, "no rule")
    return Allowed(app, Rule(policy.file, *line_and_text), asked)


def _denied(policy: Policy, app: App, uid: int, groups: Groups) -> Refused | None:
    """Say which rule of `deny` applies, if one does."""
    if (line := app.deny.line_for_user(uid)) is not None:
        return _refused(policy, line, "deny.users")
    if (line := app.deny.members.get(uid)) is not None:
        return _refused(policy, line, "deny.groups (a member by the user database)")
    if not app.deny.groups:
        return None
    if groups is None:
        return _refused(policy, app.deny.line, "deny.groups (the peer's groups are not known)")
    if (line := app.deny.line_for_groups(groups)) is not None:
        return _refused(policy, line, "deny.groups")
    return None


def _allowed(app: App, uid: int, groups: Groups) -> tuple[int, str] | None:
    """Return the line and the name of the rule of `allow` that applies, if one does."""
    if (line := app.allow.line_for_user(uid)) is not None:
        return line, "allow.users"
    if groups is not None and (line := app.allow.line_for_groups(groups)) is not None:
        return line, "allow.groups"
    if (line := app.allow.line_for_everyone(uid)) is not None:
        return line, "allow.everyone"
    return None


def _refused(policy: Policy, line: int | None, text: str) -> Refused:
    return Refused(Rule(policy.file, line, text))
