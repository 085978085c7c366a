"""What keeps a start or a reload from coming to its end: what, why, and what to do, in a sentence.

Where a reload fails the daemon goes on, so nothing here says that it has to be started again.
"""

from __future__ import annotations

import errno

_ADVICE = {
    errno.EMFILE: "allow it more open files (LimitNOFILE=, or ulimit -n)",
    errno.ENFILE: "have something else close files, or raise fs.file-max",
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: "have it mounted so that it can be written",
    errno.ENOMEM: "free memory, or allow it more",
    errno.EAGAIN: "allow it more processes and threads (TasksMax=, pids.max)",
    errno.EACCES: "see what forbids it: a container, a security module, a filter of system calls",
    errno.EPERM: "see what forbids it: a container, a security module, a filter of system calls",
    errno.ENOSYS: "have a kernel of 5.10 or later, and no filter that hides what it can do",
}
_OTHERWISE = "see the log of the kernel, and mend what it says"


def sentence(doing: str, error: OSError) -> str:
    """Say what went wrong while `doing` something, with the path where that is known."""
    why = error.strerror or str(error)
    name = error.filename
    # A descriptor's path, or a number, means nothing to anybody else.
    if isinstance(name, str) and name and not name.startswith("/proc/self/"):
        why = f"{name}: {why}"
    return f"{doing}: {why}; {_ADVICE.get(error.errno or 0, _OTHERWISE)}"
