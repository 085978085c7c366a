"""The filter of this process's own system calls (seccomp): what a taken-over daemon may not call.

Nothing is run, traced, mounted or loaded, no namespace is entered or made, no uid taken, no link or
device made, no file opened by its handle (which would go round every folder), and no socket made
but Unix and netlink ones.  Source: seccomp(2), the kernel's userspace-api/seccomp_filter.rst.

The kernel knows calls by number, and the numbers differ; on a machine that is not in the table
there is no filter.
"""

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Final

# The denied calls, each with its number on x86-64 and, from asm-generic/unistd.h, on the others.
_DENIED: Final = """
    acct 163 89; add_key 248 217; adjtimex 159 171; bpf 321 280; chroot 161 51
    clock_adjtime 305 266; clock_settime 227 112; delete_module 176 106; execve 59 221
    execveat 322 281; fanotify_init 300 262; finit_module 313 273; fsconfig 431 431
    fsmount 432 432; fsopen 430 430; fspick 433 433; init_module 175 105
    io_uring_enter 426 426; io_uring_register 427 427; io_uring_setup 425 425; ioperm 173 -
    iopl 172 -; kcmp 312 272; kexec_file_load 320 294; kexec_load 246 104; keyctl 250 219
    link 86 -; linkat 265 37; lookup_dcookie 212 18; mknod 133 -; mknodat 259 33
    modify_ldt 154 -; mount 165 40; mount_setattr 442 442; move_mount 429 429
    open_by_handle_at 304 265; open_tree 428 428; perf_event_open 298 241; personality 135 92
    pidfd_getfd 438 438; pivot_root 155 41; process_vm_readv 310 270
    process_vm_writev 311 271; ptrace 101 117; quotactl 179 60; quotactl_fd 443 443
    reboot 169 142; request_key 249 218; setdomainname 171 162; setfsgid 123 152
    setfsuid 122 151; setgid 106 144; setgroups 116 159; sethostname 170 161; setns 308 268
    setregid 114 143; setresgid 119 149; setresuid 117 147; setreuid 113 145
    settimeofday 164 170; setuid 105 146; swapoff 168 225; swapon 167 224; symlink 88 -
    symlinkat 266 36; syslog 103 116; umount2 166 39; unshare 272 97; userfaultfd 323 282
    vhangup 153 58
"""
_SOCKET: Final = (41, 198)
_CLONE: Final = (56, 220)
_CLONE3: Final = 435

# By os.uname().machine: AUDIT_ARCH_* of include/uapi/linux/audit.h, and the column of the table.
_MACHINES: Final = {
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
    "riscv64": (0xC00000F3, 1),
}
_X32: Final = 0x40000000  # __X32_SYSCALL_BIT: the same machine's calls by other numbers

# Namespaces, include/uapi/linux/sched.h: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID
# and NEWNET.
_NEW_NAMESPACES: Final = 0x7E020000

# include/uapi/linux/filter.h, bpf_common.h
_LOAD: Final = 0x20
_JUMP_IF_EQUAL: Final = 0x15
_JUMP_IF_AT_LEAST: Final = 0x35
_JUMP_IF_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06

# include/uapi/linux/seccomp.h; struct seccomp_data has nr, arch, instruction pointer, arguments.
_MODE_FILTER: Final = 2
_KILL_PROCESS: Final = 0x80000000
_ERROR: Final = 0x00050000
_ALLOW: Final = 0x7FFF0000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16

_PR_SET_SECCOMP: Final = 22  # include/uapi/linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)

Instruction = tuple[int, int, int, int]
"""struct sock_filter: code, how far to jump if so, and if not, and the operand."""


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def denied(machine: str) -> dict[str, int]:
    """Return the number of each denied call; KeyError for a machine that is not in the table."""
    _architecture, column = _MACHINES[machine]
    rows = [row.split() for row in _DENIED.replace("\n", ";").split(";") if row.strip()]
    return {row[0]: int(row[1 + column]) for row in rows if row[1 + column] != "-"}


def filter_calls() -> None:
    """Filter the calls of this thread, and of those that it starts from then on, for good.

    Needs no_new_privs.  OSError: ENOSYS for a machine that is not in the table, EINVAL for a kernel
    without filters.
    """
    machine = os.uname().machine
    if machine not in _MACHINES or sys.maxsize < 1 << 32:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    program = b"".join(struct.pack("=HBBI", *each) for each in _instructions(machine))
    described = _Program(len(program) // 8, program)
    if _libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(described), 0, 0):
        raise _error()


def _instructions(machine: str) -> Iterator[Instruction]:
    architecture, column = _MACHINES[machine]
    yield _LOAD, 0, 0, _ARCHITECTURE
    yield _JUMP_IF_EQUAL, 1, 0, architecture
    yield _RETURN, 0, 0, _KILL_PROCESS
    yield _LOAD, 0, 0, _NUMBER
    if machine == "x86_64":
        yield from _unless(_JUMP_IF_AT_LEAST, _X32, errno.EPERM)
    for number in sorted(denied(machine).values()):
        yield from _unless(_JUMP_IF_EQUAL, number, errno.EPERM)
    # Its flags are in memory, which a filter cannot read; libraries then use clone(2).
    yield from _unless(_JUMP_IF_EQUAL, _CLONE3, errno.ENOSYS)
    yield _JUMP_IF_EQUAL, 0, 3, _CLONE[column]
    yield _LOAD, 0, 0, _FIRST_ARGUMENT
    yield from _unless(_JUMP_IF_ANY_BIT, _NEW_NAMESPACES, errno.EPERM)
    yield _LOAD, 0, 0, _NUMBER
    yield _JUMP_IF_EQUAL, 0, 4, _SOCKET[column]
    yield _LOAD, 0, 0, _FIRST_ARGUMENT
    yield _JUMP_IF_EQUAL, 2, 0, socket.AF_UNIX
    yield _JUMP_IF_EQUAL, 1, 0, socket.AF_NETLINK
    yield _RETURN, 0, 0, _ERROR | errno.EAFNOSUPPORT
    yield _RETURN, 0, 0, _ALLOW


def _unless(test: int, operand: int, error: int) -> Iterator[Instruction]:
    """Answer `error` where the test holds, and go on where it does not."""
    yield test, 0, 1, operand
    yield _RETURN, 0, 0, _ERROR | error


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
