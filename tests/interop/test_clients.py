"""Varlink clients that nobody here wrote use the real broker, as ordinary users."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from importlib import resources
from typing import Any, TypedDict, TypeVar

import asyncvarlink
import asyncvarlink.serviceinterface as standard
import pytest
import varlink
from peers import as_user
from running import ALICE, BOB, OPERATOR, PATH, Daemon, private_world, state

from sockbroker import __version__

pytestmark = pytest.mark.root

T = TypeVar("T")

POLICY = "apps: {demo: {allow: {everyone: true}}, nobody: {}, two: {allow: {everyone: true}}}"

ABSTRACT = "unix:@sockbroker"
ADDRESSES = [ABSTRACT, f"unix:{PATH}"]

INTERFACES = ["io.sockbroker", "org.varlink.service"]

REASON = (
    f"uid {ALICE} may not have this; an operator finds the rule that decides in the log of"
    " sockbrokerd (journalctl -u sockbroker)"
)

GRAMMAR = "a name has 1 to 31 of a-z, 0-9, - and _, and begins with a letter"

ERRORS = [
    ("Request", {"app": "nobody"}, "io.sockbroker.Denied", {"app": "nobody", "reason": REASON}),
    ("Request", {"app": "absent"}, "io.sockbroker.Denied", {"app": "absent", "reason": REASON}),
    ("Request", {"app": "../x"}, "io.sockbroker.InvalidApp", {"app": "../x", "reason": GRAMMAR}),
    ("Request", {"app": "demo", "uid": BOB}, "org.varlink.service.PermissionDenied", {}),
    (
        "Release",
        {"app": "demo"},
        "io.sockbroker.NoSuchDirectory",
        {"app": "demo", "uid": ALICE},
    ),
    ("Reload", {}, "org.varlink.service.PermissionDenied", {}),
    (
        "Explain",
        {"app": "demo"},
        "org.varlink.service.MethodNotImplemented",
        {"method": "io.sockbroker.Explain"},
    ),
    ("List", {}, "org.varlink.service.ExpectedMore", {}),
]
"""What goes wrong for ALICE: a call without `more`, the error, and its parameters."""


@pytest.fixture
def broker() -> Iterator[Daemon]:
    """A real broker, with an empty /run."""
    with private_world() as world:
        daemon = world.start(POLICY)
        yield daemon
        assert daemon.log("fault") == []
        assert daemon.log("protocol violation") == []
        daemon.end()


def shipped(interface: str) -> str:
    """The definition that ships with the package."""
    return resources.files("sockbroker").joinpath(f"{interface}.varlink").read_text("utf-8")


def directory(app: str = "demo") -> dict[str, object]:
    """What List says of a directory of ALICE's that nobody uses."""
    return {
        "app": app,
        "uid": ALICE,
        "gid": ALICE,
        "path": f"/run/{app}/{ALICE}",
        "mode": "0700",
        "state": "ok",
        "inUse": False,
        "sockets": 0,
    }


def less_names(listed: dict[str, Any]) -> dict[str, Any]:
    """A directory without the names of user and group, which need not be known."""
    return {key: listed[key] for key in listed if key not in {"userName", "groupName"}}


def run(*command: str, uid: int = ALICE) -> subprocess.CompletedProcess[str]:
    """Run a program as that user, with nothing of ours open."""
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return subprocess.run(
        [*become, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )


# ---- varlinkctl, of systemd 257 ----------------------------------------------------------------


def varlinkctl(*arguments: str, uid: int = ALICE) -> str:
    """What it prints; AssertionError if it fails or complains."""
    done = run("varlinkctl", *arguments, uid=uid)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_the_line_from_the_readme(broker: Daemon) -> None:
    """What it shows, typed into a shell by an ordinary user, makes his directory."""
    line = """varlinkctl call unix:@sockbroker io.sockbroker.Request '{"app":"demo"}'"""
    done = run("sh", "-c", line)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"path": f"/run/demo/{ALICE}", "outcome": "created"}
    assert state(f"/run/demo/{ALICE}") == (ALICE, ALICE, "0700")
    again = run("sh", "-c", line, uid=BOB)
    assert json.loads(again.stdout) == {"path": f"/run/demo/{BOB}", "outcome": "created"}


@pytest.mark.parametrize("address", ADDRESSES)
def test_varlinkctl_knows_whom_it_talks_to(broker: Daemon, address: str) -> None:
    """Info, list-interfaces and list-methods show the broker and all that it has."""
    about = json.loads(varlinkctl("--json=short", "info", address))
    assert about.pop("url").startswith("https://")
    assert about == {
        "vendor": "sockbroker",
        "product": "sockbroker",
        "version": __version__,
        "interfaces": ["org.varlink.service", "io.sockbroker"],
    }
    assert "Product: sockbroker" in varlinkctl("info", address)
    assert varlinkctl("list-interfaces", address).split() == INTERFACES
    assert varlinkctl("list-methods", address, "io.sockbroker").split() == [
        f"io.sockbroker.{method}"
        for method in ("Explain", "List", "Monitor", "Release", "Reload", "Request", "Status")
    ]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("interface", INTERFACES)
def test_varlinkctl_introspects(broker: Daemon, address: str, interface: str) -> None:
    """What is served is the file that ships, word for word, and systemd's parser reads it."""
    told = json.loads(varlinkctl("--json=short", "introspect", address, interface))
    assert told == {"description": shipped(interface)}
    printed = varlinkctl("introspect", address, interface)
    assert f"interface {interface}\n" in printed
    file = str(resources.files("sockbroker").joinpath(f"{interface}.varlink"))
    assert printed == varlinkctl("validate-idl", file)


@pytest.mark.parametrize("address", ADDRESSES)
def test_varlinkctl_calls(broker: Daemon, address: str) -> None:
    """Request, List and Release do what they say, and say it."""

    def call(*arguments: str) -> object:
        return json.loads(varlinkctl(*arguments) or "{}")

    request = ("call", address, "io.sockbroker.Request", '{"app":"demo"}')
    path = f"/run/demo/{ALICE}"
    assert call(*request) == {"path": path, "outcome": "created"}
    assert call(*request) == {"path": path, "outcome": "existing"}
    os.chmod(path, 0o777)
    assert call(*request) == {"path": path, "outcome": "repaired"}
    call("call", address, "io.sockbroker.Request", '{"app":"two"}')
    series = varlinkctl("--json=short", "--more", "call", address, "io.sockbroker.List", "{}")
    replies = [json.loads(text) for text in series.split("\x1e") if text]  # RFC 7464
    assert [less_names(reply["directory"]) for reply in replies] == [
        directory("demo"),
        directory("two"),
    ]
    collected = call("--json=short", "--collect", "call", address, "io.sockbroker.List", "{}")
    assert collected == replies
    assert call("call", address, "io.sockbroker.Release", '{"app":"demo"}') == {}
    assert not os.path.exists(path)
    status = call("call", address, "io.sockbroker.Status", "{}")
    assert status == {"version": __version__, "state": "running", "policyGeneration": 1}


@pytest.mark.parametrize("address", ADDRESSES)
def test_varlinkctl_shows_errors(broker: Daemon, address: str) -> None:
    """Every error arrives by its name and with its parameters, and is a failure to a script."""
    for method, parameters, error, expected in ERRORS:
        name = f"io.sockbroker.{method}"
        done = run("varlinkctl", "--json=short", "call", address, name, json.dumps(parameters))
        assert done.returncode == 1
        assert done.stderr == f"Method call {name}() failed: {error}\n"
        assert json.loads(done.stdout or "{}") == expected


def test_varlinkctl_finds_nothing_that_is_not_there(broker: Daemon) -> None:
    """Wrong parameters, methods and interfaces, and an empty list, are the standard's errors."""
    for flags, method, parameters, error in (
        ((), "io.sockbroker.Request", "{}", "org.varlink.service.InvalidParameter"),
        ((), "io.sockbroker.Request", '{"app":5}', "org.varlink.service.InvalidParameter"),
        ((), "io.sockbroker.Nothing", "{}", "org.varlink.service.MethodNotFound"),
        ((), "io.nobody.Request", "{}", "org.varlink.service.InterfaceNotFound"),
        (("--more",), "io.sockbroker.List", "{}", "io.sockbroker.NoSuchDirectory"),
    ):
        done = run("varlinkctl", *flags, "call", ABSTRACT, method, parameters)
        assert done.returncode == 1
        assert error in done.stderr


def test_varlinkctl_without_waiting(broker: Daemon) -> None:
    """A one-way call is done and not answered."""
    call = ("call", "--oneway", ABSTRACT, "io.sockbroker.Request", '{"app":"demo"}')
    assert varlinkctl(*call) == ""
    created = broker.wait_for("created")
    assert (created["uid"], created["path"]) == (ALICE, f"/run/demo/{ALICE}")


def test_varlinkctl_of_an_operator(broker: Daemon) -> None:
    """Root asks for others on the operator socket, and nobody else gets in."""
    operator = f"unix:{OPERATOR}"
    call = ("call", operator, "io.sockbroker.Request", f'{{"app":"demo","uid":{BOB}}}')
    assert json.loads(varlinkctl(*call, uid=0))["path"] == f"/run/demo/{BOB}"
    reloaded = varlinkctl("call", operator, "io.sockbroker.Reload", "{}", uid=0)
    assert json.loads(reloaded)["policyGeneration"] == 2
    done = run("varlinkctl", *call)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr


# ---- PyPI's varlink ----------------------------------------------------------------------------


def varlink_cli(*arguments: str) -> tuple[str, str]:
    """What `python -m varlink.cli` prints and complains of; its status tells nothing."""
    done = run("python", "-m", "varlink.cli", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_command_of_pythons_varlink(broker: Daemon, address: str) -> None:
    """Info, help and call work, with errors and with a series."""
    said, _ = varlink_cli("info", address)
    assert said.split("Interfaces:")[1].split() == ["org.varlink.service", "io.sockbroker"]
    for interface in INTERFACES:
        assert varlink_cli("help", f"{address}/{interface}") == (f"{shipped(interface)}\n", "")
    request = ("call", f"{address}/io.sockbroker.Request", '{"app":"demo"}')
    said, _ = varlink_cli(*request)
    assert json.loads(said) == {"path": f"/run/demo/{ALICE}", "outcome": "created"}
    said, _ = varlink_cli("call", "-m", f"{address}/io.sockbroker.List", "{}")
    assert less_names(json.loads(said)["directory"]) == directory()
    varlink_cli("call", f"{address}/io.sockbroker.Release", '{"app":"demo"}')
    assert not os.path.exists(f"/run/demo/{ALICE}")
    said, complaint = varlink_cli("call", f"{address}/io.sockbroker.Request", '{"app":"nobody"}')
    assert said == ""
    assert "'error': 'io.sockbroker.Denied'" in complaint
    assert REASON in complaint


def with_varlink(address: str, act: Callable[[Any], T]) -> T:
    """Do something as ALICE with a proxy that the library makes from introspection."""

    def connect() -> T:
        with (
            varlink.Client.new_with_address(address) as client,
            client.open("io.sockbroker") as broker,
        ):
            return act(broker)

    return as_user(ALICE, connect)


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_module_of_pythons_varlink(broker: Daemon, address: str) -> None:
    """Its proxy, made from what the broker says of itself, does all that there is to do."""

    def use(broker: Any) -> list[Any]:
        done = [broker.Request(app="demo"), broker.Request("demo"), broker.Request(app="two")]
        done.append([reply["directory"] for reply in broker.List(_more=True)])
        done.append(broker.Release("two"))
        done.append([reply["directory"] for reply in broker.List("demo", _more=True)])
        done.append(broker.Status()["state"])
        return done

    *requests, both, released, one, running = with_varlink(address, use)
    assert requests == [
        {"path": f"/run/demo/{ALICE}", "outcome": "created"},
        {"path": f"/run/demo/{ALICE}", "outcome": "existing"},
        {"path": f"/run/two/{ALICE}", "outcome": "created"},
    ]
    assert [less_names(found) for found in both] == [directory("demo"), directory("two")]
    assert released == {}
    assert [less_names(found) for found in one] == [directory("demo")]
    assert running == "running"


@pytest.mark.parametrize("address", ADDRESSES)
def test_errors_in_pythons_varlink(broker: Daemon, address: str) -> None:
    """Each is an exception with its name and parameters, and the connection goes on."""

    def use(broker: Any) -> list[tuple[str, dict[str, Any]]]:
        raised = []
        for method, parameters, _, _ in ERRORS:
            try:
                getattr(broker, method)(**parameters)
            except varlink.VarlinkError as error:
                raised.append((error.error(), error.parameters() or {}))
        broker.Request(app="demo")
        return raised

    assert with_varlink(address, use) == [(error, expected) for _, _, error, expected in ERRORS]


@pytest.mark.parametrize("address", ADDRESSES)
def test_introspection_by_pythons_varlink(broker: Daemon, address: str) -> None:
    """It gets every interface that there is, as shipped."""

    def look() -> tuple[dict[str, str], dict[str, Any]]:
        with varlink.Client.new_with_address(address) as client:
            interfaces = client.get_interfaces()
            described = {name: client.get_interface(name).description for name in interfaces}
            return described, client.info

    described, about = as_user(ALICE, look)
    assert described["io.sockbroker"] == shipped("io.sockbroker")
    assert set(described) == set(INTERFACES)
    assert about["version"] == __version__


# ---- PyPI's asyncvarlink -----------------------------------------------------------------------


class Denied(asyncvarlink.TypedVarlinkErrorReply, interface="io.sockbroker"):
    """As the interface has it."""

    class Parameters:
        app: str
        reason: str


class Directory(TypedDict):
    """As the interface has it, less the names, which need not be there."""

    app: str
    uid: int
    gid: int
    path: str
    mode: str
    state: str
    inUse: bool | None
    sockets: int | None


class Granted(TypedDict):
    """The reply to Request."""

    path: str
    outcome: str


class Sockbroker(asyncvarlink.VarlinkInterface, name="io.sockbroker"):
    """The interface in the library's own terms, written down from the definition."""

    errors = (Denied,)

    @asyncvarlink.varlinkmethod
    def Request(self, *, app: str, uid: int | None = None) -> Granted: ...

    @asyncvarlink.varlinkmethod
    def Release(self, *, app: str, force: bool | None = None) -> None: ...

    @asyncvarlink.varlinkmethod(return_parameter="directory")
    async def List(self, *, app: str | None = None) -> AsyncIterator[Directory]:
        yield NotImplemented

    @asyncvarlink.varlinkmethod
    def Explain(self, *, app: str) -> None: ...

    @asyncvarlink.varlinkmethod
    def Reload(self) -> None: ...


def with_asyncvarlink(
    address: str, act: Callable[[asyncvarlink.VarlinkClientProtocol], Coroutine[Any, Any, T]]
) -> T:
    """Do something as ALICE on a connection of the library's."""
    target = address.removeprefix("unix:").replace("@", "\0")

    async def connect() -> T:
        transport, protocol = await asyncvarlink.connect_unix_varlink(
            asyncvarlink.VarlinkClientProtocol, target
        )
        try:
            return await act(protocol)
        finally:
            transport.close()
            await asyncio.sleep(0)

    return as_user(ALICE, lambda: asyncio.run(connect()))


@pytest.mark.parametrize("address", ADDRESSES)
def test_asyncvarlink_calls(broker: Daemon, address: str) -> None:
    """A proxy of its own making requests, lists and releases."""

    async def use(protocol: asyncvarlink.VarlinkClientProtocol) -> list[Any]:
        broker = protocol.make_proxy(Sockbroker)
        done = [await broker.Request(app="demo"), await broker.Request(app="two")]
        done.append([reply["directory"] async for reply in broker.List()])
        await broker.Release(app="two")
        done.append([reply["directory"] async for reply in broker.List(app="demo")])
        return done

    *requests, both, one = with_asyncvarlink(address, use)
    assert requests == [
        {"path": f"/run/{app}/{ALICE}", "outcome": "created"} for app in ("demo", "two")
    ]
    assert both == [directory("demo"), directory("two")]
    assert one == [directory("demo")]
    assert not os.path.exists(f"/run/two/{ALICE}")


@pytest.mark.parametrize("address", ADDRESSES)
def test_asyncvarlink_errors(broker: Daemon, address: str) -> None:
    """Typed and untyped errors arrive as such, and the connection goes on."""

    async def use(protocol: asyncvarlink.VarlinkClientProtocol) -> list[Any]:
        raised = []
        for method, parameters, _, _ in ERRORS:
            call = asyncvarlink.VarlinkMethodCall(f"io.sockbroker.{method}", parameters)
            answer = await protocol.call(call)
            raised.append((answer[0].error, answer[0].parameters))
        broker = protocol.make_proxy(Sockbroker)
        try:
            await broker.Request(app="nobody")
        except Denied as error:
            raised.append(("typed", error.parameters))
        for call in (broker.Explain(app="demo"), broker.Reload()):
            try:
                await call
            except asyncvarlink.VarlinkErrorReply as error:
                raised.append((type(error).__name__, error.name))
        await broker.Request(app="demo")
        return raised

    *untyped, denied, explained, reloaded = with_asyncvarlink(address, use)
    assert untyped == [(error, expected) for _, _, error, expected in ERRORS]
    assert denied == ("typed", {"app": "nobody", "reason": REASON})
    assert explained[1] == standard.MethodNotImplemented.name
    assert reloaded[1] == standard.PermissionDenied.name


@pytest.mark.parametrize("address", ADDRESSES)
def test_asyncvarlink_introspects(broker: Daemon, address: str) -> None:
    """Its own idea of org.varlink.service fits the broker's."""

    async def use(protocol: asyncvarlink.VarlinkClientProtocol) -> tuple[Any, list[str]]:
        service = protocol.make_proxy(standard.VarlinkServiceInterface)
        about = await service.GetInfo()
        descriptions = [
            (await service.GetInterfaceDescription(interface=name))["description"]
            for name in INTERFACES
        ]
        return about, descriptions

    about, descriptions = with_asyncvarlink(address, use)
    assert sorted(about["interfaces"]) == INTERFACES
    assert (about["product"], about["version"]) == ("sockbroker", __version__)
    assert descriptions == [shipped(name) for name in INTERFACES]


def test_asyncvarlink_does_not_wait_for_replies(broker: Daemon) -> None:
    """Many calls on one connection at once are answered in their order, one-way ones not at all."""

    async def use(protocol: asyncvarlink.VarlinkClientProtocol) -> list[Any]:
        broker = protocol.make_proxy(Sockbroker)
        await broker.Request.oneway(app="two")
        return await asyncio.gather(
            *(
                broker.Request(app=app)
                for _ in range(100)
                for app in ("demo", "nobody", "two", "../x")
            ),
            return_exceptions=True,
        )

    def name(answer: Any) -> str:
        return getattr(answer, "name", None) or answer["path"]

    expected = [
        f"/run/demo/{ALICE}",
        "io.sockbroker.Denied",
        f"/run/two/{ALICE}",
        "io.sockbroker.InvalidApp",
    ] * 100

    async def named(protocol: asyncvarlink.VarlinkClientProtocol) -> list[str]:
        return [name(answer) for answer in await use(protocol)]

    assert with_asyncvarlink(ABSTRACT, named) == expected
