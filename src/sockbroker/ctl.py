"""The command `sockbrokerctl`: reads its arguments, calls the library, prints, and exits.

`request` starts in little more than the time of the interpreter; so each verb imports what only it
needs.
"""

import posix
import sys
import time

from sockbroker import __version__, client
from sockbroker.command_line import CommandLine, UsageError, Verb, help_text, read
from sockbroker.core.escaping import legible
from sockbroker.errors import (
    BrokerUnavailable,
    Denied,
    Error,
    InvalidAddress,
    PermissionDenied,
    PolicyInvalid,
)

TYPE_CHECKING = False  # as a checker reads it; `typing` itself would take long to import
if TYPE_CHECKING:
    from typing import NoReturn

DONE = 0
FAILED = 1
USAGE = 2
POLICY_IS_BAD = 65
NO_BROKER = 69
DENIED = 77
INTERRUPTED = 130

VERBS = {
    "request": Verb(
        "Have your directory for APP made, or found, and print its path.",
        operands=["APP"],
        options={"--user": "USER"},
    ),
    "release": Verb(
        "Remove your directory for APP and all that is in it, with --force also if it is in use.",
        operands=["APP"],
        options={"--user": "USER", "--force": None},
    ),
    "list": Verb(
        "List your directories; for root, everybody's.",
        options={"--app": "APP", "--user": "USER", "--json": None},
    ),
    "check": Verb(
        "Judge a policy (/etc/sockbroker.yaml) and print what is wrong with it; needs no daemon.",
        operands=["[FILE]"],
        options={"--json": None},
    ),
    "status": Verb("Show the state of the daemon.", options={"--json": None}),
    "reload": Verb("Have the daemon read its policy again; for root.", options={}),
}


def main() -> "NoReturn":
    """Run the command that sys.argv says, and exit with its status."""
    # Everything is written and flushed by now. To take the interpreter apart piece by piece, as
    # sys.exit does, takes longer than a request.
    posix._exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command with these arguments, and return its exit status."""
    try:
        return _run(read(arguments, VERBS))
    except (UsageError, InvalidAddress) as error:
        return _fail(USAGE, f"{legible(str(error))}; `sockbrokerctl --help` says how")
    except PolicyInvalid as error:
        return _fail(
            POLICY_IS_BAD,
            f"the old policy stays in force: mend {len(error.problems)} problems and reload again",
        )
    except BrokerUnavailable as error:
        return _fail(NO_BROKER, str(error))
    except (Denied, PermissionDenied) as error:
        return _fail(DENIED, str(error))
    except Error as error:
        return _fail(FAILED, str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(line: CommandLine) -> int:
    if line.has("--help"):
        return _print(help_text(line.verb, VERBS))
    if line.has("--version"):
        return _print(f"sockbrokerctl {__version__}\n")
    deadline = time.monotonic() + line.seconds
    return ACTIONS[line.verb or ""](line, deadline)


def _request(line: CommandLine, deadline: float) -> int:
    with client.request(
        line.operands[0],
        user=line.options.get("--user"),
        timeout=deadline - time.monotonic(),
        address=line.options.get("--address"),
    ) as directory:
        return _print(f"{directory.path}\n")


def _release(line: CommandLine, deadline: float) -> int:
    app, address = line.operands[0], line.options.get("--address")
    user, own = line.options.get("--user"), posix.geteuid()
    uid = own if user is None else client.uid_of(user)
    force = line.has("--force")
    untold = uid == own and not force and _in_use(line, app, uid, deadline) is None
    client.release(app, user=uid, force=force, timeout=deadline - time.monotonic(), address=address)
    if untold:
        _say("whether anybody used the directory could not be told; it was yours, so it is gone")
    return DONE


def _in_use(line: CommandLine, app: str, uid: int, deadline: float) -> bool | None:
    """Ask whether a directory is in use; None where that cannot be told, or not to this caller."""
    try:
        listed = client.list_directories(
            app=app,
            user=uid,
            timeout=deadline - time.monotonic(),
            address=line.options.get("--address"),
        )
    except BrokerUnavailable:
        raise
    except Error:
        return None
    return listed[0].in_use if listed else None


def _list(line: CommandLine, deadline: float) -> int:
    from sockbroker.tables import listing_as_json, listing_as_table

    directories = client.list_directories(
        app=line.options.get("--app"),
        user=line.options.get("--user"),
        timeout=deadline - time.monotonic(),
        address=line.options.get("--address"),
    )
    render = listing_as_json if line.has("--json") else listing_as_table
    return _print(render(directories))


def _check(line: CommandLine, _deadline: float) -> int:
    from sockbroker.policy_check import DEFAULT_FILE, Unreadable, check

    file = line.operand(0) or DEFAULT_FILE
    try:
        verdict = check(file)
    except Unreadable as error:
        return _fail(FAILED, str(error))
    status = POLICY_IS_BAD if verdict.problems else DONE
    if line.has("--json"):
        from sockbroker.tables import as_json

        judged = {"file": file, "problems": verdict.problems, "warnings": verdict.warnings}
        return _print(as_json(judged)) or status
    for warning in verdict.warnings:
        _say(f"warning: {warning}")
    return _print("".join(f"{legible(problem)}\n" for problem in verdict.problems)) or status


def _status(line: CommandLine, deadline: float) -> int:
    from sockbroker.tables import status_as_json, status_as_lines

    status = client.broker_status(
        timeout=deadline - time.monotonic(), address=line.options.get("--address")
    )
    render = status_as_json if line.has("--json") else status_as_lines
    return _print(render(status))


def _reload(line: CommandLine, deadline: float) -> int:
    try:
        reloaded = client.reload_policy(
            timeout=deadline - time.monotonic(), address=line.options.get("--address")
        )
    except PolicyInvalid as error:
        _print("".join(f"{legible(problem)}\n" for problem in error.problems))
        raise
    for problem in reloaded.problems:
        _say(f"warning: {problem}")
    return _print(f"policy generation {reloaded.policy_generation} is in force\n")


ACTIONS = {
    "request": _request,
    "release": _release,
    "list": _list,
    "check": _check,
    "status": _status,
    "reload": _reload,
}


def _print(text: str) -> int:
    """Write to standard output, all of it or with exit status 1."""
    if sys.stdout is None:
        return _fail(FAILED, "standard output is closed: open it to get the answer")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # The interpreter would try to write the rest when it ends, and complain once more.
        posix.dup2(posix.open("/dev/null", posix.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return FAILED  # who read it has seen enough
        return _fail(FAILED, f"cannot write to standard output: {posix.strerror(error.errno or 0)}")
    return DONE


def _fail(status: int, message: str) -> int:
    _say(message)
    return status


def _say(message: str) -> None:
    """Write one line to standard error, if there is one."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(f"sockbrokerctl: {legible(message)}\n")
            sys.stderr.flush()
        except OSError:
            pass  # nobody is left to hear it; the exit status says it too


if __name__ == "__main__":
    main()
