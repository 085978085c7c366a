"""What shows in a file, and stays, when anybody does anything to it but look."""

from pathlib import Path


def record(path: Path) -> tuple[int, ...]:
    """All but the time of access, to the nanosecond; a link is not followed.

    The kernel changes that time for who reads, connects, or looks for a server behind a socket.
    """
    status = path.lstat()
    return (
        *(status.st_dev, status.st_ino, status.st_mode, status.st_nlink),
        *(status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, status.st_ctime_ns),
    )
