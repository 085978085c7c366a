"""From the text of a policy to a `Document`: which keys there are and what they may say.

Whatever is wrong is reported at its place, with the mend, and reading goes on with the next value,
so that one run tells everything. `strict_yaml` has judged by then what YAML is understood at all;
`policy_words` judges single words.
"""

from collections.abc import Iterator
from typing import Final

from sockbroker.core.modes import parent_mode_fault, parse_mode, runtime_mode_faults
from sockbroker.core.names import RESERVED_NAMES, is_app_name
from sockbroker.core.policy import (
    BEGINNING,
    DEFAULT_MAX_DIRECTORIES,
    DEFAULT_MODE,
    DEFAULT_PARENT_MODE,
    NOBODY,
    AppText,
    Document,
    GroupEntry,
    PolicyError,
    Position,
    Problems,
    Selection,
    UserEntry,
)
from sockbroker.core.policy_words import WordError, is_not_word, read_group, read_number, read_user
from sockbroker.core.spans import Span
from sockbroker.core.strict_yaml import (
    Mapping,
    Refused,
    Scalar,
    Sequence,
    Stopped,
    Value,
    Walk,
    decode,
    quote,
)

_TOP_KEYS: Final = ("uid_range", "apps")
_APP_KEYS: Final = (
    *("description", "allow", "deny", "mode", "group", "parent", "at_boot"),
    *("max_directories", "adopt"),
)
_SELECTION_KEYS: Final = ("users", "groups", "everyone")
_DENY_KEYS: Final = ("users", "groups")
_PARENT_KEYS: Final = ("mode", "group")


def read_policy(text: bytes, file: str) -> Document:
    """Read a policy; raises PolicyError, with every problem, if it is not a good one."""
    problems = Problems()
    decoded = decode(text, problems)
    document = Document(file=file, uid_range=None, apps={})
    if decoded is not None:
        document = _Reader(file, decoded, problems).document()
    if problems:
        raise PolicyError(problems.render(file))
    return document


class _Reader:
    """One run over the text of a policy. What is wrong goes to `problems` and stops nothing."""

    def __init__(self, file: str, text: str, problems: Problems) -> None:
        self.file = file
        self.report = problems.add
        self.walk = Walk(text, problems)

    def document(self) -> Document:
        document = Document(file=self.file, uid_range=None, apps={})
        try:
            value = self.walk.root()
            document = self.policy(value)
            if value is not None:
                self.walk.finish()
        except Stopped:
            pass  # it is among the problems, with all that was wrong before
        return document

    def policy(self, value: Value | None) -> Document:
        uid_range: Span | None = None
        apps: dict[str, AppText] | None = None
        if value is None:
            self.report(
                BEGINNING, "there is no policy in this file; say apps: {} if it is to be empty"
            )
        elif isinstance(value, Mapping):
            for key, child in self.entries(value, _TOP_KEYS, "a policy"):
                if key.text == "uid_range":
                    uid_range = self.uid_range(child)
                else:
                    apps = self.apps(child)
            if apps is None:
                self.report(value.position, "the key apps is missing; say apps: {} for no apps")
        else:
            self.refuse(value, "a policy is a mapping; begin with a line that says apps:")
        return Document(file=self.file, uid_range=uid_range, apps=apps or {})

    def uid_range(self, value: Value) -> Span | None:
        items = [*self.walk.items(value)] if isinstance(value, Sequence) else []
        if len(items) != 2:
            self.refuse(value, "uid_range is two numbers; write it like [1000, 60000]")
            return None
        first, last = (self.number(item, "a uid", least=0) for item in items)
        if first is None or last is None:
            return None
        if first > last:
            self.report(value.position, f"uid_range ends before it begins; write [{last}, {first}]")
        return first, last

    def apps(self, value: Value) -> dict[str, AppText]:
        apps: dict[str, AppText] = {}
        if not isinstance(value, Mapping):
            self.refuse(value, "apps is a mapping of names to apps; write {} if there are none")
            return apps
        for key, child in self.walk.entries(value):
            self.app_name(key)
            if isinstance(child, Mapping):
                apps[key.text] = self.app(key, child)
            else:
                self.refuse(
                    child,
                    f"app {quote(key.text)} is a mapping; write {{}} if it has only defaults",
                )
        return apps

    def app_name(self, key: Scalar) -> None:
        if is_not_word(key.text, quoted=key.quoted):
            self.report(
                key.position, f"YAML does not take {key.text} for a name; write it in quotes"
            )
        elif not is_app_name(key.text):
            self.report(
                key.position,
                f"{quote(key.text)} cannot be the name of an app; use 1 to 31 of a-z 0-9 _ - and "
                "begin with a letter",
            )
        elif key.text in RESERVED_NAMES:
            self.report(
                key.position,
                f"/run/{key.text} belongs to the system, not to an app; choose another name",
            )

    def app(self, name: Scalar, mapping: Mapping) -> AppText:
        allow = deny = at_boot = NOBODY
        description = ""
        mode = DEFAULT_MODE
        mode_position: Position | None = None
        group: GroupEntry | None = None
        has_group = False
        parent_mode, parent_group = DEFAULT_PARENT_MODE, None
        max_directories = DEFAULT_MAX_DIRECTORIES
        adopt = False
        for key, value in self.entries(mapping, _APP_KEYS, "an app"):
            match key.text:
                case "allow":
                    allow = self.selection(key, value, _SELECTION_KEYS)
                case "mode":
                    mode_position = value.position
                    mode = self.mode(value, DEFAULT_MODE)
                case "group":
                    has_group = True
                    group = self.group(value)
                case "deny":
                    deny = self.selection(key, value, _DENY_KEYS)
                case "at_boot":
                    at_boot = self.selection(key, value, _SELECTION_KEYS)
                case "parent":
                    parent_mode, parent_group = self.parent(value)
                case "max_directories":
                    max_directories = self.number(value, "max_directories", least=1) or 1
                case "description":
                    description = self.description(value)
                case _:
                    adopt = self.truth(value, "adopt")
        if mode_position is not None:
            for fault in runtime_mode_faults(mode, has_group=has_group):
                self.report(mode_position, fault)
        return AppText(
            name=name.text,
            position=name.position,
            description=description,
            allow=allow,
            deny=deny,
            at_boot=at_boot,
            mode=mode,
            group=group,
            parent_mode=parent_mode,
            parent_group=parent_group,
            max_directories=max_directories,
            adopt=adopt,
        )

    def selection(self, name: Scalar, value: Value, known: tuple[str, ...]) -> Selection:
        users: tuple[UserEntry, ...] = ()
        groups: tuple[GroupEntry, ...] = ()
        everyone: Position | None = None
        if not isinstance(value, Mapping):
            self.refuse(
                value, f"{name.text} is a mapping; write users: [...] or groups: [...] in it"
            )
            return NOBODY
        for key, child in self.entries(value, known, name.text):
            if key.text == "users":
                users = tuple(filter(None, map(self.user, self.items(key, child))))
            elif key.text == "groups":
                groups = tuple(filter(None, map(self.group, self.items(key, child))))
            elif self.truth(child, "everyone"):
                everyone = key.position
        return Selection(position=name.position, users=users, groups=groups, everyone=everyone)

    def items(self, name: Scalar, value: Value) -> Iterator[Value]:
        if isinstance(value, Sequence):
            return self.walk.items(value)
        self.refuse(value, f"{name.text} is a list; write {name.text}: [] if it is to be empty")
        return iter(())

    def user(self, value: Value) -> UserEntry | None:
        if not isinstance(value, Scalar):
            self.refuse(value, 'a user is a name, a number or a range like "2000-2999"')
            return None
        try:
            name, first, last = read_user(value.text, quoted=value.quoted)
        except WordError as error:
            self.report(value.position, str(error))
            return None
        return UserEntry(name, first, last, value.line, value.column)

    def group(self, value: Value) -> GroupEntry | None:
        if not isinstance(value, Scalar):
            self.refuse(value, "a group is a name or a number")
            return None
        try:
            name, gid = read_group(value.text, quoted=value.quoted)
        except WordError as error:
            self.report(value.position, str(error))
            return None
        return GroupEntry(name, gid, value.line, value.column)

    def parent(self, value: Value) -> tuple[int, GroupEntry | None]:
        mode, group = DEFAULT_PARENT_MODE, None
        if not isinstance(value, Mapping):
            self.refuse(value, 'parent is a mapping; write it like {mode: "0711", group: root}')
            return mode, group
        for key, child in self.entries(value, _PARENT_KEYS, "parent"):
            if key.text == "group":
                group = self.group(child)
                continue
            mode = self.mode(child, DEFAULT_PARENT_MODE)
            if (fault := parent_mode_fault(mode)) is not None:
                self.report(child.position, fault)
        return mode, group

    def mode(self, value: Value, default: int) -> int:
        if not isinstance(value, Scalar) or not value.text:
            self.refuse(value, 'a mode is octal digits in quotes; write it like "0700"')
            return default
        mode = parse_mode(value.text)
        if mode is None:
            what = f"{quote(value.text)} is not a mode of 3 or 4 octal digits"
            self.report(value.position, f'{what}; write it in quotes, like "0700"')
            return default
        if not value.quoted:
            what = f"{value.text} without quotes is another number in YAML"
            self.report(value.position, f'{what}; write it in quotes, "{value.text}"')
            return default
        return mode

    def number(self, value: Value, what: str, *, least: int = 0) -> int | None:
        if not isinstance(value, Scalar):
            self.refuse(value, f"{what} is a number")
            return None
        try:
            return read_number(value.text, what, least=least)
        except WordError as error:
            self.report(value.position, str(error))
            return None

    def truth(self, value: Value, what: str) -> bool:
        if not isinstance(value, Scalar) or value.quoted or value.text not in ("true", "false"):
            self.refuse(value, f"{what} is true or false; write one of these two, without quotes")
            return False
        return value.text == "true"

    def description(self, value: Value) -> str:
        if not isinstance(value, Scalar):
            self.refuse(value, "a description is a text in one line")
            return ""
        if not value.text.isprintable():
            self.report(
                value.position,
                "a description is one line of characters that can be seen; remove the others",
            )
        return value.text

    def entries(
        self, mapping: Mapping, known: tuple[str, ...], what: str
    ) -> Iterator[tuple[Scalar, Value]]:
        """Yield the entries with a known key; report the others."""
        for key, value in self.walk.entries(mapping):
            if key.text in known:
                yield key, value
            else:
                message = f"{what} has no key {quote(key.text)}; it may have {', '.join(known)}"
                self.report(key.position, message)

    def refuse(self, value: Value, message: str) -> None:
        """Report a value of the wrong kind, unless it is reported already."""
        if isinstance(value, Refused):
            return
        if isinstance(value, Scalar) and not value.text and not value.quoted:
            message = f"there is no value here; {message}"
        self.report(value.position, message)
