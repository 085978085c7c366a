"""What the broker's tree has to be after any history, in as few words as it can be said.

The model knows who has which rights by a policy, and what each call, reload, restart and trick of
an owner makes of a directory.  It knows nothing of how the broker does it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from peers import DENIED, IN_USE, LIMIT_REACHED, NO_SUCH_DIRECTORY
from running import ALICE, BOB, CAROL, CHAT, GUEST, GUESTS, MALLORY, STAFF

USERS = {ALICE: "alice", BOB: "bob", CAROL: "carol", MALLORY: "mallory", GUEST: "guest"}
GROUPS = {CHAT: "chat", GUESTS: "guests"}
PRIMARY = {uid: uid for uid in USERS} | {CAROL: STAFF}
MEMBERS = {CHAT: {ALICE, BOB}, GUESTS: {GUEST}}
APPS = ("one", "two", "three")

NO_LIMIT = 1000


@dataclass(frozen=True)
class Rules:
    """What a policy says of one app; users and groups by number."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()
    everyone: bool = False
    denied: frozenset[int] = frozenset()
    denied_groups: frozenset[int] = frozenset()
    mode: int = 0o700
    gid: int | None = None
    parent: int = 0o711
    limit: int = NO_LIMIT
    at_boot: frozenset[int] = frozenset()

    def allow(self, uid: int, groups: Iterable[int]) -> bool:
        """Whether somebody with these groups, his gid among them, may have a directory."""
        has = set(groups)
        members = {member for gid in self.denied_groups for member in MEMBERS[gid]}
        if uid in self.denied | members or has & self.denied_groups:
            return False
        return uid in self.users or bool(has & self.groups) or self.everyone

    def text(self) -> str:
        """The same in YAML, with names for numbers here and there."""
        users = ", ".join(USERS[uid] if uid % 2 else str(uid) for uid in sorted(self.users))
        denied = ", ".join(USERS[uid] for uid in sorted(self.denied))
        groups, denied_groups = (
            ", ".join(GROUPS[gid] for gid in sorted(gids))
            for gids in (self.groups, self.denied_groups)
        )
        everyone = str(self.everyone).lower()
        parts = [
            f"allow: {{users: [{users}], groups: [{groups}], everyone: {everyone}}}",
            f"deny: {{users: [{denied}], groups: [{denied_groups}]}}",
            f'mode: "{self.mode:04o}"',
            f'parent: {{mode: "{self.parent:04o}"}}',
            f"max_directories: {self.limit}",
        ]
        if self.gid is not None:
            parts.append(f"group: {GROUPS[self.gid]}")
        if self.at_boot:
            parts.append(f"at_boot: {{users: [{', '.join(map(str, sorted(self.at_boot)))}]}}")
        return "{" + ", ".join(parts) + "}"


Policy = dict[str, Rules]


def text(policy: Policy) -> str:
    """The policy as its file has it."""
    apps = "".join(f"  {app}: {rules.text()}\n" for app, rules in policy.items())
    return f"uid_range: [1000, 60000]\napps:{' {}' if not apps else ''}\n{apps}"


@dataclass(frozen=True)
class Directory:
    """How a runtime directory is."""

    gid: int
    mode: int
    acl: bool = False


@dataclass
class Model:
    """The policy in force and the tree."""

    policy: Policy
    folders: dict[str, int] = field(default_factory=dict)
    directories: dict[tuple[str, int], Directory] = field(default_factory=dict)

    def tree(self) -> dict[str, tuple[int, int, str]]:
        """The tree as `running.tree` shows it, with a + behind the mode where there is an ACL."""
        found = {}
        for app, parent in self.folders.items():
            found[app] = (0, 0, f"{parent:04o}")
            found[f"{app}/.sockbroker"] = (0, 0, "0700")
        for (app, uid), directory in self.directories.items():
            mode = f"{directory.mode:04o}{'+' if directory.acl else ''}"
            found[f"{app}/{uid}"] = (uid, directory.gid, mode)
        return dict(sorted(found.items()))

    def allows(self, app: str, uid: int, groups: Iterable[int]) -> bool:
        return app in self.policy and self.policy[app].allow(uid, groups)

    def wanted(self, app: str, directory: Directory) -> Directory:
        """How an existing directory shall be: without a group in the policy it keeps its own."""
        rules = self.policy[app]
        return Directory(directory.gid if rules.gid is None else rules.gid, rules.mode)

    def state(self, app: str, uid: int) -> str:
        """The state that List tells."""
        directory = self.directories[app, uid]
        if app not in self.policy:
            return "orphaned"
        return "ok" if directory == self.wanted(app, directory) else "drifted"

    def bring(self, policy: Policy) -> None:
        """Bring the tree to a policy, as every start and reload does."""
        self.policy = policy
        for app, rules in policy.items():
            self.folders[app] = rules.parent
            for key, directory in self.directories.items():
                if key[0] == app:
                    self.directories[key] = self.wanted(app, directory)
            for uid in rules.at_boot:
                if (app, uid) not in self.directories:
                    self._make(app, uid, PRIMARY[uid])

    def request(self, app: str, uid: int, gid: int, groups: Iterable[int]) -> str:
        """Ask for a directory; return the outcome or the error."""
        if not self.allows(app, uid, {gid, *groups}):
            return DENIED
        directory = self.directories.get((app, uid))
        if directory is None:
            if sum(key[0] == app for key in self.directories) >= self.policy[app].limit:
                return LIMIT_REACHED
            self._make(app, uid, gid)
            return "created"
        self.directories[app, uid] = self.wanted(app, directory)
        return "existing" if directory == self.directories[app, uid] else "repaired"

    def release(self, app: str, uid: int, *, allowed: bool, in_use: bool) -> str:
        """Release a directory; return the error, or "" if there is none."""
        if (app, uid) not in self.directories:
            return NO_SUCH_DIRECTORY if allowed else DENIED
        if in_use:
            return IN_USE  # also without a rule: it is his own, and he knows that it is there
        del self.directories[app, uid]
        return ""

    def change(self, app: str, uid: int, **attributes: int | bool) -> None:
        """Its owner has changed it."""
        self.directories[app, uid] = replace(self.directories[app, uid], **attributes)  # type: ignore[arg-type]

    def _make(self, app: str, uid: int, gid: int) -> None:
        rules = self.policy[app]
        self.directories[app, uid] = Directory(gid if rules.gid is None else rules.gid, rules.mode)
