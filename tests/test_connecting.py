"""Connecting to a socket in somebody's runtime directory: to him, or to nobody."""

import os
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sockbroker
from in_directory import PATH, Server, bind, make_dead
from private_world import (
    ALICE,
    MALLORY,
    as_user,
    in_private_world,
    in_user_namespace,
    mount_tmpfs,
    needs_root,
)
from scripted_broker import make_directory
from sockbroker.errors import (
    ConnectFailed,
    InvalidApp,
    InvalidSocket,
    NoSuchUser,
    WrongListener,
)

pytestmark = needs_root


def listening(
    uid: int, name: str = "s", kind: int = socket.SOCK_STREAM, *, backlog: int | None = 8
) -> Server:
    """Start a server of that user in alice's directory, which records what it is sent."""

    def start() -> socket.socket:
        os.umask(0)
        return bind(name, kind, backlog=backlog)

    def serve(server: socket.socket) -> None:
        while True:
            connection, _ = server.accept()
            while received := connection.recv(100):
                connection.sendall(b"got " + received)

    return Server(start, serve, uid=uid)


def make(mode: int = 0o711) -> None:
    """Make alice's directory, which others may pass through."""
    make_directory("chat", ALICE, mode)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
@pytest.mark.parametrize("uid", [ALICE, MALLORY, 0])
def test_a_connection(uid: int, kind: int) -> None:
    """Who may connect gets a blocking socket to the user that he named.

    Taken out: that the socket is made blocking again.
    """

    def act() -> tuple[bytes, int, float | None, bool]:
        with sockbroker.connect("chat", "s", user=ALICE, type=kind) as client:
            client.sendall(b"word")
            raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            listener = struct.unpack("iII", raw)[1]
            return client.recv(100), listener, client.gettimeout(), client.get_inheritable()

    def world() -> tuple[bytes, int, float | None, bool]:
        make()
        server = listening(ALICE, kind=kind)
        try:
            return as_user(uid, act)
        finally:
            server.kill()

    assert in_private_world(world) == (b"got word", ALICE, None, False)


def test_ones_own_is_meant_unless_a_user_is_named() -> None:
    """By number, by name, or nobody: then it is the caller's own directory.

    Taken out: the user that was named; then it is always the caller.
    """

    def world() -> None:
        make()
        server = listening(ALICE)
        for user in (None, ALICE, str(ALICE)):
            as_user(ALICE, lambda user=user: sockbroker.connect("chat", "s", user=user).close())
        with pytest.raises(ConnectFailed, match="/run/chat/0/s: 0 is not there"):
            sockbroker.connect("chat", "s", user="root")
        with pytest.raises(NoSuchUser):
            sockbroker.connect("chat", "s", user="no such")
        server.kill()

    in_private_world(world)


def test_another_listener_is_sent_nothing() -> None:
    """Where somebody else came to listen, nothing is sent, and the error says who it is.

    Taken out: the uid that `connect` wants of the listener.
    """

    def act() -> tuple[int, int, int, str]:
        with pytest.raises(WrongListener) as caught:
            sockbroker.connect("chat", "s", user=ALICE)
        error = caught.value
        return error.uid, error.pid, error.wanted, str(error)

    def world() -> None:
        make(0o777)
        record, writable = os.pipe()

        def serve(server: socket.socket) -> None:
            connection, _ = server.accept()
            os.write(writable, connection.recv(100) or b"nothing")

        server = Server(lambda: bind("s"), serve, uid=MALLORY)
        os.chmod(f"{PATH}/s", 0o666)
        os.chmod(PATH, 0o775)  # he came by his group, and nobody else may write there
        seen = as_user(ALICE, act)
        assert seen[:3] == (MALLORY, server.pid, ALICE)
        assert seen[3].isprintable()
        assert os.read(record, 100) == b"nothing"
        os.waitpid(server.pid, 0)

    in_private_world(world)


def link_folder() -> None:
    """Have the app's folder be a link."""
    os.rename("/run/chat", "/run/real")
    os.symlink("/run/real", "/run/chat")


def link_directory() -> None:
    """Have the directory be a link."""
    os.rename(PATH, "/run/real")
    os.symlink("/run/real", PATH)


def link_socket() -> None:
    """Have the socket be a link to it."""
    os.rename(f"{PATH}/s", f"{PATH}/real")
    os.symlink(f"{PATH}/real", f"{PATH}/s")


def give_away() -> None:
    """Have the directory be somebody else's."""
    os.chown(PATH, MALLORY, MALLORY)


def replace_by(make: Callable[[Path], object]) -> Callable[[], None]:
    """Put something else where the socket was."""

    def replace() -> None:
        os.unlink(f"{PATH}/s")
        make(Path(f"{PATH}/s"))

    return replace


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (link_folder, "link or no directory"),
        (link_directory, "link or no directory"),
        (link_socket, "no socket"),
        (give_away, f"owned by uid {MALLORY}, not by uid {ALICE}"),
        (lambda: os.chmod(PATH, 0o777), "everybody may write"),
        (lambda: os.chmod("/run/chat", 0o700), "closed to you"),
        (lambda: os.chmod(PATH, 0o700), "closed to you"),
        (lambda: os.chmod(f"{PATH}/s", 0o755), "closed to you"),
        (lambda: os.unlink(f"{PATH}/s"), "no such socket"),
        (lambda: os.unlink(f"{PATH}/s") or make_dead("s", settled=False), "nobody listens"),
        (replace_by(Path.touch), "no socket"),
        (replace_by(Path.mkdir), "no socket"),
        (replace_by(os.mkfifo), "no socket"),
        (lambda: mount_tmpfs(PATH, f"mode=0711,uid={ALICE}"), "mounted on it"),
    ],
)
def test_what_is_on_the_way_is_checked(prepare: Callable[[], object], reason: str) -> None:
    """Links, other owners, what is no socket, and whatever keeps one out, each with its reason.

    Taken out: `open_checked`, and S_ISSOCK with O_NOFOLLOW of the file.
    """

    def act() -> None:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ConnectFailed, match=reason):
            sockbroker.connect("chat", "s", user=ALICE)
        assert os.listdir("/proc/self/fd") == before

    def world() -> None:
        make()
        server = listening(ALICE)
        os.umask(0)
        prepare()
        as_user(MALLORY, act)
        server.kill()

    in_private_world(world)


def test_other_types() -> None:
    """A socket of another type is told from none; a datagram one says of nobody who has it.

    Taken out: the look at the type, and the words for EPROTOTYPE.
    """

    def world() -> None:
        make()
        server = listening(ALICE, kind=socket.SOCK_SEQPACKET)

        def act() -> None:
            with pytest.raises(ConnectFailed, match="another type"):
                sockbroker.connect("chat", "s")
            with pytest.raises(InvalidSocket, match="does not tell"):
                sockbroker.connect("chat", "s", type=socket.SOCK_DGRAM)

        as_user(ALICE, act)
        server.kill()

    in_private_world(world)


@pytest.mark.parametrize("name", ["", ".", "..", "../s", "a/b", "s\0", ".sockbroker.lock"])
def test_no_names(name: str) -> None:
    """What is no name of one component never comes near a path.

    Taken out: the call of `check`.
    """
    with pytest.raises(InvalidSocket):
        sockbroker.connect("chat", name)


@pytest.mark.parametrize("app", ["", "..", "a/b", "Chat", "x" * 32, "a\n", "é"])
def test_no_apps(app: str) -> None:
    """Nor does what can be no app.

    Taken out: the call of `is_app_name`.
    """
    with pytest.raises(InvalidApp):
        sockbroker.connect(app, "s")


@pytest.mark.parametrize("user", [65534, 65535])
def test_nobody_is_nobody(user: int) -> None:
    """An overflow uid is what the kernel shows for many, so it proves nothing.

    Taken out: the call of `is_user_id`.
    """
    with pytest.raises(ConnectFailed, match="nobody's"):
        sockbroker.connect("chat", "s", user=user)


def test_a_full_queue_is_waited_for_and_not_for_ever() -> None:
    """Until the timeout; and who makes room before that lets the connection through.

    Taken out: the waiting, and its end; without the latter it does not come to an end.
    """

    def world() -> None:
        make()
        stuck = Server(lambda: bind("s", backlog=0), uid=ALICE)

        def act() -> float:
            waiting = socket.socket(socket.AF_UNIX)
            waiting.connect(f"{PATH}/s")
            begin = time.monotonic()
            with pytest.raises(ConnectFailed, match="queue stayed full"):
                sockbroker.connect("chat", "s", timeout=0.5)
            return time.monotonic() - begin

        assert 0.3 < as_user(ALICE, act) < 15
        stuck.kill()
        os.unlink(f"{PATH}/s")

        def late(server: socket.socket) -> None:
            time.sleep(0.3)
            while True:
                server.accept()

        begin = time.monotonic()
        slow = Server(lambda: bind("s", backlog=0), late, uid=ALICE)

        def through() -> None:
            clients = [sockbroker.connect("chat", "s", timeout=20) for _ in range(2)]
            for client in clients:
                client.close()

        as_user(ALICE, through)
        assert time.monotonic() - begin > 0.3
        slow.kill()

    in_private_world(world)


def test_a_name_longer_than_a_path_may_be() -> None:
    """By the descriptor of its file there is no limit on the way to a socket.

    Taken out: that it connects by the descriptor (it did by the path).
    """

    def world() -> None:
        make()
        os.mkdir("/run/x")
        os.chmod("/run/x", 0o777)

        def start() -> socket.socket:
            server = socket.socket(socket.AF_UNIX)
            server.bind("/run/x/s")
            server.listen()
            os.link("/run/x/s", f"{PATH}/{'n' * 255}")
            return server

        server = Server(start, uid=ALICE)
        as_user(ALICE, lambda: sockbroker.connect("chat", "n" * 255).close())
        server.kill()

    in_private_world(world)


def test_in_a_user_namespace_others_cannot_be_told_apart() -> None:
    """Where the kernel shows everybody as nobody, nobody is taken for the one that was named.

    Taken out: the uids of directory and listener, for 65534; then that passes.
    """

    def world() -> None:
        make()
        server = listening(ALICE)

        def act() -> None:
            with pytest.raises(ConnectFailed, match="65534"):
                sockbroker.connect("chat", "s", user=ALICE)

        in_user_namespace(MALLORY, f"0 {MALLORY} 1", act)
        server.kill()

    in_private_world(world)


def test_many_threads() -> None:
    """Each call is on its own.

    Taken out: that a full queue is tried again.
    """

    def world() -> None:
        make()

        def serve(server: socket.socket) -> None:
            while True:
                connection, _ = server.accept()
                connection.sendall(connection.recv(100))
                connection.close()

        server = Server(lambda: bind("s", backlog=2), serve, uid=ALICE)

        def act() -> None:
            def say(number: int) -> int:
                with sockbroker.connect("chat", "s") as client:
                    client.sendall(b"%d" % number)
                    return int(client.recv(100))

            with ThreadPoolExecutor(16) as threads:
                assert list(threads.map(say, range(300))) == list(range(300))

        as_user(ALICE, act)
        server.kill()

    in_private_world(world)
