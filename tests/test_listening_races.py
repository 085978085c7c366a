"""Names that many want at once: threads, processes, servers that are killed and started again.

With servers among them that know nothing of the library, and clients and a watcher all the time.
"""

import errno
import mmap
import os
import random
import socket
import stat
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

import sockbroker
from in_directory import PATH, Running, Server, bind, entries, in_directory, make_dead, mode_of
from private_world import ALICE, needs_root
from sockbroker import claiming
from sockbroker.errors import NameInUse

Directory = sockbroker.Directory

pytestmark = needs_root

RACES = 1000
RACERS = 3
RESTARTS = 200

MODE = 0o660

ROOM = 4096


class Flag:
    """Raised once, for all processes."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def raise_it(self) -> None:
        """Tell the others."""
        self._memory[0] = 1

    @property
    def is_raised(self) -> bool:
        """Whether somebody has."""
        return bool(self._memory[0])


class Slots:
    """Numbers below 256 that processes share, one for each of them."""

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, ROOM)
        self._count = count

    def wait_until_all_are(self, value: int) -> None:
        """Go on as soon as every process has written this."""
        wanted = bytes([value]) * self._count
        deadline = time.monotonic() + 60
        while self._memory[: self._count] != wanted:
            os.sched_yield()
            assert time.monotonic() < deadline, "somebody hangs"

    def __setitem__(self, slot: int, value: int) -> None:
        self._memory[slot] = value


def answers(name: str) -> bool | str:
    """Tell whether a connection comes about, or the name of the error."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(f"{PATH}/{name}")
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return True


def test_of_those_that_race_for_a_name_exactly_one_wins() -> None:
    """In each of 1000 races, over a free name or a dead socket's; the others learn who has it."""

    def act(directory: Directory) -> Counter[tuple[str, ...]]:
        for race in range(0, RACES, 2):
            make_dead(f"race{race}", settled=False)
        time.sleep(0.11)
        at_start, at_end = Slots(RACERS), Slots(RACERS)

        def run(racer: int) -> list[str]:
            outcomes = []
            for race in range(RACES):
                name, number = f"race{race}", race % 200 + 1
                winner = None
                at_start[racer] = number
                at_start.wait_until_all_are(number)
                try:
                    winner = directory.listen(name, MODE)
                    outcome = "won"
                except NameInUse as error:
                    lost_to = os.getpgid(error.pid or 0) if error.uid == ALICE else None
                    outcome = "lost" if lost_to == os.getpgid(0) else str(error)
                except BaseException as error:
                    outcome = repr(error)
                at_end[racer] = number
                at_end.wait_until_all_are(number)
                if winner is not None:
                    if mode_of(name) != MODE or answers(name) is not True:
                        outcome = "won something else"
                    winner.close()
                outcomes.append(outcome)
            return outcomes

        racers = [Running(lambda n=number: run(n)) for number in range(RACERS)]
        columns = [racer.result() for racer in racers]
        assert entries() == set()
        return Counter(tuple(sorted(row)) for row in zip(*columns, strict=True))

    assert in_directory(act) == {("lost", "lost", "won"): RACES}


def test_threads_race_as_processes_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """And neither the umask of the process nor what else it does is disturbed by it."""
    monkeypatch.setattr(claiming, "LONGEST_SEARCH", 60)  # for who holds it
    monkeypatch.setattr(claiming, "LONGEST_WAIT", 60)  # while others search

    def act(directory: Directory) -> None:
        os.umask(0o027)

        def listen(number: int) -> str:
            os.close(os.open(f"{PATH}/file{number}", os.O_CREAT | os.O_CLOEXEC, 0o666))
            try:
                server = directory.listen(f"s{number // 8}", [0o600, 0o666][number // 8 % 2])
            except NameInUse as error:
                return "lost" if error.pid == os.getpid() else str(error)
            servers.append(server)
            return "won"

        servers: list[sockbroker.Listener] = []
        with ThreadPoolExecutor(8) as threads:
            outcomes = list(threads.map(listen, range(400)))
        for begin in range(0, 400, 8):
            assert Counter(outcomes[begin : begin + 8]) == {"won": 1, "lost": 7}
            assert mode_of(f"s{begin // 8}") == [0o600, 0o666][begin // 8 % 2]
        assert {mode_of(f"file{number}") for number in range(400)} == {0o640}
        assert os.umask(0) == 0o027
        for server in servers:
            server.close()

    in_directory(act)


def test_a_server_that_knows_nothing_of_the_library_keeps_what_it_bound() -> None:
    """It may remove a dead socket and bind at whatever moment: once bound, it stays reachable."""

    def act(directory: Directory) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        at_start, at_end = Slots(2), Slots(2)
        for race in range(300):
            make_dead(f"race{race}", settled=False)
        time.sleep(0.11)

        def strange() -> list[str]:
            outcomes = []
            random.seed(1)
            for race in range(300):
                number = race % 200 + 1
                at_start[0] = number
                at_start.wait_until_all_are(number)
                for _ in range(random.randrange(0, 400)):
                    pass
                server = None
                if answers(f"race{race}") is not True:  # what a careful one does
                    try:
                        os.unlink(f"{PATH}/race{race}")
                    except FileNotFoundError:
                        pass
                    try:
                        server = bind(f"race{race}")
                    except OSError as error:
                        assert error.errno == errno.EADDRINUSE  # noqa: PT017
                at_end[0] = number
                at_end.wait_until_all_are(number)
                outcomes.append("nothing" if server is None else str(answers(f"race{race}")))
                if server is not None:
                    time.sleep(0.001)
                    server.close()
            return outcomes

        def ours() -> list[str]:
            outcomes = []
            for race in range(300):
                number = race % 200 + 1
                at_start[1] = number
                at_start.wait_until_all_are(number)
                try:
                    server = directory.listen(f"race{race}")
                    outcome = "listened"
                except NameInUse:
                    server, outcome = None, "refused"
                at_end[1] = number
                at_end.wait_until_all_are(number)
                outcomes.append(outcome)
                if server is not None:
                    server.close()
            return outcomes

        both = Running(strange), Running(ours)
        for pair in zip(both[0].result(), both[1].result(), strict=True):
            outcomes[" ".join(pair)] += 1
        return outcomes

    outcomes = in_directory(act)
    # Never that it bound something, which then could not be reached.
    assert set(outcomes) <= {"True refused", "nothing listened", "True listened"}, outcomes


def test_a_file_that_is_put_in_the_way_is_not_opened_up() -> None:
    """Who may write in the directory puts another socket of the user's where the new one was."""

    def act(directory: Directory) -> tuple[set[int], bool]:
        os.umask(0o077)
        over = Flag()
        private = bind("private")
        time.sleep(0.11)

        def swap() -> None:
            while not over.is_raised:
                os.link(f"{PATH}/private", f"{PATH}/swapped")
                os.rename(f"{PATH}/swapped", f"{PATH}/s")
                for name in ("s", "swapped"):  # a rename onto another name of the same file is none
                    try:
                        os.unlink(f"{PATH}/{name}")
                    except FileNotFoundError:
                        pass

        swapper = Running(swap)
        seen, listened = set(), 0
        for _ in range(3000):
            try:
                directory.listen("s", 0o666).close()
                listened += 1
            except sockbroker.ListenFailed:
                pass
            seen.add(mode_of("private"))
        over.raise_it()
        swapper.result()
        private.close()
        return seen, 0 < listened < 3000

    assert in_directory(act) == ({0o700}, True)


# Servers that are killed and started again.


def serve(server: socket.socket) -> None:
    """Tell everybody who connects which process this is."""
    while True:
        connection, _ = server.accept()
        with connection:
            try:
                connection.sendall(b"%d" % os.getpid())
            except OSError:
                pass


def with_the_library(name: str) -> Server:
    """Start a server as the library has it: no umask, no unlink, no chmod."""

    def start() -> socket.socket:
        with sockbroker.request("chat") as directory:
            return directory.listen(name, MODE)

    return Server(start, serve)


def without_the_library(name: str) -> Server:
    """Start a server as most are written."""

    def start() -> socket.socket:
        try:
            os.unlink(f"{PATH}/{name}")
        except FileNotFoundError:
            pass
        return bind(name)

    return Server(start, serve)


def pid_behind(name: str) -> int:
    """Ask the server that is reached by a name who it is."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{PATH}/{name}")
        client.settimeout(30)  # not before: when the queue is full, that would be an error
        return int(client.recv(100) or b"0")


def test_servers_that_are_killed_and_started_again_under_load() -> None:
    """200 times: no address in use, no server that nobody reaches, no mode that is too wide.

    One has the library, one has not, and a third name is taken by the one kind and the other in
    turn. Two processes connect all the time, two more compute, and one looks at the modes.
    """

    def act(directory: Directory) -> tuple[set[int], Counter[str]]:
        os.umask(0o022)
        over = Flag()

        def watch() -> set[int]:
            seen = set()
            while not over.is_raised:
                for name in ("with", "mixed"):
                    try:
                        seen.add(os.lstat(f"{PATH}/{name}").st_mode)
                    except FileNotFoundError:
                        pass
            return seen

        def connect() -> Counter[str]:
            outcomes: Counter[str] = Counter()
            while not over.is_raised:
                for name in ("with", "without", "mixed"):
                    outcomes[str(answers(name))] += 1
            return outcomes

        def compute() -> None:
            while not over.is_raised:
                pass

        watcher, computing = Running(watch), [Running(compute) for _ in range(2)]
        connecting = [Running(connect) for _ in range(2)]
        servers: dict[str, Server] = {}
        random.seed(2)
        for restart in range(RESTARTS):
            names = ["with", "without", "mixed"]
            random.shuffle(names)
            for name in names:
                if name in servers:
                    servers[name].kill()
                library = {"with": True, "without": False, "mixed": restart % 2 == 0}[name]
                servers[name] = (with_the_library if library else without_the_library)(name)
                if library:
                    assert mode_of(name) == MODE
            for name, server in servers.items():
                assert pid_behind(name) == server.pid
            time.sleep(random.random() / 50)
        for server in servers.values():
            server.kill()
        over.raise_it()
        for process in computing:
            process.result()
        outcomes = sum((process.result() for process in connecting), Counter[str]())
        assert entries() == {"with", "without", "mixed"}
        return watcher.result(), outcomes

    modes, outcomes = in_directory(act)
    # 0755 is what the servers without the library have on the name that both use.
    assert modes <= {stat.S_IFSOCK | mode for mode in (MODE, MODE & ~0o022, 0o755)}
    assert outcomes["True"] > RESTARTS
    # Nothing else than what a server leads to that is down for a moment.
    assert set(outcomes) <= {"True", "ENOENT", "ECONNREFUSED", "EPIPE", "ECONNRESET"}
