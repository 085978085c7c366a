"""What one connection is answered, in which order, and what becomes of what still runs."""

import json
from collections.abc import Callable, Iterator, Mapping
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockbroker.core.conversation import (
    BACKLOG_LIMIT,
    REPLIES_A_TURN,
    Conversation,
    converse,
)
from sockbroker.core.idl import parse
from sockbroker.core.service import (
    ECHOED,
    REMEMBERED,
    REMEMBERED_LENGTH,
    Answer,
    Binding,
    Deferred,
    Encoded,
    Failed,
    Failure,
    Reply,
    Series,
    Service,
)
from sockbroker.core.varlink import (
    MESSAGE_LIMIT,
    Call,
    ProtocolError,
    encode_parameters,
    encode_reply,
)
from varlink_client import encode_call

# A busy machine is no counter-example.

STANDARD = parse(
    resources.files("sockbroker").joinpath("org.varlink.service.varlink").read_text("utf-8")
)
BROKER = parse(resources.files("sockbroker").joinpath("io.sockbroker.varlink").read_text("utf-8"))
TEST = parse(
    """interface org.example.test

method Echo(text: string, nested: ?object, list: ?[]int) -> (text: string)
method Fail(raise: ?bool) -> ()
method Count(to: int, then: ?string) -> (number: int)
method Later() -> ()
method Break() -> ()
method Written() -> (text: string)
method Missing() -> ()
error Bad (why: ?string)
"""
)


class Context:
    """What a test's handlers know: the calls that came, and the answers that they owe."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.deferred: list[Deferred] = []
        self.closed = 0


def _echo(context: Context, call: Call) -> Answer:
    context.calls.append(call)
    return Reply({"text": call.parameters["text"]})


def _fail(context: Context, call: Call) -> Answer:
    context.calls.append(call)
    failure = Failure("org.example.test.Bad", {"why": "so"})
    if call.parameters.get("raise"):
        raise Failed(failure)
    return failure


def _count(context: Context, call: Call) -> Answer:
    context.calls.append(call)
    return Series(_numbers(context, call.parameters))


def _numbers(
    context: Context, parameters: Mapping[str, object]
) -> Iterator[Mapping[str, object] | None]:
    then = parameters.get("then")
    try:
        for number in range(int(str(parameters["to"]))):
            yield {"number": number}
            if then == "pause":
                yield None
        if then == "fail":
            raise Failed(Failure("org.example.test.Bad", {}))
        if then == "break":
            raise ZeroDivisionError
    finally:
        context.closed += 1


def _later(context: Context, call: Call) -> Answer:
    context.calls.append(call)
    context.deferred.append(Deferred())
    return context.deferred[-1]


def _break(_context: Context, _call: Call) -> Answer:
    raise ZeroDivisionError


def _encoded(_context: Context, _call: Call) -> Answer:
    return Encoded(encode_reply({"text": "as it is"}))


def _service() -> Service[Context]:
    return Service(
        "The vendor",
        "The product",
        "1.2",
        "https://example.org/",
        [
            Binding(
                TEST,
                {
                    "Echo": _echo,
                    "Fail": _fail,
                    "Count": _count,
                    "Later": _later,
                    "Break": _break,
                    "Written": _encoded,
                },
                frozenset({"Count"}),
            ),
            Binding(STANDARD),
            Binding(BROKER),
        ],
    )


def _conversation() -> Conversation[Context]:
    return Conversation(_service(), Context())


def _call(method: str, parameters: dict[str, object] | None = None, **flags: bool) -> bytes:
    return encode_call(f"org.example.test.{method}", parameters, **flags)


def _turns(conversation: Conversation[Context]) -> list[bytes]:
    """Take turns until there is nothing to do."""
    sent = []
    while (data := conversation.turn()) is not None:
        sent.append(data)
    return sent


def _sent(conversation: Conversation[Context]) -> list[dict[str, object]]:
    """Return all replies that can be had now."""
    data = b"".join(_turns(conversation))
    assert not data or data.endswith(b"\0")
    return [json.loads(message) for message in data.split(b"\0")[:-1]]


def _answers(*messages: bytes) -> list[dict[str, object]]:
    conversation = _conversation()
    conversation.receive(b"".join(messages))
    return _sent(conversation)


def _error(name: str, **parameters: object) -> dict[str, object]:
    error: dict[str, object] = {"error": name}
    return {**error, "parameters": parameters} if parameters else error


def _standard(name: str, **parameters: object) -> dict[str, object]:
    return _error(f"org.varlink.service.{name}", **parameters)


# One call: (message, the replies).

ECHO = _call("Echo", {"text": "x"})
ECHOED_X = {"parameters": {"text": "x"}}
BAD = _error("org.example.test.Bad", why="so")

CASES = [
    # Answers of handlers.
    (ECHO, [ECHOED_X]),
    (_call("Echo", {"text": "x"}, more=True), [ECHOED_X]),
    (_call("Echo", {"text": "x"}, oneway=True), []),
    (_call("Fail"), [BAD]),
    (_call("Fail", {"raise": True}), [BAD]),
    (_call("Fail", more=True), [BAD]),
    (_call("Fail", oneway=True), []),
    (_call("Fail", {"raise": True}, oneway=True), []),
    (_call("Count", {"to": 1}, more=True), [{"parameters": {"number": 0}}]),
    (
        _call("Count", {"to": 3}, more=True),
        [
            {"parameters": {"number": 0}, "continues": True},
            {"parameters": {"number": 1}, "continues": True},
            {"parameters": {"number": 2}},
        ],
    ),
    (
        _call("Count", {"to": 2, "then": "pause"}, more=True),
        [{"parameters": {"number": 0}, "continues": True}, {"parameters": {"number": 1}}],
    ),
    (
        _call("Count", {"to": 1, "then": "fail"}, more=True),
        [{"parameters": {"number": 0}, "continues": True}, _error("org.example.test.Bad")],
    ),
    (_call("Count", {"to": 0, "then": "fail"}, more=True), [_error("org.example.test.Bad")]),
    # Errors of the engine.
    (_call("Count", {"to": 1}), [_standard("ExpectedMore")]),
    (_call("Count", {"to": 1}, oneway=True), []),
    (_call("Missing"), [_standard("MethodNotImplemented", method="org.example.test.Missing")]),
    (_call("None"), [_standard("MethodNotFound", method="org.example.test.None")]),
    (_call("echo"), [_standard("MethodNotFound", method="org.example.test.echo")]),
    (_call("Bad"), [_standard("MethodNotFound", method="org.example.test.Bad")]),
    (_call(""), [_standard("MethodNotFound", method="org.example.test.")]),
    (_call("None", oneway=True), []),
    (encode_call("org.example.Echo"), [_standard("InterfaceNotFound", interface="org.example")]),
    (
        encode_call("org.example.test.x.Echo"),
        [_standard("InterfaceNotFound", interface="org.example.test.x")],
    ),
    (encode_call("Echo"), [_standard("InterfaceNotFound", interface="Echo")]),
    (encode_call(".Echo"), [_standard("InterfaceNotFound", interface="Echo")]),
    (encode_call(""), [_standard("InterfaceNotFound", interface="")]),
    (
        encode_call("x" * 9000 + ".M"),
        [_standard("InterfaceNotFound", interface="x" * ECHOED)],
    ),
    (
        _call("é" * 2000),
        [_standard("MethodNotFound", method=("org.example.test." + "é" * 2000)[:ECHOED])],
    ),
    (_call("Echo"), [_standard("InvalidParameter", parameter="text")]),
    (_call("Echo", {"text": 1}), [_standard("InvalidParameter", parameter="text")]),
    (_call("Echo", {"text": "x", "y": 1}), [_standard("InvalidParameter", parameter="y")]),
    (
        _call("Echo", {"text": "x", "list": [1, True]}),
        [_standard("InvalidParameter", parameter="list.1")],
    ),
    (
        _call("Echo", {"text": "x", "y" * 9000: 1}),
        [_standard("InvalidParameter", parameter="y" * ECHOED)],
    ),
    (
        b'{"method":"org.example.test.Echo","parameters":{"text":"x"},"upgrade":true}\0',
        [_standard("MethodNotImplemented", method="org.example.test.Echo")],
    ),
    (
        b'{"method":"org.varlink.service.GetInfo","upgrade":true}\0',
        [_standard("MethodNotImplemented", method="org.varlink.service.GetInfo")],
    ),
    # The standard interface.
    (
        encode_call("org.varlink.service.GetInfo"),
        [
            {
                "parameters": {
                    "vendor": "The vendor",
                    "product": "The product",
                    "version": "1.2",
                    "url": "https://example.org/",
                    "interfaces": ["org.varlink.service", "org.example.test", "io.sockbroker"],
                }
            }
        ],
    ),
    (
        encode_call("org.varlink.service.GetInfo", {"x": 1}),
        [_standard("InvalidParameter", parameter="x")],
    ),
    *(
        (
            encode_call(
                "org.varlink.service.GetInterfaceDescription", {"interface": interface.name}
            ),
            [{"parameters": {"description": interface.description}}],
        )
        for interface in (STANDARD, BROKER, TEST)
    ),
    (
        encode_call("org.varlink.service.GetInterfaceDescription", {"interface": "org.varlink"}),
        [_standard("InterfaceNotFound", interface="org.varlink")],
    ),
    (
        encode_call("org.varlink.service.GetInterfaceDescription"),
        [_standard("InvalidParameter", parameter="interface")],
    ),
    (_call("Written"), [{"parameters": {"text": "as it is"}}]),
    (_call("Written", oneway=True), []),
]


def _byte_by_byte(conversation: Conversation[Context], data: bytes) -> list[dict[str, object]]:
    sent = []
    for at in range(len(data)):
        conversation.receive(data[at : at + 1])
        sent.extend(_sent(conversation))
    return sent


@pytest.mark.parametrize(("message", "replies"), CASES)
def test_a_call_gets_its_answer(message, replies):
    """Each call, delivered whole, is answered as UAPI.20 says, and leaves nothing behind."""
    conversation = _conversation()
    conversation.receive(message)
    assert replies == _sent(conversation)
    assert conversation.idle
    assert not conversation.partial


@pytest.mark.parametrize(("message", "replies"), CASES)
def test_a_call_gets_the_same_answer_byte_by_byte(message, replies):
    """How a call arrives changes nothing, and nothing is answered before its end."""
    conversation = _conversation()
    assert _byte_by_byte(conversation, message[:-1]) == []
    assert conversation.partial
    assert not conversation.idle
    assert replies == _byte_by_byte(conversation, message[-1:])
    assert conversation.idle


@pytest.mark.parametrize(("message", "replies"), CASES)
def test_a_call_gets_the_same_answer_with_more_behind_it(message, replies):
    """What follows a call is kept, and answered after it when it is complete."""
    conversation = _conversation()
    conversation.receive(message + ECHO[:20])
    assert replies == _sent(conversation)
    assert conversation.partial
    assert not conversation.idle
    conversation.receive(ECHO[20:])
    assert _sent(conversation) == [ECHOED_X]


@pytest.mark.parametrize(("message", "replies"), CASES)
def test_a_call_by_itself_needs_no_conversation(message, replies):
    """What is answered at once leaves none behind, the first time and when it is known."""
    service = _service()
    for _ in range(3):
        sent, conversation = converse(service, Context(), message)
        assert sent is not None
        if conversation is not None:  # a series
            sent += b"".join(_turns(conversation))
            assert conversation.idle
        assert replies == [json.loads(reply) for reply in sent.split(b"\0")[:-1]]
        assert conversation is None or b'"more":true' in message


@pytest.mark.parametrize(("message", "replies"), CASES)
def test_what_is_more_or_less_than_one_call_begins_a_conversation(message, replies):
    """A call in two pieces, and one with another behind it, are answered as by themselves."""
    sent, conversation = converse(_service(), Context(), message[:-1])
    assert sent is None
    assert conversation is not None
    conversation.receive(b"\0" + ECHO)
    assert [*replies, ECHOED_X] == _sent(conversation)

    sent, conversation = converse(_service(), Context(), message + ECHO)
    assert sent is not None
    assert conversation is not None
    sent += b"".join(_turns(conversation))
    assert [*replies, ECHOED_X] == [json.loads(reply) for reply in sent.split(b"\0")[:-1]]


def test_nothing_begins_no_conversation():
    """A server may ask what there is to do, though there is nothing."""
    assert converse(_service(), Context(), b"") == (None, None)


def test_a_deferred_answer_begins_a_conversation():
    """The peer waits for it, and it is sent when it has come."""
    context = Context()
    sent, conversation = converse(_service(), context, LATER)
    assert sent == b""
    assert conversation is not None
    assert conversation.waiting
    context.deferred[0].resolve(Reply({"x": 1}))
    assert _sent(conversation) == [{"parameters": {"x": 1}}]


@pytest.mark.parametrize(("message", "replies"), CASES)
def test_the_second_time_a_call_gets_the_same_answer(message, replies):
    """What is remembered of a call is right for every later one, of whatever connection."""
    service = _service()
    for _ in range(3):
        conversation = Conversation(service, Context())
        conversation.receive(message + message)
        assert replies + replies == _sent(conversation)


def test_calls_are_answered_in_their_order():
    """Pipelined calls need no ids: the n-th reply is the answer to the n-th call that wants one."""
    messages = [message for message, _ in CASES]
    replies = [reply for _, replies in CASES for reply in replies]
    conversation = _conversation()
    sent = []
    for message in messages:
        conversation.receive(message)
        if len(sent) % 2:
            sent.extend(_sent(conversation))
    assert replies == sent + _sent(conversation)


def test_a_turn_serves_one_call():
    """The server can give others their turn after each call, also after one that sends nothing."""
    conversation = _conversation()
    oneway = _call("Echo", {"text": "x"}, oneway=True)
    conversation.receive(ECHO + oneway + ECHO)
    reply = b'{"parameters":{"text":"x"}}\0'
    assert [reply, b"", reply] == _turns(conversation)
    assert len(conversation.context.calls) == 3


BROKEN = [b"\0", b"{}\0", b"[]\0", b"\xff\0", b'{"method":"a.b.C","x":1}\0']


@pytest.mark.parametrize("broken", BROKEN)
def test_calls_before_a_bad_message_are_answered(broken):
    """A bad message ends the connection when its turn comes, not before."""
    conversation = _conversation()
    conversation.receive(ECHO + _call("Count", {"to": 2}, more=True) + broken + ECHO)
    assert conversation.turn() is not None
    assert conversation.turn() is not None
    with pytest.raises(ProtocolError):
        conversation.turn()
    assert len(conversation.context.calls) == 2


def test_a_message_that_is_too_long_is_refused():
    """The limit holds before a message ends, and when it comes whole."""
    with pytest.raises(ProtocolError):
        _conversation().receive(b"x" * (MESSAGE_LIMIT + 1))
    conversation = _conversation()
    conversation.receive(b"x" * (MESSAGE_LIMIT + 1) + b"\0")
    with pytest.raises(ProtocolError):
        conversation.turn()


@pytest.mark.parametrize("pieces", [(ECHO,), (ECHO, ECHO), (ECHO[:-5], ECHO[-5:]), (ECHO + b"{",)])
def test_what_waits_is_weighed(pieces):
    """Every byte that was taken and not served counts, however it came, and none afterwards."""
    conversation = _conversation()
    taken = 0
    for piece in pieces:
        conversation.receive(piece)
        taken += len(piece)
        assert conversation.unserved == taken
        assert not conversation.idle
    served = b"".join(pieces).count(b"\0")
    assert len(_turns(conversation)) == served
    assert conversation.unserved == taken - served * len(ECHO)
    assert conversation.idle == (conversation.unserved == 0)


def test_calls_that_wait_take_bounded_memory():
    """Even a server that goes on reading cannot be made to keep what is not served."""
    conversation = _conversation()
    conversation.receive(_call("Later"))
    assert conversation.turn() == b""
    for _ in range(BACKLOG_LIMIT // len(ECHO)):
        conversation.receive(ECHO)
    with pytest.raises(ProtocolError, match="of calls that wait"):
        conversation.receive(ECHO)


def test_a_fault_of_a_handler_is_not_hidden():
    """What a handler did not mean to raise reaches the server, which logs it."""
    conversation = _conversation()
    conversation.receive(_call("Break"))
    with pytest.raises(ZeroDivisionError):
        conversation.turn()


# Series.


def test_a_long_series_takes_turns():
    """A series of any length sends a bounded number of replies a turn, and no call overtakes it."""
    length = 3 * REPLIES_A_TURN
    conversation = _conversation()
    conversation.receive(_call("Count", {"to": length}, more=True) + ECHO)
    turns = []
    while (data := conversation.turn()) is not None:
        turns.append([json.loads(message) for message in data.split(b"\0")[:-1]])
        assert conversation.streaming == (len(turns) < 4)
        assert conversation.idle == (len(turns) == 5)
    assert list(map(len, turns)) == [REPLIES_A_TURN - 1, REPLIES_A_TURN, REPLIES_A_TURN, 1, 1]
    replies = [reply for turn in turns for reply in turn]
    assert replies.pop() == ECHOED_X
    assert list(range(length)) == [reply["parameters"]["number"] for reply in replies]
    assert [True] * (length - 1) + [None] == [reply.get("continues") for reply in replies]


def test_a_series_can_say_not_yet():
    """None gives the turn to others; a reply is sent once it is known not to be the last."""
    conversation = _conversation()
    conversation.receive(_call("Count", {"to": 2, "then": "pause"}, more=True))
    first = b'{"parameters":{"number":0},"continues":true}\0'
    assert [b"", first, b'{"parameters":{"number":1}}\0'] == _turns(conversation)
    assert conversation.context.closed == 1


def test_a_series_without_a_reply_is_a_fault():
    """`more` needs a last reply, so an empty listing has to be an error that the handler names."""
    conversation = _conversation()
    conversation.receive(_call("Count", {"to": 0}, more=True))
    with pytest.raises(RuntimeError, match=r"org\.example\.test\.Count has no reply"):
        conversation.turn()


def test_a_series_for_a_call_without_more_is_a_fault():
    """A peer who did not ask for several replies would take the second for his next call's."""
    service = Service("", "", "", "", [Binding(STANDARD), Binding(TEST, {"Count": _count})])
    conversation = Conversation(service, Context())
    conversation.receive(_call("Count", {"to": 2}))
    with pytest.raises(TypeError, match=r"org\.example\.test\.Count has a series"):
        conversation.turn()


def test_a_fault_within_a_series_is_not_hidden():
    """It reaches the server, and closing the conversation afterwards is safe."""
    conversation = _conversation()
    conversation.receive(_call("Count", {"to": 1, "then": "break"}, more=True))
    with pytest.raises(ZeroDivisionError):
        conversation.turn()
    conversation.close()
    assert conversation.context.closed == 1


def test_closing_ends_a_series():
    """When the peer has gone, what a series holds is let go at once."""
    conversation = _conversation()
    conversation.receive(_call("Count", {"to": 1000}, more=True) + ECHO)
    assert conversation.turn()
    assert conversation.context.closed == 0
    conversation.close()
    assert conversation.context.closed == 1
    assert not conversation.streaming
    assert conversation.turn() is None
    conversation.close()
    assert conversation.context.closed == 1


def test_a_series_need_not_be_a_generator():
    """Any iterator will do; one that holds nothing has nothing to close."""
    answer = Series(iter([{"number": number} for number in range(2 * REPLIES_A_TURN)]))
    binding = Binding[Context](TEST, {"Count": lambda _context, _call: answer})
    conversation = Conversation(Service("", "", "", "", [Binding(STANDARD), binding]), Context())
    conversation.receive(_call("Count", {"to": 1}, more=True))
    assert conversation.turn()
    assert conversation.streaming
    conversation.close()
    assert conversation.idle


def _written(*counts: int) -> Iterator[list[str] | None]:
    """Give so many replies a turn, written already; 0 stands for none yet."""
    number = 0
    for count in counts:
        numbers = range(number, number + count)
        yield [encode_parameters({"number": each, "none": None}) for each in numbers] or None
        number += count


@pytest.mark.parametrize("counts", [(1,), (3,), (1, 1), (2, 0, 3), (3 * REPLIES_A_TURN, 1)])
def test_a_series_may_write_a_turn_at_a_time(counts):
    """The bytes are those of the same replies given one by one; each list is sent in its turn.

    Seen to fail without the `break` after a list, and with the wrong reply held back.
    """
    answer = Series(_written(*counts))
    binding = Binding[Context](TEST, {"Count": lambda _context, _call: answer})
    conversation = Conversation(Service("", "", "", "", [Binding(STANDARD), binding]), Context())
    conversation.receive(_call("Count", {"to": 1}, more=True))
    turns = _turns(conversation)
    total = sum(counts)
    assert b"".join(turns) == b"".join(
        encode_reply({"number": number}, continues=number < total - 1) for number in range(total)
    )
    assert [turn.count(b"\0") for turn in turns] == [counts[0] - 1, *counts[1:], 1]


def test_an_error_ends_a_series_that_was_written():
    """What came before it continues."""

    def failing() -> Iterator[list[str]]:
        yield ['{"number":0}']
        raise Failed(Failure("a.b.C"))

    binding = Binding[Context](TEST, {"Count": lambda _context, _call: Series(failing())})
    conversation = Conversation(Service("", "", "", "", [Binding(STANDARD), binding]), Context())
    conversation.receive(_call("Count", {"to": 1}, more=True))
    ended = b'{"parameters":{"number":0},"continues":true}\0{"error":"a.b.C"}\0'
    assert _turns(conversation) == [b"", ended]


# Answers that come later.


def _waiting(message: bytes) -> tuple[Conversation[Context], Deferred, list[str]]:
    """A conversation whose call was deferred, the answer it waits for, and who was woken."""
    conversation = _conversation()
    woken: list[str] = []
    conversation.on_ready = lambda: woken.append("ready")
    conversation.receive(message)
    assert conversation.turn() == b""
    assert conversation.waiting
    assert not conversation.idle
    return conversation, conversation.context.deferred[0], woken


def _two() -> Iterator[Mapping[str, object] | None]:
    yield {"number": 0}
    yield {"number": 1}


LATER = _call("Later")
LATER_MORE = _call("Later", more=True)
LATER_ONEWAY = _call("Later", oneway=True)

DEFERRED: list[tuple[bytes, Callable[[], Answer], list[dict[str, object]]]] = [
    (LATER, Reply, [{}]),
    (LATER, lambda: Reply({"x": 1}), [{"parameters": {"x": 1}}]),
    (LATER, lambda: Failure("a.b.C"), [{"error": "a.b.C"}]),
    (LATER_ONEWAY, Reply, []),
    (LATER_ONEWAY, lambda: Failure("a.b.C"), []),
    (
        LATER_MORE,
        lambda: Series(_two()),
        [{"parameters": {"number": 0}, "continues": True}, {"parameters": {"number": 1}}],
    ),
]


@pytest.mark.parametrize(("message", "answer", "replies"), DEFERRED)
def test_a_deferred_answer_is_sent_when_it_comes(message, answer, replies):
    """Meanwhile there is nothing to do, no later call overtakes, and the server is woken once."""
    conversation, deferred, woken = _waiting(message + ECHO)
    assert conversation.turn() is None
    conversation.receive(ECHO)
    assert conversation.turn() is None
    assert woken == []
    deferred.resolve(answer())
    assert woken == ["ready"]
    assert conversation.waiting
    assert [*replies, ECHOED_X, ECHOED_X] == _sent(conversation)
    assert conversation.idle
    assert not deferred.cancelled


def test_only_the_first_answer_counts():
    """Neither before nor after it was sent can another one follow."""
    conversation, deferred, woken = _waiting(LATER)
    deferred.resolve(Reply({"x": 1}))
    deferred.resolve(Reply({"x": 2}))
    assert _sent(conversation) == [{"parameters": {"x": 1}}]
    deferred.resolve(Reply({"x": 3}))
    assert _sent(conversation) == []
    assert woken == ["ready"]


def test_a_deferred_answer_may_be_there_already():
    """A handler that can answer at once need not be written in two ways."""
    deferred = Deferred()
    deferred.resolve(Reply({"x": 1}))
    binding = Binding[Context](TEST, {"Later": lambda _context, _call: deferred})
    conversation = Conversation(Service("", "", "", "", [Binding(STANDARD), binding]), Context())
    conversation.receive(LATER)
    assert conversation.turn() == b'{"parameters":{"x":1}}\0'
    assert conversation.idle


def test_a_deferred_answer_may_be_deferred_again():
    """One step that takes long may end in another one."""
    conversation, deferred, woken = _waiting(LATER)
    second = Deferred()
    deferred.resolve(second)
    assert conversation.turn() == b""
    assert conversation.turn() is None
    second.resolve(Reply())
    assert _sent(conversation) == [{}]
    assert woken == ["ready", "ready"]


def test_nobody_need_listen_for_answers():
    """A server that asks in turn anyway is served as well."""
    conversation, deferred, _ = _waiting(LATER)
    conversation.on_ready = None
    deferred.resolve(Reply())
    assert _sent(conversation) == [{}]


def test_closing_cancels_what_is_deferred():
    """The handler can see that nobody waits any more, and an answer goes nowhere."""
    conversation, deferred, woken = _waiting(LATER)
    conversation.close()
    assert deferred.cancelled
    assert not conversation.waiting
    deferred.resolve(Reply())
    assert woken == []
    assert conversation.turn() is None


def test_closing_forgets_what_was_not_served():
    """No call is served after the end of its connection, and closing twice is closing once."""
    conversation = _conversation()
    conversation.receive(ECHO + b"{")
    conversation.close()
    conversation.close()
    assert conversation.turn() is None
    assert conversation.idle
    assert conversation.context.calls == []


# The service.


def test_errors_of_the_standard_interface_are_declared():
    """What the engine can answer stands in the definition that it shows, with these fields."""
    assert {name: list(struct.fields) for name, struct in STANDARD.errors.items()} == {
        "InterfaceNotFound": ["interface"],
        "MethodNotFound": ["method"],
        "MethodNotImplemented": ["method"],
        "InvalidParameter": ["parameter"],
        "PermissionDenied": [],
        "ExpectedMore": [],
        "ExpectedUpgrade": [],
    }


BAD_BINDINGS = [
    (lambda: [], "org.varlink.service is missing"),
    (lambda: [Binding(TEST)], "org.varlink.service is missing"),
    (lambda: [Binding(STANDARD), Binding(STANDARD)], "org.varlink.service is answered twice"),
    (
        lambda: [Binding(STANDARD), Binding(TEST), Binding(TEST)],
        "org.example.test is answered twice",
    ),
    (lambda: [Binding(STANDARD, {"GetInfo": _echo})], "org.varlink.service is answered twice"),
    (lambda: [Binding(TEST, {"Ecco": _echo})], "org.example.test has no method Ecco"),
    (
        lambda: [Binding(TEST, {}, frozenset({"Bad"}))],
        "org.example.test has no method Bad",
    ),
]


@pytest.mark.parametrize(("bindings", "what"), BAD_BINDINGS)
def test_a_service_is_put_together_right_or_not_at_all(bindings, what):
    """A misspelt method would otherwise be found by the first peer who calls it."""
    with pytest.raises(ValueError, match=what):
        Service("", "", "", "", bindings())


def test_a_call_that_came_before_is_not_read_again():
    """The same bytes give the very same prepared call."""
    service = _service()
    assert service.known(ECHO) is None
    assert service.prepare(ECHO) is service.prepare(ECHO)
    assert service.known(ECHO) is service.prepare(ECHO)
    assert service.known(ECHO[:-1]) is None
    assert service.known(ECHO + ECHO) is None


NOT_REMEMBERED = [
    _call("Echo", {"text": "x" * REMEMBERED_LENGTH}),
    _call("Echo", {"text": "x", "nested": {}}),
    _call("Echo", {"text": "x", "list": [1]}),
    _call("Echo"),
    _call("None"),
    _call("Missing"),
]


@pytest.mark.parametrize("message", NOT_REMEMBERED)
def test_only_small_good_unchangeable_calls_are_remembered(message):
    """Rubbish pushes nothing out, and no handler can change what another peer's call says."""
    service = _service()
    first, second = service.prepare(message), service.prepare(message)
    assert first == second
    assert first is not second


def test_what_is_remembered_is_bounded():
    """A peer who never sends the same call twice costs time, not memory; the oldest go first."""
    service = _service()
    oldest = service.prepare(ECHO)
    for number in range(REMEMBERED - 1):
        service.prepare(_call("Echo", {"text": str(number)}))
    assert oldest is service.prepare(ECHO)
    newest = service.prepare(_call("Echo", {"text": "y"}))
    assert oldest is not service.prepare(ECHO)
    assert newest is service.prepare(_call("Echo", {"text": "y"}))
    for number in range(3 * REMEMBERED):
        service.prepare(_call("Echo", {"text": str(number)}))
    assert len(service._remembered) == REMEMBERED


def test_a_handler_cannot_change_a_remembered_call():
    """Peers share what is remembered, so it is read-only."""
    prepared = _service().prepare(ECHO)
    with pytest.raises(TypeError):
        prepared.call.parameters["text"] = "y"


MESSAGES = st.sampled_from([message for message, _ in CASES] + BROKEN + [LATER, LATER_MORE])


@given(st.lists(MESSAGES, max_size=8), st.data())
def test_any_conversation_is_the_same_however_it_is_cut(messages, data):
    """Any calls in any pieces with turns at any time give the same bytes."""
    stream = b"".join(messages)

    def run(pieces: list[bytes], *, eager: bool, at_once: bool) -> tuple[bytes, bool]:
        context = Context()
        conversation = Conversation(_service(), context)
        sent = b""
        resolved = 0
        try:
            for piece in [*pieces, b""]:
                if at_once and conversation.idle:
                    turn, begun = converse(_service(), context, piece)
                    sent += turn or b""
                    conversation = begun or conversation
                else:
                    conversation.receive(piece)
                while eager or piece == b"":
                    while conversation.ready:
                        turn = conversation.turn()
                        assert turn is not None
                        sent += turn
                    assert conversation.turn() is None
                    if not conversation.waiting:
                        break
                    conversation.context.deferred[resolved].resolve(Reply({"n": resolved}))
                    resolved += 1
        except ProtocolError:
            return sent, True
        assert conversation.idle
        return sent, False

    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole = run([stream], eager=True, at_once=False)
    eager, at_once = data.draw(st.booleans()), data.draw(st.booleans())
    assert whole == run([piece for piece in pieces if piece], eager=eager, at_once=at_once)


@given(st.lists(st.binary(max_size=60) | MESSAGES, max_size=6))
def test_any_bytes_are_served_or_refused(pieces):
    """Whatever a peer sends, he gets whole messages, or is refused; nothing else is raised."""
    conversation = _conversation()
    sent = b""
    try:
        for piece in pieces:
            conversation.receive(piece)
            sent += b"".join(_turns(conversation))
    except ProtocolError:
        pass
    for message in sent.split(b"\0")[:-1]:
        assert json.loads(message).keys() <= {"parameters", "error", "continues"}
    assert sent == b"" or sent.endswith(b"\0")
