"""The policy in its two forms: as the administrator wrote it, and as it holds on this machine.

`policy_reader` makes a `Document` of a text: names are still names, and each value has its place.
`resolution` makes a `Policy` of that: names have become ids. Whatever is wrong with a policy, in
either step, is a `PolicyError`, and it says everything that is wrong in one go.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from sockbroker.core.rules import BootList, Rules
from sockbroker.core.spans import Span

DEFAULT_MODE: Final = 0o700
DEFAULT_PARENT_MODE: Final = 0o711
DEFAULT_MAX_DIRECTORIES: Final = 1000

# A file of 4 MiB can hold a million mistakes, and nobody reads more of them than this.
MAX_PROBLEMS: Final = 1000


class Position(NamedTuple):
    """A place in a file: line and column of a character, both counted from 1."""

    line: int
    column: int


# Where something is said of a file as a whole.
BEGINNING: Final = Position(1, 1)


class Problems:
    """What is wrong (or, as a warning, doubtful) in a policy, each with its place and the mend."""

    def __init__(self) -> None:
        self._messages: list[tuple[Position, str]] = []
        self._more = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    def add(self, position: Position, message: str) -> None:
        """Note one; those beyond MAX_PROBLEMS are only counted."""
        if len(self._messages) < MAX_PROBLEMS:
            self._messages.append((position, message))
        else:
            self._more += 1

    def render(self, file: str) -> tuple[str, ...]:
        """Say each as FILE:LINE:COLUMN: MESSAGE, in the order of the file."""
        messages = sorted(self._messages)
        if self._more:
            messages.append((messages[-1][0], f"and {self._more} more; mend the others first"))
        return tuple(f"{file}:{line}:{column}: {message}" for (line, column), message in messages)


class PolicyError(Exception):
    """The policy cannot be used: every reason for it, in the order of the file."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


# The values of a policy as written are named tuples: there are tens of thousands in a large policy,
# and a frozen dataclass takes four times as long to make.


class UserEntry(NamedTuple):
    """One item of a list of users: a name, or the numbers from first to last (often the same)."""

    name: str | None
    # Without meaning where there is a name.
    first: int
    last: int
    line: int
    column: int

    @property
    def position(self) -> Position:
        return Position(self.line, self.column)


class GroupEntry(NamedTuple):
    """One group: a name, or else a number."""

    name: str | None
    # Without meaning where there is a name.
    gid: int
    line: int
    column: int

    @property
    def position(self) -> Position:
        return Position(self.line, self.column)


class Selection(NamedTuple):
    """Whom `allow`, `deny` or `at_boot` names."""

    # Of the word allow, deny or at_boot; None where it is not written.
    position: Position | None = None
    users: tuple[UserEntry, ...] = ()
    groups: tuple[GroupEntry, ...] = ()
    # Where it says `everyone: true`.
    everyone: Position | None = None


NOBODY: Final = Selection()


class AppText(NamedTuple):
    """What the policy says about one app."""

    name: str
    position: Position
    description: str = ""
    allow: Selection = NOBODY
    deny: Selection = NOBODY
    at_boot: Selection = NOBODY
    mode: int = DEFAULT_MODE
    # None: the group of whoever the directory is made for.
    group: GroupEntry | None = None
    parent_mode: int = DEFAULT_PARENT_MODE
    # None: root.
    parent_group: GroupEntry | None = None
    max_directories: int = DEFAULT_MAX_DIRECTORIES
    adopt: bool = False


class Document(NamedTuple):
    """A whole policy that is well-formed and consistent in itself."""

    file: str
    # Whom `everyone` means: first and last uid. None: as /etc/login.defs says.
    uid_range: Span | None
    apps: Mapping[str, AppText]


class App(NamedTuple):
    """What holds for one app."""

    name: str
    description: str
    position: Position
    mode: int
    # None: the policy names no group, so a directory has that of whoever it was made for, and
    # whatever group an existing one has is right.
    gid: int | None
    parent_mode: int
    parent_gid: int
    max_directories: int
    adopt: bool
    allow: Rules
    deny: Rules
    at_boot: BootList
    # Why nobody is allowed for now: a name in `deny` cannot be looked up.
    deny_all: str | None

    @property
    def names_groups(self) -> bool:
        """Whether a decision may depend on the groups of who asks."""
        return bool(self.allow.groups or self.deny.groups)


class Policy(NamedTuple):
    """What holds on this machine."""

    file: str
    apps: Mapping[str, App]
    # Apps that are not among the above although the policy has them, and why: their `group` has no
    # gid, so nobody can tell what their directories should be like, and nothing may be repaired.
    unserved: Mapping[str, str]
    # FILE:LINE:COLUMN: MESSAGE, in the order of the file.
    warnings: tuple[str, ...]
    # What has no id now and should be looked up again, like "user 'alice'"; each has a warning.
    unresolved: tuple[str, ...]
    # Whom `everyone` means.
    uid_range: Span
    # The names that came to light, for showing them.
    user_names: Mapping[int, str]
    group_names: Mapping[int, str]
