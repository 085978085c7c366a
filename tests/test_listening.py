"""Listening in a runtime directory: the mode, names that are taken, and what closing leaves."""

import ctypes
import errno
import fcntl
import os
import pickle
import platform
import resource
import socket
import stat
import struct
import subprocess
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import sockbroker
from file_record import record
from in_directory import (
    OWN,
    PATH,
    Running,
    Server,
    bind,
    entries,
    in_directory,
    make_dead,
    mode_of,
)
from private_world import (
    ALICE,
    MALLORY,
    as_user,
    in_child,
    in_private_world,
    mount_tmpfs,
    needs_root,
)
from scripted_broker import OPERATOR, ScriptedBroker, always, granted, make_directory
from sockbroker import claiming
from sockbroker.errors import Closed, InvalidSocket, ListenFailed, NameInUse, Obstructed

Directory = sockbroker.Directory

STREAM, DATAGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
KINDS = pytest.mark.parametrize("kind", [STREAM, DATAGRAM, SEQPACKET], ids=lambda kind: kind.name)

pytestmark = needs_root


def say(name: str, kind: int = STREAM) -> bytes | str:
    """Connect to a socket in the directory and send it a word; return what it answers, or why."""
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.settimeout(10)
        try:
            client.connect(f"{PATH}/{name}")
            client.sendall(b"hello")
            return b"" if kind == DATAGRAM else client.recv(100)
        except OSError as error:
            return errno.errorcode[error.errno or 0]


# The mode.


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o622, 0o777, 0o400, 0o000])
def test_the_mode_is_exact_whatever_the_umask(umask: int, mode: int) -> None:
    """The file has the mode that was asked for, and the process the umask that it had."""

    def act(directory: Directory) -> tuple[int, int]:
        os.umask(umask)
        with directory.listen("s", mode):
            return mode_of("s"), os.umask(0)

    assert in_directory(act) == (mode, umask)


def test_the_mode_is_private_unless_told() -> None:
    """Who says nothing of a mode lets nobody else in."""

    def act(directory: Directory) -> int:
        os.umask(0)
        with directory.listen("s"):
            return mode_of("s")

    assert in_directory(act) == 0o600


def test_the_library_files_are_private_whatever_the_umask() -> None:
    """Nobody else can open, and so nobody can lock, the files that the library locks."""

    def act(directory: Directory) -> dict[str, int]:
        with directory.listen("s"):
            return {name: mode_of(name) for name in os.listdir(PATH)}

    for umask in (0o000, 0o777):

        def under(directory: Directory, umask: int = umask) -> dict[str, int]:
            os.umask(umask)
            return in_child(lambda: act(directory))

        modes = in_directory(under)
        assert modes == {"s": 0o600, ".sockbroker.names": 0o600, ".sockbroker.lock": 0o600}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_watcher_never_sees_a_wider_mode(umask: int) -> None:
    """Whoever looks all the time sees no more permission than was asked for, at any moment."""

    def act(directory: Directory) -> set[int]:
        os.umask(umask)
        seen: set[int] = set()
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                try:
                    seen.add(mode_of("s"))
                except FileNotFoundError:
                    pass

        watcher = threading.Thread(target=look)
        watcher.start()
        rounds = 0
        while rounds < 300 or not seen:
            directory.listen("s", 0o640).close()
            rounds += 1
        done.set()
        watcher.join()
        return seen

    assert in_directory(act) <= {0o640, 0o640 & ~umask}


def test_a_setgid_directory_hands_its_group_down() -> None:
    """A socket in a directory of mode 2770 has the directory's group, and its mode."""

    def act(directory: Directory) -> tuple[int, int, int]:
        with directory.listen("s", 0o660):
            status = os.lstat(f"{PATH}/s")
            return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)

    assert in_directory(act, mode=0o2770, gid=5000) == (ALICE, 5000, 0o660)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_default_acl_opens_a_socket_as_far_as_its_mode(umask: int) -> None:
    """Where the umask would have closed it: who the ACL names can connect, by the group's bits."""

    def grant() -> None:
        os.chmod(PATH, 0o711)
        subprocess.run(["setfacl", "-d", "-m", f"u:{MALLORY}:rwx", PATH], check=True)

    def world() -> tuple[int, object, object]:
        make_directory("chat", ALICE)
        grant()
        ScriptedBroker(always(granted("chat", ALICE)))

        def start() -> object:
            os.umask(umask)
            with sockbroker.request("chat") as directory:
                return directory.listen("open", 0o660), directory.listen("shut", 0o600)

        server = Server(start, uid=ALICE)
        try:
            return (
                mode_of("open"),
                as_user(MALLORY, lambda: connects("open")),
                as_user(MALLORY, lambda: connects("shut")),
            )
        finally:
            server.kill()

    assert in_private_world(world) == (0o660, True, "EACCES")


def connects(name: str) -> bool | str:
    """Tell whether a connection comes about, or the name of the error."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(f"{PATH}/{name}")
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return True


# What is got.


@KINDS
def test_it_is_a_socket_that_works(kind: int) -> None:
    """A listener is a socket of that type, bound under its own name, that clients reach."""

    def act(directory: Directory) -> None:
        with directory.listen("s", type=kind) as server:
            assert isinstance(server, socket.socket)
            assert (server.family, server.type) == (socket.AF_UNIX, kind)
            assert server.getsockname() == server.path == f"{PATH}/s"
            assert not server.get_inheritable()
            assert server.getblocking()
            if kind == DATAGRAM:
                assert say("s", kind) == b""
                assert server.recv(100) == b"hello"
            else:
                client = threading.Thread(target=say, args=("s", kind))
                client.start()
                connection, _ = server.accept()
                with connection:
                    assert connection.recv(100) == b"hello"
                    connection.sendall(b"hello yourself")
                client.join()
                # The kernel's word for who listens is this process.
                with socket.socket(socket.AF_UNIX, kind) as other:
                    other.connect(server.path)
                    raw = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                    assert struct.unpack("iII", raw) == (os.getpid(), ALICE, ALICE)

    in_directory(act)


def test_the_backlog() -> None:
    """As many wait as were asked for, and one more, as listen(2) has it."""

    def act(directory: Directory) -> int:
        with directory.listen("s", backlog=3):
            waiting = []
            while len(waiting) < 10:
                client = socket.socket(socket.AF_UNIX)
                client.setblocking(False)
                try:
                    client.connect(f"{PATH}/s")
                except BlockingIOError:
                    client.close()
                    break
                waiting.append(client)
            for client in waiting:
                client.close()
            return len(waiting)

    assert in_directory(act) == 4


def test_the_listener_outlives_the_directory_object() -> None:
    """What was made in a `with` block goes on after it, and still removes its file."""

    def act(directory: Directory) -> None:
        server = directory.listen("s")
        directory.close()
        with pytest.raises(Closed):
            directory.listen("t")
        assert connects("s") is True
        server.close()
        assert entries() == set()

    in_directory(act)


def test_nothing_stays_open() -> None:
    """A listener that was closed, and every refusal, leaves no descriptor."""

    def act(directory: Directory) -> None:
        Path(f"{PATH}/file").touch()
        make_dead("dead")
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            directory.listen("dead").close()
            with directory.listen("s"), pytest.raises(NameInUse):
                directory.listen("s")
            for name in ("file", "a/b", "n" * 200):
                with pytest.raises(sockbroker.Error):
                    directory.listen(name)
        assert os.listdir("/proc/self/fd") == before

    in_directory(act)


# Names.


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "/run/x",
        "a\0",
        "x" * 256,
        "\ud800",
        ".sockbroker.lock",
        ".sockbroker.",
    ],
)
def test_no_names(name: str) -> None:
    """What is no name of one component is refused, and so are the library's own."""

    def act(directory: Directory) -> None:
        with pytest.raises(InvalidSocket):
            directory.listen(name)
        assert entries() == set()

    in_directory(act)


def test_no_modes_and_types() -> None:
    """Nothing but permission bits, and nothing but what a Unix socket can be."""

    def act(directory: Directory) -> None:
        for mode in (-1, 0o1000, 0o4755, 0o100600):
            with pytest.raises(InvalidSocket):
                directory.listen("s", mode)
        for kind in (0, socket.SOCK_RAW, STREAM | socket.SOCK_NONBLOCK):
            with pytest.raises(InvalidSocket):
                directory.listen("s", type=kind)
        assert entries() == set()

    in_directory(act)


@pytest.mark.parametrize("name", [" ", "a b", "@x", "ä", "\udcff", "-rf", "\n", "%s", "x" * 92])
def test_odd_names(name: str) -> None:
    """Everything else that a file can be called a socket can be called."""

    def act(directory: Directory) -> None:
        with directory.listen(name):
            assert os.listdir(os.fsencode(PATH)).count(os.fsencode(name)) == 1
            assert connects(name) is True

    in_directory(act)


def test_paths_that_are_too_long_for_the_kernel() -> None:
    """In a directory that is far down a socket works all the same, and the limit is told."""
    base = "/run/" + "deep/" * 20 + "x" * 10

    def world() -> None:
        path = f"{base}/chat/{ALICE}"
        os.makedirs(path)
        os.chown(path, ALICE, ALICE)
        ScriptedBroker(always(granted("chat", ALICE, path=path)))

        def act() -> None:
            os.umask(0o077)
            with sockbroker.request("chat") as directory:
                name = "n" * 90
                server = directory.listen(name, 0o666)
                assert server.path == f"{path}/{name}"
                assert stat.S_IMODE(os.lstat(server.path).st_mode) == 0o666
                with sockbroker.connect("chat", name, base=base):
                    pass
                with pytest.raises(NameInUse):
                    directory.listen(name)
                server.close()
                assert set(os.listdir(path)) == OWN
                with pytest.raises(ListenFailed, match=r"up to 107, which leaves 9[01] for"):
                    directory.listen("n" * 93)

        as_user(ALICE, act)

    in_private_world(world)


# What has the name already.


@KINDS
def test_a_dead_socket_is_replaced(kind: int) -> None:
    """What a server left that was killed is in nobody's way, of whatever type it was."""

    def act(directory: Directory) -> None:
        make_dead("s", kind)
        for wanted in (STREAM, DATAGRAM, SEQPACKET):
            server = directory.listen("s", 0o606, type=wanted)
            assert mode_of("s") == 0o606
            os.close(server.detach())  # as if it had been killed

    in_directory(act)


@pytest.mark.parametrize("mode", [0o000, 0o044, 0o400, 0o577])
def test_a_dead_socket_that_its_owner_cannot_connect_to(mode: int) -> None:
    """A umask of 0777, or a mode without w for the owner, does not make a dead socket live."""

    def act(directory: Directory) -> None:
        make_dead("s")
        os.chmod(f"{PATH}/s", mode)
        time.sleep(0.11)
        directory.listen("s").close()
        with bind("s"):
            os.chmod(f"{PATH}/s", mode)
            with pytest.raises(NameInUse, match="live"):
                directory.listen("s")
            assert mode_of("s") == mode

    in_directory(act)


def test_a_socket_made_just_now_is_given_time() -> None:
    """Between the two halves of bind(2) a live socket looks dead; nobody takes it for that."""

    def act(directory: Directory) -> float:
        begin = time.monotonic()
        os.mknod(f"{PATH}/s", stat.S_IFSOCK | 0o700)
        directory.listen("s").close()
        return time.monotonic() - begin

    assert in_directory(act) > 0.05  # the times of files are some 10 ms coarse


@KINDS
@pytest.mark.parametrize("backlog", [None, 8, 0])
def test_a_live_socket_is_left_alone(
    kind: int, backlog: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made it, listening or only bound, with room in its queue or without."""
    monkeypatch.setattr(claiming, "LONGEST_SEARCH", 60)  # for who holds it

    def act(directory: Directory) -> None:
        with bind("s", kind, backlog=backlog):
            clients = []
            while backlog == 0 and kind != DATAGRAM:  # until the queue is full
                clients.append(socket.socket(socket.AF_UNIX, kind))
                clients[-1].setblocking(False)
                if clients[-1].connect_ex(f"{PATH}/s"):
                    break
            before = record(Path(f"{PATH}/s"))
            with pytest.raises(NameInUse) as caught:
                directory.listen("s", type=STREAM)
            assert (caught.value.uid, caught.value.pid) == (ALICE, os.getpid())
            assert record(Path(f"{PATH}/s")) == before
            assert entries() == {"s"}
            for client in clients:
                client.close()

    in_directory(act)


def test_a_live_datagram_socket_does_not_notice() -> None:
    """Also not one that talks to one peer only, who alone may send to it."""

    def act(directory: Directory) -> None:
        with bind("s", DATAGRAM) as server, bind("peer", DATAGRAM) as peer:
            server.connect(f"{PATH}/peer")
            with pytest.raises(NameInUse):
                directory.listen("s", type=DATAGRAM)
            peer.connect(f"{PATH}/s")
            peer.send(b"still there")
            assert server.recv(100) == b"still there"

    in_directory(act)


def test_a_live_listener_does_not_notice() -> None:
    """To find out that it lives takes no connection, which a server might log or count."""

    def act(directory: Directory) -> None:
        with bind("s") as server:
            for _ in range(5):
                with pytest.raises(NameInUse):
                    directory.listen("s")
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.accept()

    in_directory(act)


@KINDS
@pytest.mark.parametrize("backlog", [None, 8])
def test_a_live_socket_of_another_network_namespace(kind: int, backlog: int | None) -> None:
    """It is in no table that can be read here, and lives all the same."""

    def world() -> None:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)))
        server = Server(lambda: bind("s", kind, backlog=backlog), uid=ALICE, own_network=True)

        def act() -> None:
            with sockbroker.request("chat") as directory:
                with pytest.raises(NameInUse, match="perhaps from a container") as caught:
                    directory.listen("s")
                assert (caught.value.uid, caught.value.pid) == (ALICE, None)

        def again() -> None:
            with sockbroker.request("chat") as directory:
                directory.listen("s").close()

        as_user(ALICE, act)
        server.kill()
        as_user(ALICE, again)

    in_private_world(world)


def test_sockets_of_other_users_in_a_shared_directory() -> None:
    """In a directory that a group may write in: a live one is named, a dead one replaced."""

    def world() -> None:
        make_directory("chat", ALICE)
        os.chown(PATH, ALICE, MALLORY)
        os.chmod(PATH, 0o2770)
        ScriptedBroker(always(granted("chat", ALICE)))

        def start() -> object:
            os.umask(0)
            server = bind("live"), bind("closed")
            os.chmod(f"{PATH}/closed", 0o700)
            make_dead("dead")
            make_dead("closed-dead")
            os.chmod(f"{PATH}/closed-dead", 0o700)
            return server

        server = Server(start, uid=MALLORY)
        time.sleep(0.11)

        def act() -> None:
            with sockbroker.request("chat") as directory:
                for name in ("live", "closed"):
                    with pytest.raises(NameInUse, match=f"live socket of uid {MALLORY}") as caught:
                        directory.listen(name)
                    # Whose process it is one may not know.
                    assert (caught.value.uid, caught.value.pid) == (MALLORY, None)
                with pytest.raises(NameInUse, match="cannot be told"):
                    directory.listen("closed-dead")
                directory.listen("dead").close()

        as_user(ALICE, act)
        server.kill()

    in_private_world(world)


def test_what_is_no_socket_is_left_alone() -> None:
    """A file, a fifo, a directory or a link is neither followed nor removed."""

    def act(directory: Directory) -> None:
        make_dead("dead")
        Path(f"{PATH}/file").write_text("mine")
        os.mkfifo(f"{PATH}/fifo")
        os.mkdir(f"{PATH}/folder")
        os.symlink(f"{PATH}/dead", f"{PATH}/link")
        os.symlink("/nonexistent", f"{PATH}/dangling")
        there = entries()
        for name in there - {"dead"}:
            with pytest.raises(Obstructed, match="no socket"):
                directory.listen(name)
        assert entries() == there
        assert Path(f"{PATH}/file").read_text() == "mine"

    in_directory(act)


# Closing.


def test_closing_removes_the_file() -> None:
    """Once, by close or by the end of a `with` block; more than once is no error."""

    def act(directory: Directory) -> None:
        server = directory.listen("s")
        server.close()
        assert entries() == set()
        assert server.path is None
        with bind("s"):
            server.close()
            assert entries() == {"s"}

    in_directory(act)


def test_closing_leaves_what_is_not_its_own() -> None:
    """A file that has the name by now is somebody else's, whatever it is."""

    def act(directory: Directory) -> None:
        server = directory.listen("s")
        os.unlink(f"{PATH}/s")
        with bind("s") as other:
            server.close()
            assert entries() == {"s"}
            assert connects("s") is True
            other.close()
        os.unlink(f"{PATH}/s")
        for put in (Path.touch, Path.mkdir, lambda path: path.symlink_to("/")):
            server = directory.listen("s")
            os.rename(f"{PATH}/s", f"{PATH}/moved")
            put(Path(f"{PATH}/s"))
            server.close()
            assert entries() == {"s", "moved"}
            os.rename(f"{PATH}/s", f"{PATH}/t")
            subprocess.run(["rm", "-r", f"{PATH}/t"], check=True)
            os.unlink(f"{PATH}/moved")

    in_directory(act)


def test_what_is_detached_or_duplicated() -> None:
    """The file goes with the listener itself, not with another descriptor of it."""

    def act(directory: Directory) -> None:
        with directory.listen("s") as server:
            server.dup().close()
            assert entries() == {"s"}
            descriptor = server.detach()
        assert entries() == {"s"}
        assert connects("s") is True
        os.close(descriptor)
        assert connects("s") == "ECONNREFUSED"

    in_directory(act)


def test_a_forked_process_does_not_remove_its_parents_file() -> None:
    """What a worker closes goes on in the process that made it."""

    def act(directory: Directory) -> None:
        with directory.listen("s") as server:
            in_child(server.close)
            assert connects("s") is True
        assert entries() == set()

    in_directory(act)


def test_a_listener_that_is_forgotten_is_closed_with_a_warning() -> None:
    """Who lets a listener go without closing it is told so in development mode."""

    def act(directory: Directory) -> None:
        before = os.listdir("/proc/self/fd")
        with pytest.warns(ResourceWarning, match=f"{PATH}/s"):
            directory.listen("s")
        assert entries() == set()
        assert os.listdir("/proc/self/fd") == before

    in_directory(act)


# Where it cannot be.


def test_the_directory_of_another() -> None:
    """What an operator requested for a user is the user's to listen in."""

    def world() -> None:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)), target=OPERATOR)
        with sockbroker.request("chat", user=ALICE) as directory:
            with pytest.raises(ListenFailed, match=f"uid {ALICE}'s"):
                directory.listen("s")
            assert os.listdir(PATH) == []

    in_private_world(world)


def test_a_directory_that_was_removed_or_moved() -> None:
    """In what was released nobody listens; what stands there since is another directory."""

    def world() -> None:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)))

        def act() -> None:
            with sockbroker.request("chat") as directory:
                moved.write_text("now")
                while not done.exists():
                    time.sleep(0.01)
                with directory.listen("s") as listener:
                    assert os.listdir(PATH) == []
                    assert connects("s") == "ENOENT"
                    assert listener.path == f"{PATH}/s"
                gone.write_text("now")
                while not Path("/run/x/removed").exists():
                    time.sleep(0.01)
                with pytest.raises(ListenFailed, match="request it again"):
                    directory.listen("s")

        os.mkdir("/run/x")
        os.chmod("/run/x", 0o777)
        moved, done, gone = Path("/run/x/moved"), Path("/run/x/done"), Path("/run/x/gone")

        def as_broker() -> None:
            while not moved.exists():
                time.sleep(0.01)
            os.rename(PATH, "/run/chat/.old")
            make_directory("chat", ALICE)
            done.touch()
            while not gone.exists():
                time.sleep(0.01)
            subprocess.run(["rm", "-r", "/run/chat/.old"], check=True)
            Path("/run/x/removed").touch()

        broker = Running(as_broker)
        as_user(ALICE, act)
        broker.result()

    in_private_world(world)


def test_a_full_directory() -> None:
    """Without an inode left there is no socket, nothing half made, and a reason."""

    def world() -> None:
        make_directory("chat", ALICE)
        mount_tmpfs(PATH, f"mode=0700,uid={ALICE},nr_inodes=4")
        ScriptedBroker(always(granted("chat", ALICE)))

        def act() -> None:
            with sockbroker.request("chat") as directory:
                directory.listen("a").close()
                Path(f"{PATH}/b").touch()
                with pytest.raises(ListenFailed, match="No space left"):
                    directory.listen("c")
                assert entries() == {"b"}

        as_user(ALICE, act)

    in_private_world(world)


def test_no_descriptor_left() -> None:
    """A process that has used up its descriptors is told so, and leaves nothing behind."""

    def act(directory: Directory) -> None:
        directory.listen("s").close()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
        filling: list[int] = []
        while True:
            try:
                filling.append(os.dup(0))
            except OSError:
                break
        for _ in range(3):
            with pytest.raises(ListenFailed, match="Too many open files"):
                directory.listen("s")
            os.close(filling.pop())
        for _ in range(5):
            os.close(filling.pop())
        directory.listen("s").close()
        assert entries() == set()

    in_directory(act)


@pytest.mark.parametrize("obstacle", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc")])
def test_a_lock_file_that_is_none(obstacle: Callable[[Path], None]) -> None:
    """What is in its place is neither followed nor waited for, and named."""

    def act(directory: Directory) -> None:
        obstacle(Path(f"{PATH}/.sockbroker.names"))
        with pytest.raises(ListenFailed, match=r"\.sockbroker\.names is no regular file"):
            directory.listen("s")

    in_directory(act)


def test_a_lock_file_with_another_name() -> None:
    """A file of the user's own that got this name too is not changed."""

    def act(directory: Directory) -> None:
        Path(f"{PATH}/precious").touch(0o644)
        os.chmod(f"{PATH}/precious", 0o644)
        os.link(f"{PATH}/precious", f"{PATH}/.sockbroker.names")
        with pytest.raises(ListenFailed, match="hard links"):
            directory.listen("s")
        assert mode_of("precious") == 0o644

    in_directory(act)


def test_a_lock_that_is_never_given_up() -> None:
    """A process that was stopped in the middle holds others up for a while, not for ever."""

    def act(directory: Directory) -> float:
        directory.listen("s").close()
        with open(f"{PATH}/.sockbroker.names") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            begin = time.monotonic()
            with pytest.raises(ListenFailed, match="locked"):
                directory.listen("s")
            return time.monotonic() - begin

    assert in_directory(act) > 4.9


def test_a_process_forked_meanwhile_does_not_keep_the_lock() -> None:
    """Another thread may fork at any moment; the child's copy of the lock is no lock."""

    def act(directory: Directory) -> None:
        warnings.simplefilter("ignore", DeprecationWarning)  # to fork is what is tested
        children = []
        done = threading.Event()

        def fork() -> None:
            while not done.is_set():
                child = os.fork()
                if child == 0:
                    time.sleep(30)
                    os._exit(0)
                children.append(child)
                time.sleep(0.001)

        forker = threading.Thread(target=fork)
        forker.start()
        for _ in range(100):
            directory.listen("s").close()  # would fail after 5 s; a child lives for 30
        done.set()
        forker.join()
        assert children
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)

    in_directory(act)


def forbid_netlink() -> None:
    """Have socket(2) refuse AF_NETLINK, as RestrictAddressFamilies=AF_UNIX of a service does."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = {"x86_64": 41, "aarch64": 198}[platform.machine()]

    def statement(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    # linux/filter.h and linux/seccomp.h: load, jump if equal, return.
    program = (
        statement(0x20, 0)  # the number of the call
        + statement(0x15, call, 0, 3)
        + statement(0x20, 16)  # its first argument
        + statement(0x15, socket.AF_NETLINK, 0, 1)
        + statement(0x06, 0x00050000 | errno.EAFNOSUPPORT)
        + statement(0x06, 0x7FFF0000)
    )
    buffer = ctypes.create_string_buffer(program, len(program))
    pointer = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, pointer, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def test_where_the_table_of_sockets_is_closed() -> None:
    """A service that may open Unix sockets only listens as well: connect(2) tells what lives."""

    def act(directory: Directory) -> None:
        with bind("bound", backlog=None), bind("live"):
            make_dead("dead")
            forbid_netlink()
            with pytest.raises(OSError, match="Address family"):
                socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
            for name in ("bound", "live"):
                with pytest.raises(NameInUse) as caught:
                    directory.listen(name)
                assert (caught.value.uid, caught.value.pid) == (ALICE, None)
            for name in ("dead", "fresh"):
                with directory.listen(name, 0o666):
                    assert mode_of(name) == 0o666

    in_directory(act)


def test_without_proc() -> None:
    """Where the umask leaves what was asked for it works; else the mend is named."""

    def world() -> None:
        make_directory("chat", ALICE)
        ScriptedBroker(always(granted("chat", ALICE)))
        mount_tmpfs("/proc")

        def act() -> None:
            os.umask(0o022)
            with sockbroker.request("chat") as directory:
                with directory.listen("s"):
                    assert mode_of("s") == 0o600
                with pytest.raises(ListenFailed, match="/proc"):
                    directory.listen("s", 0o660)
                assert entries() == set()

        as_user(ALICE, act)

    in_private_world(world)


def test_the_errors_are_lines_that_travel() -> None:
    """Every error is one printable line, and comes out of a process pool as it went in."""
    errors: list[sockbroker.Error] = [
        InvalidSocket("no"),
        ListenFailed("/run/\x1b", "because\n"),
        NameInUse("/run/\n", "taken", uid=7, pid=None),
        sockbroker.ConnectFailed("/run/\n", "no\n"),
        sockbroker.WrongListener("/run/x", 1, 2, 3),
        sockbroker.Unmarked("/run/x", "locked"),
    ]
    for error in errors:
        back = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))
        assert str(error).isprintable()
        assert str(error).isascii()
