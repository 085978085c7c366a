"""Walks with the kernel's own means, and without: what is seen on the way is the same.

Whether somebody may go there is not judged here; test_why_agreement.py holds that against the
kernel.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess

import pytest
from own_run import forbid_openat2

from private_world import in_child, in_private_world, mount_tmpfs, needs_root
from sockbroker.core.permission import Kind
from sockbroker.core.way import (
    Blind,
    Dead,
    DeadEnd,
    Followed,
    Missing,
    NotSeen,
    Passed,
    Reached,
    Way,
)
from sockbroker.kernel.mounts import read_mounts
from sockbroker.kernel.path_walk import root_mount, walk

PATHS = [
    b"/",
    b"/run/",
    b"/run/plain/s",
    b"/run/plain/s/",
    b"/run/plain/../mounted/over/s",
    b"/run/mounted/over/../../plain/s",
    b"/run/mounted/over/../../../../run/plain/s",
    b"/run/link",
    b"/run/linked/s",
    b"/run/loop",
    b"/run/none/s",
    b"/run/" + b"x" * 256,
    b"/proc/self/root",
    b"/run/covered/s",
    b"/run/with space/s",
]


def make_tree() -> None:
    """Make folders, links, and mounts: on a folder, on a mount, on a socket."""
    for name in ("plain", "mounted", "covered", "with space"):
        os.mkdir(f"/run/{name}")
    mount_tmpfs("/run/mounted")
    os.mkdir("/run/mounted/over")
    mount_tmpfs("/run/mounted/over")
    mount_tmpfs("/run/covered")
    mount_tmpfs("/run/covered")
    mount_tmpfs("/run/with space")
    for folder in ("plain", "mounted/over", "covered", "with space"):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/run/{folder}/s")
    os.symlink("plain/s", "/run/link")
    os.symlink("/run/mounted/over/", "/run/linked")
    os.symlink("loop", "/run/loop")


def walk_all() -> list[Way]:
    """Walk every path, and one from a working directory on a mount."""
    mounts = read_mounts()
    os.chdir("/run/mounted/over")
    return [walk(path, mounts) for path in [*PATHS, b"../../plain/s", b"s"]]


def paths(way: Way) -> list[bytes]:
    """Give the path of every step and of the end."""
    return [*(step.path for step in way.steps), way.end.path]


@needs_root
def test_every_end() -> None:
    """Each way ends where it does for the kernel, under the name that the thing really has."""

    def world() -> list[Way]:
        make_tree()
        return walk_all()

    ways = dict(zip([*PATHS, b"../../plain/s", b"s"], in_private_world(world), strict=True))
    ends = {path: way.end for path, way in ways.items()}
    for path, real in {
        b"/run/plain/s": b"/run/plain/s",
        b"/run/plain/../mounted/over/s": b"/run/mounted/over/s",
        b"/run/mounted/over/../../plain/s": b"/run/plain/s",
        b"/run/mounted/over/../../../../run/plain/s": b"/run/plain/s",
        b"/run/link": b"/run/plain/s",
        b"/run/linked/s": b"/run/mounted/over/s",
        b"/run/covered/s": b"/run/covered/s",
        b"/run/with space/s": b"/run/with space/s",
        b"../../plain/s": b"/run/plain/s",
        b"s": b"/run/mounted/over/s",
    }.items():
        end = ends[path]
        assert isinstance(end, Reached), path
        assert (end.path, end.node.kind) == (real, Kind.SOCKET), path
    assert isinstance(ends[b"/"], Reached)
    assert ends[b"/"].path == b"/"
    assert isinstance(ends[b"/run/"], Reached)
    for path, kind in {
        b"/run/plain/s/": Dead.NOT_A_FOLDER,
        b"/run/loop": Dead.TOO_MANY_LINKS,
        b"/run/" + b"x" * 256: Dead.NAME_TOO_LONG,
    }.items():
        end = ends[path]
        assert isinstance(end, DeadEnd)
        assert end.kind is kind
    missing = ends[b"/run/none/s"]
    assert isinstance(missing, Missing)
    assert (missing.path, missing.last) == (b"/run/none", False)
    elsewhere = ends[b"/proc/self/root"]
    assert isinstance(elsewhere, NotSeen)
    assert elsewhere.kind is Blind.ELSEWHERE
    link = ways[b"/run/link"]
    assert paths(link) == [b"/", b"/run", b"/run/link", b"/run", b"/run/plain", b"/run/plain/s"]
    assert [type(step) for step in link.steps] == [Passed, Passed, Followed, Passed, Passed]


@needs_root
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
def test_without_openat2(error: int) -> None:
    """An older kernel, or a filter that does not know the call: the same is seen."""

    def world() -> None:
        make_tree()

        def without() -> list[Way]:
            forbid_openat2(error)
            return walk_all()

        assert in_child(without) == in_child(walk_all)

    in_private_world(world)


@needs_root
def test_mounts_that_are_not_known_are_not_entered() -> None:
    """Neither one that came after the table was read, nor by another way around it."""

    def world() -> list[Way]:
        os.mkdir("/run/new")
        mounts = read_mounts()
        assert root_mount(mounts).point == b"/"
        mount_tmpfs("/run/new")
        found = [walk(b"/run/new/s", mounts)]
        mounts = read_mounts()
        mount_tmpfs("/run/new")
        return [*found, walk(b"/run/new/s", mounts)]

    for way in in_private_world(world):
        assert isinstance(way.end, NotSeen)
        assert (way.end.path, way.end.kind) == (b"/run/new", Blind.FAILED)
        assert way.end.detail == "the mounts are changing"


@needs_root
def test_in_a_chroot() -> None:
    """The mount of / is not in the table there; what is below it is seen all the same."""

    def world() -> tuple[Way, Way]:
        os.makedirs("/run/jail/proc")
        os.makedirs("/run/jail/tmp")
        assert subprocess.run(["mount", "-t", "proc", "proc", "/run/jail/proc"], check=True)
        mount_tmpfs("/run/jail/tmp")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("/run/jail/s")
        os.chroot("/run/jail")
        os.chdir("/")
        mounts = read_mounts()
        assert not root_mount(mounts).answers
        return walk(b"tmp/../s", mounts), walk(b"/tmp/../../s", mounts)

    for way in in_private_world(world):
        assert isinstance(way.end, Reached)
        assert (way.end.path, way.end.node.kind) == (b"/s", Kind.SOCKET)
