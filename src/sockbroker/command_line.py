"""Reads the command line of sockbrokerctl by a table of its verbs, and writes its help from it.

argparse would do it, and would take as long to import as the whole of `sockbrokerctl request` takes
to run. Options may stand anywhere, as `--name value` or `--name=value`; after `--` everything is an
operand.
"""

TYPE_CHECKING = False  # as a checker reads it; `typing` itself would take long to import
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# What an option takes: the word that stands for its value in the help, or None for one that is only
# there or not.
GLOBAL_OPTIONS: "dict[str, str | None]" = {
    "--address": "ADDRESS",
    "--timeout": "SECONDS",
    "--version": None,
    "--help": None,
}

DEFAULT_TIMEOUT = 30.0
LONGEST_TIMEOUT = 86_400.0


class UsageError(Exception):
    """The command line is not one; the text says in one line what is wrong with it."""


class CommandFailed(Exception):
    """What the command does for itself, without the broker, cannot be done; with its exit status.

    The library never raises it.
    """

    status = 1


class Verb:
    """What may follow a verb: its operands, and options.

    An operand in [] may be missing, the one that ends in ... is a command, which stands last. The
    options in `repeatable` may be given more than once.
    """

    __slots__ = ("details", "operands", "options", "repeatable", "summary")

    def __init__(
        self,
        summary: str,
        *,
        operands: "Sequence[str]" = (),
        options: "Mapping[str, str | None]",
        repeatable: "Sequence[str]" = (),
        details: str = "",
    ) -> None:
        self.summary = summary
        self.operands = operands
        self.options = options
        self.repeatable = repeatable
        self.details = details

    @property
    def takes_command(self) -> bool:
        """Whether what follows is a command with options of its own."""
        return bool(self.operands) and self.operands[-1].endswith("...")

    def usage(self, name: str) -> str:
        """Give the verb's line of help, without its summary."""
        optional = [
            f"[{each}{f' {value}' if value else ''}]{'...' if each in self.repeatable else ''}"
            for each, value in self.options.items()
        ]
        if self.takes_command:
            return " ".join([name, *self.operands[:-1], *optional, "--", self.operands[-1]])
        return " ".join([name, *self.operands, *optional])


class CommandLine:
    """A command line that was read: a verb, its operands, and the options that were given."""

    __slots__ = ("operands", "options", "repeated", "verb")

    def __init__(
        self,
        verb: str | None,
        operands: list[str],
        options: dict[str, str | None],
        repeated: dict[str, list[str]],
    ) -> None:
        self.verb = verb
        self.operands = operands
        self.options = options
        self.repeated = repeated  # the values of those that may be given more than once

    def operand(self, index: int) -> str | None:
        """Return an operand that may be missing."""
        return self.operands[index] if index < len(self.operands) else None

    def has(self, option: str) -> bool:
        """Tell whether an option that takes no value was given."""
        return option in self.options

    @property
    def seconds(self) -> float:
        """The timeout."""
        text = self.options.get("--timeout")
        if text is None:
            return DEFAULT_TIMEOUT
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= LONGEST_TIMEOUT:
            raise UsageError(
                f"--timeout takes seconds, more than 0 and at most {LONGEST_TIMEOUT:.0f}"
            )
        return seconds


def read(arguments: list[str], verbs: "Mapping[str, Verb]") -> CommandLine:
    """Read the arguments; raises UsageError. With --help or --version nothing else is required."""
    verb: str | None = None
    operands: list[str] = []
    options: dict[str, str | None] = {}
    repeated: dict[str, list[str]] = {}
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            operands += rest
        elif argument == "-h":
            options["--help"] = None
        elif argument.startswith("--"):
            name, value = _option(argument, rest, verb, verbs)
            if value is not None and verb is not None and name in verbs[verb].repeatable:
                repeated.setdefault(name, []).append(value)
                continue
            if name in options and value is not None:
                raise UsageError(f"{name} is given twice")
            options[name] = value
        elif argument.startswith("-") and argument != "-":
            raise UsageError(_no_option(argument, verb, verbs))
        elif verb is None:
            if argument not in verbs:
                raise UsageError(f"there is no verb {argument}")
            verb = argument
        else:
            operands.append(argument)
    line = CommandLine(verb, operands, options, repeated)
    if not line.has("--help") and not line.has("--version"):
        _complete(line, verbs)
    return line


def _option(
    argument: str, rest: "Iterator[str]", verb: str | None, verbs: "Mapping[str, Verb]"
) -> tuple[str, str | None]:
    """Return an option's name and value, which may be the next argument."""
    name, equals, value = argument.partition("=")
    known = GLOBAL_OPTIONS if verb is None else {**GLOBAL_OPTIONS, **verbs[verb].options}
    if name not in known:
        raise UsageError(_no_option(name, verb, verbs))
    if known[name] is None:
        if equals:
            raise UsageError(f"{name} takes no value")
        return name, None
    if not equals:
        following = next(rest, None)
        if following is None:
            raise UsageError(f"{name} needs a value: {name} {known[name]}")
        value = following
    return name, value


def _no_option(name: str, verb: str | None, verbs: "Mapping[str, Verb]") -> str:
    if verb is None:
        return f"there is no option {name} before the verb"
    if verbs[verb].takes_command:
        return f"there is no option {name} of {verb}: put -- before the command that it is for"
    return f"there is no option {name} of {verb}"


def _complete(line: CommandLine, verbs: "Mapping[str, Verb]") -> None:
    if line.verb is None:
        raise UsageError(f"which verb? one of: {', '.join(verbs)}")
    names = verbs[line.verb].operands
    required = [name for name in names if not name.startswith("[")]
    if len(line.operands) < len(required):
        raise UsageError(f"{line.verb} needs {required[len(line.operands)]}")
    if len(line.operands) > len(names) and not verbs[line.verb].takes_command:
        raise UsageError(f"{line.verb} takes no further operand {line.operands[len(names)]}")


def help_text(verb: str | None, verbs: "Mapping[str, Verb]") -> str:
    """Give the help: of everything, or of one verb."""
    if verb is not None:
        details = f"\n{verbs[verb].details}\n" if verbs[verb].details else ""
        return f"usage: sockbrokerctl {verbs[verb].usage(verb)}\n\n{verbs[verb].summary}\n{details}"
    lines = [f"  {each.usage(name)}\n      {each.summary}" for name, each in verbs.items()]
    return (
        "usage: sockbrokerctl [--address ADDRESS] [--timeout SECONDS] VERB ...\n\n"
        "Ask sockbrokerd for per-user runtime directories, /run/APP/UID.\n\n"
        + "\n".join(lines)
        + """

  --address ADDRESS   unix:@NAME or unix:/PATH; by default unix:@sockbroker, and
                      unix:/run/sockbroker/io.sockbroker where root does not listen
                      on that; for root unix:/run/sockbroker/operator
  --timeout SECONDS   end by then (30)
  --version, --help

Exit status: 0 done; 1 failed; 2 usage; 65 the policy is bad; 69 no broker; 77 denied.
"""
    )
