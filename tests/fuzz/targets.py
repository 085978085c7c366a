"""What the fuzzers try: for each target a function that takes any bytes and holds a promise.

A target returns for whatever it was given; AssertionError, or any other exception, is a find.  The
same functions run under atheris (`campaign.py`) and on what was found before (`test_fuzzing.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import policy_target
from policy_target import policy
from seeds import unfolded

from sockbroker import connection
from sockbroker.core.conversation import Conversation, converse
from sockbroker.core.decision import Allowed, decide
from sockbroker.core.idl import LARGEST_INT, SMALLEST_INT
from sockbroker.core.peer import Peer
from sockbroker.core.service import STANDARD, Answer, Failure, Reply, Series
from sockbroker.core.varlink import (
    MESSAGE_LIMIT,
    Call,
    Inbox,
    ProtocolError,
    decode_call,
    encode_error,
    encode_reply,
)
from sockbroker.errors import Error
from sockbroker.failures import denied, whom
from sockbroker.interfaces import INTERFACE, definition, service
from sockbroker.session import Session
from varlink_client import ReplyMessage, decode_reply, encode_call

LONGEST_BY_BYTE = 1024
"""Bytes of the longest input that is fed byte by byte, so that most inputs take little time."""

LONGEST_REPLY = 2048
"""Bytes of a reply that a peer can have made, of the largest call; the definitions apart."""

USER, ALLOWED = 1001, {"open": {1001}, "listed": {1001}, "others": set(), "denied": set()}
"""Who asks in the fuzzers, and what the policy below gives him, said in another way."""

_POLICY = b"""
uid_range: [1000, 60000]
apps:
  open: {allow: {everyone: true}}
  listed: {allow: {users: ["1000-1002"]}}
  others: {allow: {users: [1002], groups: [5000]}}
  denied: {allow: {everyone: true}, deny: {users: [1001]}}
"""
_IN_FORCE = policy_target.resolved(_POLICY)
_DEFINITIONS = {name: definition(name) for name in (STANDARD, INTERFACE)}
_METHODS = [
    f"{name}.{method}" for name, interface in _DEFINITIONS.items() for method in interface.methods
]


# The codec.


def codec(data: bytes) -> None:
    """Messages and the answers to them are the same however the bytes come, and each is sound."""
    data = unfolded(data, LONGEST_BY_BYTE)
    small = len(data) <= LONGEST_BY_BYTE
    cuts = [_pieces(data, size) for size in (len(data), *((1, 7) if small else (97, 4096)))]
    for limit in (64, MESSAGE_LIMIT):
        whole, *others = (_messages(pieces, limit) for pieces in cuts)
        assert all(whole == other for other in others), (limit, whole, others)
    whole_answer, *other_answers = (_conversed(pieces) for pieces in cuts)
    assert all(whole_answer == other for other in other_answers), (whole_answer, other_answers)
    for message in {*data[:MESSAGE_LIMIT].split(b"\0")[:20], data[:MESSAGE_LIMIT]}:
        _call_is_sound(message)
        _reply_is_read(message)


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), max(size, 1))]


def _messages(pieces: list[bytes], limit: int) -> tuple[list[bytes], str | int]:
    """The messages that are cut out of the pieces, and the refusal or what is left begun."""
    inbox = Inbox(limit=limit)
    taken: list[bytes] = []
    try:
        for piece in pieces:
            inbox.feed(piece)
            while (message := inbox.next()) is not None:
                taken.append(message)
    except ProtocolError as refusal:
        return taken, _told(refusal)
    assert inbox.partial == bool(inbox.size)
    return taken, inbox.size


def _conversed(pieces: list[bytes]) -> tuple[bytes, str]:
    """What is answered to the pieces, and the refusal that it ends with."""
    session = _session(operator=False)
    conversation: Conversation[Session] | None = None
    sent = b""
    try:
        for piece in pieces:
            if conversation is None:
                begun, conversation = converse(_SERVICE, session, piece)
                sent += begun or b""
            else:
                conversation.receive(piece)
            while conversation is not None and (turn := conversation.turn()) is not None:
                sent += turn
            if conversation is not None and conversation.idle:
                conversation = None
    except ProtocolError as refusal:
        return sent, _told(refusal)
    return sent, ""


def _told(refusal: ProtocolError) -> str:
    text = str(refusal)
    assert text.isascii(), text
    assert text.isprintable(), text
    assert 0 < len(text) < 200, text
    return text


def _call_is_sound(message: bytes) -> None:
    """What is read as a call is what json reads, and comes back as the same once it is written."""
    try:
        call = decode_call(message)
    except ProtocolError as refusal:
        _told(refusal)
        return
    plain = json.loads(message)
    given = plain.get("parameters") or {}
    assert call.method == plain["method"]
    assert dict(call.parameters) == given
    flags = {name: True for name in ("oneway", "more", "upgrade") if getattr(call, name)}
    assert decode_call(encode_call(call.method, given, **flags)[:-1]) == call
    if "null" not in message.decode():  # which replies do not have
        assert decode_reply(encode_reply(call.parameters)) == ReplyMessage(given)
        error = encode_error(call.method, call.parameters)
        assert decode_reply(error) == ReplyMessage(given, call.method)


def _reply_is_read(message: bytes) -> None:
    """The client, which is less strict, fails in its own ways only."""
    try:
        connection.decode_reply(message)
    except Error:
        pass


# The parameters of calls.


def parameters(data: bytes) -> None:
    """Whatever JSON a call carries, the answer is a decision or one of the documented errors."""
    if not data:
        return
    operator, method = data[0] >= 128, _METHODS[data[0] % len(_METHODS)]
    flag = b',"more":true' if data[0] & 64 else b""
    message = b'{"method":"%s"%s,"parameters":%s}' % (method.encode(), flag, data[1:])
    answers = []
    for _ in range(2):  # the second time it may be remembered
        try:
            sent, conversation = converse(
                _SERVICE, _session(operator=operator), message.replace(b"\0", b" ") + b"\0"
            )
            assert sent is not None
            if conversation is not None:
                sent += b"".join(iter(conversation.turn, None))
            answers.append(sent)
        except ProtocolError as refusal:
            _told(refusal)
            answers.append(b"")
    assert answers[0] == answers[1]
    for reply in answers[0].split(b"\0")[:-1]:
        _documented(reply, message)


def _documented(reply: bytes, message: bytes) -> None:
    """The reply has the fields that the interface gives it, or an error that it documents."""
    call = decode_call(message.replace(b"\0", b" "))
    read = decode_reply(reply + b"\0")
    interface, _, name = call.method.rpartition(".")
    if read.error is not None:
        home, _, error = read.error.rpartition(".")
        assert _DEFINITIONS[home].errors[error].check(read.parameters) is None, reply
    elif interface in _DEFINITIONS:
        signature = _DEFINITIONS[interface].methods[name]
        assert signature.reply.check(read.parameters) is None, reply
        _fits(call)
    assert name == "GetInterfaceDescription" or len(reply) <= LONGEST_REPLY, len(reply)


def _fits(call: Call) -> None:
    """No call gets a reply unless its parameters are of their types, said without the checker."""
    given = {name: value for name, value in call.parameters.items() if value is not None}
    assert call.parameters.keys() <= {"app", "uid", "force", "interface"}, call
    assert type(given.get("app", "")) is str, call
    assert type(given.get("force", True)) is bool, call
    assert type(given.get("interface", "")) is str, call
    uid = given.get("uid", 0)
    assert type(uid) is int, call
    assert SMALLEST_INT <= uid <= LARGEST_INT, call


def _session(*, operator: bool) -> Session:
    return Session(Peer(pid=7, uid=USER, gid=USER), operator)


def _decided(session: Session, call: Call) -> Answer:
    """Explain, as the broker decides: by the same functions, in the same order."""
    app = call.parameters["app"]
    uid = whom(session, app, call.parameters.get("uid"))
    if isinstance(uid, Failure):
        return uid
    decision = decide(_IN_FORCE, str(app), Peer(pid=7, uid=uid, gid=uid), frozenset)
    allowed = isinstance(decision, Allowed)
    if uid == USER:
        assert allowed == (USER in ALLOWED.get(str(app), set())), (app, decision)
    if not allowed:
        return denied(str(app), session.peer.uid)
    name = call.method.rpartition(".")[2]
    if name == "Request":
        return Reply({"path": f"/run/{app}/{uid}", "outcome": "created"})
    if name == "Release":
        return Reply()
    return Reply({"decision": "allow", "reason": str(decision.rule)})


def _listed(session: Session, call: Call) -> Answer:
    """A series of one, for whoever is allowed."""
    answer = _decided(session, call) if "app" in call.parameters else denied("", USER)
    if not isinstance(answer, Reply):
        return answer
    return Series(_directories(str(call.parameters["app"])))


def _directories(app: str) -> Iterator[dict[str, object]]:
    path = f"/run/{app}/{USER}"
    directory = {"app": app, "uid": USER, "gid": USER, "path": path, "mode": "0700", "state": "ok"}
    yield {"directory": directory}


_SERVICE = service({"Request": _decided, "Release": _decided, "Explain": _decided, "List": _listed})

TARGETS: dict[str, Callable[[bytes], None]] = {
    "codec": codec,
    "parameters": parameters,
    "policy": policy,
}
