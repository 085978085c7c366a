"""The words of `why`: who, what, and for each judgement what was decided, in the escaped form."""

import errno
import os
from typing import Final

from sockbroker.core.acl import Acl
from sockbroker.core.connecting import Cause, Judged
from sockbroker.core.escaping import escape, escape_address
from sockbroker.core.permission import Class, Grant, Kind, Node
from sockbroker.core.way import (
    Blind,
    Bound,
    Dead,
    DeadEnd,
    End,
    Followed,
    Missing,
    NotSeen,
    Socket,
    SocketType,
    Step,
    Unbound,
)
from sockbroker.why import Explanation

_DEAD: Final = {
    Dead.NOT_A_FOLDER: "no folder, and the path goes on behind it",
    Dead.TOO_MANY_LINKS: "the 41st link: the kernel follows 40",
    Dead.NAME_TOO_LONG: "a name longer than 255 bytes",
}


def user_name(explanation: Explanation, uid: int) -> str:
    """Give a user's name, or his uid where he has none."""
    return escape(explanation.users.get(uid, str(uid)), word=True)


def group_name(explanation: Explanation, gid: int) -> str:
    """Give a group's name, or its gid where it has none."""
    return escape(explanation.groups.get(gid, str(gid)), word=True)


def subject_name(explanation: Explanation) -> str:
    """Give who is asked about."""
    subject = explanation.subject
    name = user_name(explanation, subject.uid)
    user = f"uid {name}" if name.isdecimal() else name
    own = subject.process is None or subject.process.pid == os.getpid()
    return user if own or subject.process is None else f"process {subject.process.pid} of {user}"


def target_name(explanation: Explanation) -> str:
    """Give the socket as it can be typed back."""
    return escape_address(explanation.seen.name)


def headline(explanation: Explanation) -> str:
    """Give the answer in one line."""
    who, target = subject_name(explanation), target_name(explanation)
    match explanation.can_connect:
        case True:
            full = isinstance(explanation.seen.socket, Bound) and explanation.seen.socket.full
            wait = ", but has to wait: its queue is full" if full else ""
            return f"{who} can connect to {target}{wait}"
        case False:
            error = explanation.seen.verdict.error
            number = getattr(errno, error) if error else None
            reason = f": {error}, {os.strerror(number)}" if number else ""
            return f"{who} cannot connect to {target}{reason}"
        case _:
            return f"whether {who} can connect to {target} cannot be told"


def remark(explanation: Explanation, judged: Judged, step: Step | End | None) -> str:
    """Say what was judged of a step."""
    match judged.cause, step:
        case Cause.SEARCH | Cause.WRITE, _ if judged.grant is not None:
            letter = "x" if judged.cause is Cause.SEARCH else "w"
            return _of_grant(explanation, judged.grant, letter)
        case Cause.MISSING, Missing(last=last):
            return "nothing has this name" if last else "no such folder"
        case Cause.DEAD_END, DeadEnd(kind=kind):
            return _DEAD[kind]
        case Cause.NOT_SEEN, NotSeen() as end:
            return _of_blindness(end)
        case Cause.PROTECTED_LINK | Cause.LINK_ON_MOUNT, Followed() as link:
            return _of_link(explanation, judged, link)
        case Cause.NOT_A_SOCKET, _:
            return "no socket"
        case Cause.PATH_TOO_LONG, _:
            return "an address has at most 107 bytes"
        case _:
            return of_socket(explanation.seen.socket, explanation.seen.wanted)


def _of_grant(explanation: Explanation, grant: Grant, letter: str) -> str:
    has = letter if grant.allowed else f"no {letter}"
    group = "" if grant.gid is None else f" {group_name(explanation, grant.gid)}"
    match grant.by:
        case Class.OWNER:
            return f"owner: {has}"
        case Class.OTHERS:
            return f"others: {has}"
        case Class.CAPABILITY:
            return f"{letter} by capability"
        case Class.UNKNOWN:
            return f"{letter}: it cannot be told which class he is in"
        case _:
            masked = f": {letter}, but the mask takes it away"
            return f"{grant.by.value}{group}" + (masked if grant.masked else f": {has}")


def _of_blindness(end: NotSeen) -> str:
    match end.kind:
        case Blind.FORBIDDEN:
            return "you may not look at this"
        case Blind.STALLING:
            return f"not entered: a mount of type {escape(end.detail)} may never answer"
        case Blind.ELSEWHERE:
            return "a link of /proc leads each process to another place"
        case _:
            return f"cannot be looked at: {escape(end.detail)}"


def _of_link(explanation: Explanation, judged: Judged, link: Followed) -> str:
    target = f"-> {escape(link.target)}"
    if judged.cause is Cause.LINK_ON_MOUNT:
        return f"{target}: the mount has nosymfollow"
    if judged.allowed:
        return target
    if judged.allowed is None:
        return f"{target}: fs.protected_symlinks cannot be read"
    return f"{target}: in a sticky folder for all only links of its owner and one's own count"


def of_socket(socket: Socket, wanted: SocketType | None) -> str:
    """Say what the kernel's table says of the socket."""
    match socket:
        case Unbound():
            return "nobody has it bound: its server is gone"
        case Bound():
            kind = socket.type.name.lower()
            there = "" if socket.here else ", in another network namespace"
            if wanted not in (None, socket.type):
                return f"{kind}, not {wanted.name.lower()}{there}"
            if socket.type is SocketType.DGRAM:
                state = "connected to one peer, takes from nobody else" if socket.peered else "live"
                return f"{kind}, {state}{there}"
            if not socket.listening:
                return f"{kind}, bound but not listening{there}"
            if socket.shut:
                return f"{kind}, shut down{there}"
            return (
                f"{kind}, live: {socket.waiting} wait for its server, at most"
                f" {socket.backlog + 1} can{there}"
            )
        case _:
            return escape(socket.reason)


def shown_mode(node: Node) -> str:
    """Give mode and kind as ls(1) does."""
    letters = {Kind.FOLDER: "d", Kind.LINK: "l", Kind.SOCKET: "s", Kind.FIFO: "p", Kind.DEVICE: "c"}
    shown = [letters.get(node.kind, "-")]
    for shift, special, letter in ((6, 0o4000, "s"), (3, 0o2000, "s"), (0, 0o1000, "t")):
        bits = node.mode >> shift
        execute = "x" if bits & 1 else "-"
        if node.mode & special:
            execute = letter if bits & 1 else letter.upper()
        shown += ["r" if bits & 4 else "-", "w" if bits & 2 else "-", execute]
    return "".join(shown) + ("+" if isinstance(node.acl, Acl) else "")
