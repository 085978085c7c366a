"""The command `sockbrokerctl`: reads its arguments, calls the library, prints, and exits.

`request` starts in little more than the time of the interpreter; so each verb imports what only it
needs.
"""

import posix
import sys
import time

from sockbroker import __version__, client
from sockbroker.command_line import (
    CommandFailed,
    CommandLine,
    UsageError,
    Verb,
    help_text,
    read,
)
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
    "exec": Verb(
        "Run CMD with RUNTIME_DIRECTORY set to your directory for APP, marked in use meanwhile.",
        operands=["APP", "CMD..."],
        options={"--socket": "NAME[:MODE]"},
        repeatable=["--socket"],
        details="""\
  --socket NAME[:MODE]  bind NAME there with that mode (0600), whatever the umask, have it
                        listen, and pass it to CMD as systemd does (LISTEN_FDS, LISTEN_PID,
                        LISTEN_FDNAMES), in the order given

CMD takes the place of this command. It inherits no descriptor of a directory; a regular
file above the sockets is the mark, and a CMD that closes it is no longer seen to use the
directory, but for its live sockets. When CMD ends, the files of its sockets stay, dead,
unless it removes them itself; the next exec or listen of that name replaces them. The
exit status is CMD's; 126 if it cannot be run, 127 if it is not found.""",
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
    "why": Verb(
        "Tell whether a user can connect to the socket at PATH (or @NAME), and if not, why.",
        operands=["PATH"],
        options={
            "--user": "USER",
            "--type": "stream|dgram|seqpacket",
            "--pid": "PID",
            "--json": None,
        },
        details="""\
As whoever runs it, and without the broker. Nothing is connected to. What may not be seen
is not guessed; root sees all. The step that decides is marked. A command to mend it is
for who is named before it. Without --user and --pid it is about whoever asks.
  --user USER   as of his next login, by the user database
  --type TYPE   for that type of connection; without it whatever the socket has is right
  --pid PID     for that process: with the groups, the capabilities and the umask it has
An abstract name is @ and its escaped form, as `sockets` prints it; a path is itself, or
where nothing has that name its escaped form. JSON has one object with path user uid
groups pid type, can_connect (null where it cannot be told), the error that connect
gives, its cause, deciding (a number of the steps), steps, socket, mends, at_bind, notes.
Exit status: 0 he can connect; 77 he cannot; 1 it cannot be told.""",
    ),
    "sockets": Verb(
        "List the sockets in runtime directories and the abstract ones: alive or not, and whose.",
        options={"--app": "APP", "--json": None},
        details="""\
As whoever runs it, and without the broker. JSON has an array of objects with
  name     of the file, or of an abstract socket with @ for its NUL; in this and all
           that follows a byte that is not printable ASCII is \\xHH, a backslash is
           doubled, and an @ at the start of a name is \\x40: it can be typed back
  kind     path; abstract; or unseen: path is a place where one may not look
  app uid path     the runtime directory, and the whole path of the file
  type     stream, dgram, seqpacket; null where nothing known has the file bound
  state    live: a socket has it bound (by device and inode; its name proves nothing)
           stale: nothing has, looked at twice in every network namespace of the machine
           unknown: one of them, or the place, could not be looked into; see note
  mode     of the file
  owner owner_name     who owns the file, or made the abstract socket
  pid command      of who has it open, the longest-running one of several; the command is
           what that process calls itself; null for processes of others, but for root
  queue backlog    of a listener: connections that wait, and how many may
  note     in words, what makes it unknown, or else odd
A directory with more than 250000 entries is not looked at to its end; that is noted.""",
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
    except CommandFailed as error:
        return _fail(error.status, str(error))
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
    with client.obtain(
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


def _exec(line: CommandLine, deadline: float) -> int:
    from sockbroker.executing import execute, read_sockets

    execute(
        line.operands[0],
        read_sockets(line.repeated.get("--socket", [])),
        line.operands[1:],
        timeout=deadline - time.monotonic(),
        address=line.options.get("--address"),
        warn=_say,
    )


def _list(line: CommandLine, deadline: float) -> int:
    import gc

    from sockbroker.tables import listing_as_json, listing_as_table

    gc.disable()  # there may be ten thousand, of which nothing goes before the end
    directories = client.list_directories(
        app=line.options.get("--app"),
        user=line.options.get("--user"),
        timeout=deadline - time.monotonic(),
        address=line.options.get("--address"),
    )
    render = listing_as_json if line.has("--json") else listing_as_table
    return _print(render(directories))


def _check(line: CommandLine, _deadline: float) -> int:
    from sockbroker.policy_check import DEFAULT_FILE, check

    file = line.operand(0) or DEFAULT_FILE
    verdict = check(file)
    status = POLICY_IS_BAD if verdict.problems else DONE
    if line.has("--json"):
        from sockbroker.tables import as_json

        judged = {"file": file, "problems": verdict.problems, "warnings": verdict.warnings}
        return _print(as_json(judged)) or status
    for warning in verdict.warnings:
        _say(f"warning: {warning}")
    return _print("".join(f"{legible(problem)}\n" for problem in verdict.problems)) or status


def _why(line: CommandLine, deadline: float) -> int:
    from sockbroker.why import explain, socket_type
    from sockbroker.why_report import why_as_json, why_as_text

    pid = line.options.get("--pid")
    if pid is not None and not (pid.isascii() and pid.isdecimal() and len(pid) <= 10):
        raise UsageError("--pid takes the number of a process")
    wanted = socket_type(line.options.get("--type"))
    if wanted is None and "--type" in line.options:
        raise UsageError("--type takes stream, dgram or seqpacket")
    explanation = explain(
        line.operands[0],
        user=line.options.get("--user"),
        pid=None if pid is None else int(pid),
        wanted=wanted,
        deadline=deadline,
    )
    render = why_as_json if line.has("--json") else why_as_text
    status = {True: DONE, False: DENIED, None: FAILED}[explanation.can_connect]
    return _print(render(explanation)) or status


def _sockets(line: CommandLine, deadline: float) -> int:
    from sockbroker.socket_listing import list_sockets
    from sockbroker.socket_tables import sockets_as_json, sockets_as_table

    sockets = list_sockets(line.options.get("--app"), deadline=deadline)
    render = sockets_as_json if line.has("--json") else sockets_as_table
    return next(filter(None, map(_print, render(sockets))), DONE)


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
    "exec": _exec,
    "list": _list,
    "check": _check,
    "why": _why,
    "sockets": _sockets,
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
