"""What a daemon that has been taken over would try; run as a program, or inside the daemon.

    python attacks.py                   tries everything, as whoever runs it
    python attacks.py daemon OPTION...  is the daemon, and tries everything once it is ready

It prints one JSON object: for each attack "done", or the error that stopped it.  Each is tried in a
child of its own, because some would change or end the process that they succeed in.
"""

import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable

TARGET = "/srv/target"
VICTIM = "/srv/victim.pid"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p

CLONE_NEWUSER = 0x10000000
X32 = 0x40000000
NUMBERS = {
    "x86_64": {
        "clone": 56, "init_module": 175, "ptrace": 101, "process_vm_readv": 310, "getpid": 39,
        "open_by_handle_at": 304, "name_to_handle_at": 303,
    },
    "aarch64": {
        "clone": 220, "init_module": 105, "ptrace": 117, "process_vm_readv": 270, "getpid": 172,
        "open_by_handle_at": 265, "name_to_handle_at": 264,
    },
}[os.uname().machine]  # fmt: skip
IO_URING_SETUP = 425


def make(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def write(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY))


def checked(answer: int) -> None:
    if answer < 0:
        raise OSError(ctypes.get_errno(), "")


def call(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    answer: int = _libc.syscall(ctypes.c_long(number), *words)
    checked(answer)
    return answer


def connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


def open_socket(family: int, kind: int) -> None:
    socket.socket(family, kind).close()


def run_program() -> None:
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            raise PermissionError(errno.EPERM, "")
    else:
        try:
            os.execv("/bin/true", ["true"])  # noqa: S606  # a shell is another attack
        finally:
            os._exit(1)


def run_from_memory() -> None:
    """Run a program that is in no folder (fexecve)."""
    program = os.memfd_create("program")
    with open("/bin/true", "rb") as file:
        os.write(program, file.read())
    os.execve(program, ["true"], {})  # noqa: S606


def make_code() -> None:
    """Write machine code, and have it executable."""
    area = _libc.mmap(None, 4096, mmap.PROT_READ | mmap.PROT_WRITE, 0x22, -1, 0)
    checked(_libc.mprotect(ctypes.c_void_p(area), 4096, mmap.PROT_READ | mmap.PROT_EXEC))


def raise_capabilities() -> None:
    """Take all capabilities that root has here."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    with open(f"/proc/{victim()}/status") as file:
        every = next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm:"))
    low, high = every & 2**32 - 1, every >> 32
    sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    checked(_libc.capset(ctypes.byref(header), ctypes.byref(sets)))


def new_user_namespace() -> None:
    if call(NUMBERS["clone"], CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)
    os.wait()


def other_numbers() -> None:
    """Make a call by its x32 number, which a filter may have forgotten; ENOSYS has no x32."""
    if os.uname().machine == "x86_64":
        call(X32 | NUMBERS["getpid"])
    else:
        raise PermissionError(errno.EPERM, "")


def open_by_handle() -> None:
    """Open a file by its handle, round every folder on the way."""
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0) + bytes(128))
    mounted = ctypes.c_int()
    name = ctypes.c_char_p(f"{TARGET}/file".encode())
    call(NUMBERS["name_to_handle_at"], -100, name, handle, ctypes.byref(mounted), 0)
    folder = os.open(TARGET, os.O_RDONLY)
    os.close(call(NUMBERS["open_by_handle_at"], folder, handle, os.O_WRONLY))


def victim() -> int:
    """The process of root's that has every capability."""
    with open(VICTIM) as file:
        return int(file.read())


def read_victim() -> None:
    with open(f"/proc/{victim()}/maps") as file:
        address = int(file.read().partition("-")[0], 16)
    buffer = ctypes.create_string_buffer(8)
    here, there = ((ctypes.c_void_p * 2)(each, 8) for each in (ctypes.addressof(buffer), address))
    call(NUMBERS["process_vm_readv"], victim(), here, 1, there, 1, 0)


def trace_victim() -> None:
    attach, detach = 16, 17
    call(NUMBERS["ptrace"], attach, victim(), 0, 0)
    os.waitpid(victim(), 0)
    call(NUMBERS["ptrace"], detach, victim(), 0, 0)


def io_uring() -> None:
    os.close(call(IO_URING_SETUP, 1, ctypes.create_string_buffer(120)))


def mount(source: str, target: str, kind: str, flags: int) -> None:
    checked(_libc.mount(source.encode(), target.encode(), kind.encode(), flags, None))


SYSTEMD = "/run/systemd/system"
MS_REMOUNT, MS_BIND = 32, 4096

ATTACKS: dict[str, Callable[[], object]] = {
    # Elsewhere.
    "make a file elsewhere": lambda: make(f"{TARGET}/new"),
    "write a file elsewhere": lambda: write(f"{TARGET}/file"),
    "truncate a file elsewhere": lambda: os.truncate(f"{TARGET}/file", 0),
    "chmod elsewhere": lambda: os.chmod(f"{TARGET}/file", 0o777),
    "chown elsewhere": lambda: os.chown(f"{TARGET}/file", 1001, 1001),
    "rename elsewhere": lambda: os.rename(f"{TARGET}/moved", f"{TARGET}/other"),
    "remove elsewhere": lambda: os.unlink(f"{TARGET}/removed"),
    "make a folder elsewhere": lambda: os.mkdir(f"{TARGET}/folder"),
    "set an attribute elsewhere": lambda: os.setxattr(f"{TARGET}/file", "trusted.evil", b""),
    "write a setting of the kernel": lambda: write("/proc/sys/kernel/core_pattern"),
    # What PID 1 and udev obey.
    "drop a unit": lambda: make(f"{SYSTEMD}/evil.service"),
    "drop a folder among units": lambda: os.mkdir(f"{SYSTEMD}/evil.service.d"),
    "open the units to all": lambda: os.chmod(SYSTEMD, 0o777),
    "drop a rule of udev": lambda: make("/run/udev/rules.d/evil.rules"),
    "ask PID 1": lambda: connect("/run/systemd/private"),
    "ask D-Bus": lambda: connect("/run/dbus/system_bus_socket"),
    "ask a container engine": lambda: connect("/run/docker.sock"),
    # Files where there should be folders only.
    "make a file in the base": lambda: make("/run/evil"),
    "make a file in an app's folder": lambda: make("/run/demo/evil"),
    "make a file in the own folder": lambda: make("/run/sockbroker/evil"),
    "make a fifo": lambda: os.mkfifo("/run/demo/fifo"),
    "make a link": lambda: os.symlink("/etc", "/run/demo/link"),
    "make a second name": lambda: os.link("/run/demo/file", "/run/demo/second"),
    "make a device": lambda: os.mknod("/run/demo/device", 0o60600, os.makedev(7, 0)),
    "bind a socket": lambda: bind("/run/demo/socket"),
    "open by handle": open_by_handle,
    "move a folder among units": lambda: os.rename("/run/sockbroker", f"{SYSTEMD}/e.service.d"),
    "move the units away": lambda: os.rename(SYSTEMD, "/run/systemd/was"),
    # Outside.
    "open an IPv4 socket": lambda: open_socket(socket.AF_INET, socket.SOCK_STREAM),
    "open an IPv6 socket": lambda: open_socket(socket.AF_INET6, socket.SOCK_DGRAM),
    "open a packet socket": lambda: open_socket(socket.AF_PACKET, socket.SOCK_RAW),
    # More than it is.
    "run a program": run_program,
    "run from memory": run_from_memory,
    "make code": make_code,
    "raise its capabilities": raise_capabilities,
    "become somebody else": lambda: os.setuid(1001),
    "enter a user namespace": new_user_namespace,
    "enter another's namespaces": lambda: checked(
        _libc.setns(os.open(f"/proc/{victim()}/ns/net", os.O_RDONLY), 0)
    ),
    "mount": lambda: mount("tmpfs", TARGET, "tmpfs", 0),
    "make all writable again": lambda: mount("none", "/", "", MS_REMOUNT | MS_BIND),
    "unmount": lambda: checked(_libc.umount2(b"/srv/mounted", 2)),
    "change the root": lambda: os.chroot(TARGET),
    "trace a process of root's": trace_victim,
    "read a process of root's": read_victim,
    "write a process of root's": lambda: write(f"/proc/{victim()}/mem"),
    "signal a process of root's": lambda: os.kill(victim(), 0),
    "go round the filter by io_uring": io_uring,
}  # fmt: skip


def outcome(attack: Callable[[], object]) -> str:
    """Try it in a child; give what came of it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = "done"
        try:
            attack()
        except OSError as error:
            said = errno.errorcode.get(error.errno or 0, "?")
        except BaseException as error:
            said = repr(error)
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read().decode()
    os.waitpid(child, 0)
    return said or "done"  # it became another program


def try_all() -> None:
    outcomes = {name: outcome(attack) for name, attack in ATTACKS.items()}
    os.write(2, json.dumps({"event": "attacks", **outcomes}).encode() + b"\n")


def main() -> int:
    if sys.argv[1:2] != ["daemon"]:
        try_all()
        return 0
    from sockbroker import daemon
    from sockbroker.launch import Launch

    # The last thing of a start, when all that confines it is on.
    Launch.ready = lambda _self: try_all()  # type: ignore[method-assign]
    return daemon.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
