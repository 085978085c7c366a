"""What `why` tells people to do: commands, each with who runs it, and words where there is none.

Also what stands beside the verdict: the bind that comes, groups, capabilities, security modules.
"""

import os
from dataclasses import dataclass
from typing import Final

from sockbroker.core.binding import mode_at_bind, umask_behind
from sockbroker.core.connecting import LINKS_COUNTED_ONCE, Cause, links_on
from sockbroker.core.escaping import escape
from sockbroker.core.mending import Change, Join, Mend, NewSession, removal
from sockbroker.core.permission import Class, Kind, Node
from sockbroker.core.quoting import shell_command
from sockbroker.core.way import Blind, Bound, Followed, Missing, NotSeen, Reached, Way
from sockbroker.why import Explanation
from sockbroker.why_words import group_name, subject_name, user_name

# They do not stop a connect(2) that permissions allow.
_HARMLESS_MODULES: Final = frozenset(
    {"capability", "evm", "ima", "integrity", "loadpin", "lockdown", "safesetid", "yama"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to do: a command, and who may run it; or words, and no command."""

    runners: tuple[str, ...] = ()
    command: str | None = None
    words: str = ""

    def __str__(self) -> str:
        """Give it as a line."""
        said = " or ".join(self.runners)
        return f"as {said}: {self.command}" if self.command is not None else self.words


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """The mode that a server gives to its socket, by the umask that it has."""

    umask: int
    mode: int
    words: str


def what_to_do(explanation: Explanation) -> list[Advice]:
    """Give the mends, the one for the deciding step first; none where there is nothing to mend."""
    seen = explanation.seen
    if seen.elsewhere is not None:
        return [_from_there(explanation)]
    advice = [
        _of_mend(explanation, mend)
        for mend in explanation.mends
        # Where there is no command, one way to say what is missing will do.
        if not isinstance(mend, Change) or mend.runners or not mend.only_him
    ]
    for judged in seen.verdict.judged:
        if judged.allowed is not True:
            said = _of_cause(explanation, judged.cause)
            advice += [] if said is None else [said]
    return advice


def _from_there(explanation: Explanation) -> Advice:
    if explanation.subject.process is None:
        return Advice()
    pid = explanation.subject.process.pid
    return Advice(words=f"run this in the namespaces of process {pid}: nsenter(1) leads there")


def _of_mend(explanation: Explanation, mend: Mend) -> Advice:
    match mend:
        case Change():
            return _of_change(explanation, mend)
        case Join(gid=gid):
            user = explanation.users.get(explanation.subject.uid)
            group = explanation.groups.get(gid)
            command = None
            if user is not None and group is not None:
                names = os.fsencode(user), os.fsencode(group)
                command = shell_command((b"gpasswd", b"-a", *names))
            if command is None:
                return Advice(words=f"make him a member of group {group_name(explanation, gid)}")
            return Advice(runners=("root",), command=command, words="then log in again")
        case NewSession(gid=gid):
            group = group_name(explanation, gid)
            return Advice(
                words=f"log in again: group {group} was added after this session began"
                f" (for one command: sg {group})"
            )


def _of_change(explanation: Explanation, change: Change) -> Advice:
    *command, path = change.command
    what = b" ".join(command).decode("ascii")
    if not change.runners:
        return Advice(
            words=f"root's, below a folder where others could swap it for a link, so no command is"
            f" safe; what is missing is `{what}` on {escape(path)}"
        )
    runners = tuple(_runner(explanation, uid) for uid in change.runners)
    line = shell_command(change.command)
    if line is None:
        return Advice(
            words=f"as {' or '.join(runners)}: `{what}` on what is shown here as {escape(path)}"
        )
    only = f"for {subject_name(explanation)} alone" if change.only_him else ""
    return Advice(runners=runners, command=line, words=only)


def _runner(explanation: Explanation, uid: int) -> str:
    name = user_name(explanation, uid)
    return f"uid {name}" if name.isdecimal() else name


def _of_cause(explanation: Explanation, cause: Cause) -> Advice | None:
    seen = explanation.seen
    end = None if seen.way is None else seen.way.end
    match cause:
        case Cause.STALE if isinstance(end, Reached):
            change = _of_change(explanation, removal(seen.way, end)) if seen.way else Advice()
            return Advice(words=f"start its server; if that finds the address in use, {change}")
        case Cause.STALE:
            return Advice(words="start its server, in this network namespace")
        case Cause.NOT_LISTENING:
            return Advice(words="wait for its server to listen, or see why it does not")
        case Cause.SHUT | Cause.PEERED:
            return Advice(words="restart its server")
        case Cause.OTHER_TYPE if isinstance(seen.socket, Bound):
            return Advice(words=f"connect with type {seen.socket.type.name.lower()}")
        case Cause.MISSING:
            return Advice(words="start its server, or mend the path")
        case Cause.DEAD_END | Cause.NOT_A_SOCKET:
            return Advice(words="mend the path: it leads to no socket")
        case Cause.PROTECTED_LINK | Cause.LINK_ON_MOUNT:
            return Advice(words="use the path without the link")
        case Cause.PATH_TOO_LONG:
            return Advice(words="connect by a relative path from a folder on the way")
        case Cause.NOT_SEEN if isinstance(end, NotSeen) and end.kind is Blind.FORBIDDEN:
            if seen.verdict.can_connect is False:
                return None
            return Advice(words="run this as root, or as who may look there")
        case Cause.SOCKET if os.geteuid() != 0:
            return Advice(words="run this as root, who can look into other network namespaces")
        case _:
            return None


def at_bind(explanation: Explanation) -> Birth | None:
    """Say what mode a server's socket will have, where that is missing or was the cause."""
    way = None if explanation.seen.elsewhere is not None else explanation.seen.way
    match None if way is None else way.end:
        case Missing(last=True) as end if way is not None and not _ends_in_link(way):
            mode = mode_at_bind(explanation.umask, end.default_acl)
            return Birth(
                umask=explanation.umask,
                mode=mode,
                words=f"created with umask {explanation.umask:03o} it will be {mode:04o}: "
                + _who_can(mode, acl=end.default_acl is not None),
            )
        case Reached(node=Node(kind=Kind.SOCKET) as node):
            umask = umask_behind(node.mode)
            if umask and any(
                each.cause is Cause.WRITE and each.grant and each.grant.by is not Class.OWNER
                for each in explanation.seen.verdict.refused
            ):
                return Birth(
                    umask=umask,
                    mode=node.mode,
                    words=f"created with umask {umask:03o} it is {node.mode:04o}, and will be when"
                    " its server starts again: have that set its umask or the socket's mode",
                )
    return None


def _ends_in_link(way: Way) -> bool:
    return any(isinstance(step, Followed) and step.last for step in way.steps)


def _who_can(mode: int, *, acl: bool) -> str:
    group = "those in the ACL" if acl else "its group"
    match bool(mode & 0o020), bool(mode & 0o002):
        case False, False:
            return f"{group} and others cannot connect"
        case True, False:
            return "others cannot connect"
        case False, True:
            return f"{group} cannot connect"
        case _:
            return "everybody who gets there can connect"


def notes(explanation: Explanation) -> list[str]:
    """Give what stands beside the verdict."""
    seen, subject = explanation.seen, explanation.subject
    found = []
    if seen.elsewhere is not None:
        found.append(f"the process is in {seen.elsewhere}: this may be another thing to it")
    if isinstance(seen.socket, Bound) and seen.socket.full:
        found.append("the queue is full: who connects waits for the server, or gets EAGAIN")
    if seen.way is None:
        found.append("abstract names have no permissions: whoever is in the network namespace can")
    elif any(each.grant and each.grant.by is Class.CAPABILITY for each in seen.verdict.judged):
        found.append("capabilities let him pass where the permissions alone would not")
    if seen.way is not None and links_on(seen.way.steps) > LINKS_COUNTED_ONCE:
        found.append("so many links: now and then the kernel counts them twice, and says ELOOP")
    if seen.judge_of_root is not None:
        found.append(f"/ is of type {escape(seen.judge_of_root)}: its server may judge otherwise")
    if not subject.listed:
        found.append("the user database does not have this user")
    elif seen.way is not None:
        found += _of_groups(explanation)
    found += _of_modules(explanation)
    return found


def _of_groups(explanation: Explanation) -> list[str]:
    subject = explanation.subject
    if subject.login is None or subject.login.groups is None:
        return ["the user database does not answer: his groups in it are not known"]
    if subject.process is None:
        return []
    found = []
    lacking = subject.login.groups - subject.process.groups
    if lacking and explanation.can_connect is not True:
        names = ", ".join(group_name(explanation, gid) for gid in sorted(lacking)[:8])
        found.append(f"the database has groups for him that the process lacks: {names}")
    if explanation.can_connect and explanation.in_new_session is False:
        found.append("in a new session he could not: this process has groups that he lost, or more")
    return found


def _of_modules(explanation: Explanation) -> list[str]:
    if explanation.modules is None:
        return ["security modules cannot be seen here; one may refuse all the same"]
    active = [escape(name) for name in explanation.modules if name not in _HARMLESS_MODULES]
    if not active:
        return []
    return [f"security modules, which may refuse all the same: {', '.join(active)}"]
