"""`sockbrokerctl why` on the way: ACLs, links, mounts, hostile names, and what a bind will make."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from private_world import (
    ALICE,
    MALLORY,
    as_user,
    mount_tmpfs,
    needs_root,
)
from why_world import (
    BOB,
    Answer,
    as_bob,
    connects,
    ctl,
    deciding,
    in_world,
    listening,
    marked,
    mount,
    run_mend,
    why,
)

# What will happen at bind.


@needs_root
@pytest.mark.parametrize(
    ("umask", "acl", "mode", "who"),
    [
        (0o022, None, "0755", "its group and others cannot connect"),
        (0o002, None, "0775", "others cannot connect"),
        (0o000, None, "0777", "everybody who gets there can connect"),
        (0o020, None, "0757", "its group cannot connect"),
        (0o022, "d:u:bob:rwx,d:m:rwx", "0755", "those in the ACL and others cannot connect"),
        (0o002, "d:u:bob:rwx,d:m:rwx,d:o:-", "0770", "others cannot connect"),
    ],
)
def test_the_mode_at_bind_is_foretold(umask: int, acl: str | None, mode: str, who: str) -> None:
    """And comes true."""

    def world() -> tuple[Answer, int]:
        os.mkdir("/run/demo")
        if acl is not None:
            subprocess.run(["setfacl", "-m", acl, "/run/demo"], check=True)
        os.umask(umask)
        answer = why("/run/demo/s", "--user", "bob")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("/run/demo/s")
        return answer, stat.S_IMODE(os.stat("/run/demo/s").st_mode)

    answer, made = in_world(world)
    assert (answer["error"], answer["cause"]) == ("ENOENT", "missing")
    assert answer["at_bind"]["mode"] == mode == f"{made:04o}"
    assert answer["at_bind"]["words"].endswith(who)


# ACLs.


@needs_root
@pytest.mark.parametrize(
    ("mode", "acl", "says"),
    [
        (0o770, "u:bob:rwx", None),
        (0o770, "u:bob:rx", "ACL user: no w"),
        (0o770, "u:bob:rwx,m:rx", "ACL user: w, but the mask takes it away"),
        (0o700, "g:team:rwx", None),
        (0o770, "g:team:rx", "ACL group team: no w"),
        (0o777, "g:team:rwx,m:r", "ACL group team: w, but the mask takes it away"),
        # The kernel does not look at an ACL without group bits.
        (0o777, "u:bob:-,m:-", None),
    ],
)
def test_acls(mode: int, acl: str, says: str | None) -> None:
    """What setfacl(1) sets is judged as the kernel does, and the mend undoes it."""

    def world() -> tuple[Answer, str | None, str | None]:
        with listening("/run/s", mode):
            subprocess.run(["setfacl", "-m", acl, "/run/s"], check=True)
            answer = why("/run/s", "--user", "bob")
            before = as_bob("/run/s")
            if before is not None:
                run_mend(answer)
            return answer, before, as_bob("/run/s")

    answer, before, after = in_world(world)
    assert answer["can_connect"] is (before is None)
    if says is not None:
        assert deciding(answer)["says"] == says
        assert deciding(answer)["acl"] is True
    assert after is None


# Links, and other ways.


@needs_root
def test_protected_links() -> None:
    """The last link of a path, in a sticky folder for all: as the machine is set, so it is said."""

    def world() -> tuple[list[Answer], list[str | None]]:
        os.mkdir("/run/demo")
        os.chmod("/run/demo", 0o1777)
        links = {"mallorys": MALLORY, "roots": 0, "bobs": BOB}
        with listening("/run/s"):
            for name, uid in links.items():
                os.symlink("/run/s", f"/run/demo/{name}")
                os.chown(f"/run/demo/{name}", uid, uid, follow_symlinks=False)
            paths = [f"/run/demo/{name}" for name in links]
            return [why(path, "--user=bob") for path in paths], [as_bob(path) for path in paths]

    protected = int(Path("/proc/sys/fs/protected_symlinks").read_text()) > 0
    answers, kernel = in_world(world)
    assert [answer["can_connect"] for answer in answers] == [error is None for error in kernel]
    assert [answer["can_connect"] for answer in answers] == [not protected, True, True]
    if protected:
        assert answers[0]["cause"] == "protected link"


@needs_root
@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("/run/loop", "ELOOP", "the 41st link: the kernel follows 40"),
        ("/run/l40", None, None),
        ("/run/l41", "ELOOP", "the 41st link: the kernel follows 40"),
        ("/run/dangling", "ENOENT", "nothing has this name"),
        ("/run/no/s", "ENOENT", "no such folder"),
        ("/run/s/", "ENOTDIR", "no folder, and the path goes on behind it"),
        ("/run/s/x", "ENOTDIR", "no folder, and the path goes on behind it"),
        ("/run/demo/../s", None, None),
        ("/run/../../run/./s", None, None),
        ("/run/demo", "ECONNREFUSED", "no socket"),
        ("/etc/passwd", "EACCES", "others: no w"),
        ("/proc/self/root/run/s", None, "a link of /proc leads each process to another place"),
        ("/run/" + "d/" * 50 + "s", "ENOENT", "no such folder"),
        ("/run/" + "./" * 52 + "s", "EINVAL", "an address has at most 107 bytes"),
    ],
)
def test_ways(path: str, error: str | None, says: str | None) -> None:
    """Each ends as it does for the kernel."""

    def world() -> tuple[Answer, str | None]:
        os.mkdir("/run/demo")
        os.chmod("/run/demo", 0o777)
        os.symlink("loop", "/run/loop")
        os.symlink("nothing", "/run/dangling")
        os.symlink("s", "/run/l1")
        for number in range(2, 42):
            os.symlink(f"l{number - 1}", f"/run/l{number}")
        with listening("/run/s"):
            answer, kernel = why(path, "--user", "bob"), as_bob(path)
            for _ in range(20):  # a mount anywhere may have the kernel count the links twice
                if error or kernel != os.strerror(errno.ELOOP):
                    break
                kernel = as_bob(path)
            return answer, kernel

    answer, kernel = in_world(world)
    assert answer["error"] == error
    if answer["can_connect"] is not None:
        assert answer["can_connect"] is (kernel is None)
    if says is not None:
        assert deciding(answer)["says"] == says
    if "dangling" in path:
        assert answer["at_bind"] is None  # bind(2) refuses a link


@needs_root
def test_one_screen() -> None:
    """Also with forty links on the way, and what decides is on it, with its mend."""

    def world() -> list[str]:
        os.symlink("s", "/run/l1")
        for number in range(2, 41):
            os.symlink(f"l{number - 1}", f"/run/l{number}")
        os.symlink("demo", "/run/d1")
        for number in range(2, 41):
            os.symlink(f"d{number - 1}", f"/run/d{number}")
        os.mkdir("/run/demo")
        os.chmod("/run/demo", 0)
        with listening("/run/s", 0), listening("/run/demo/t", 0):
            paths = ["/run/l1", "/run/l40", "/run/d40/t", "/run/d1/../l30"]
            return [ctl(path, "--user", "bob")[1] for path in paths]

    for text in in_world(world):
        assert len(text.splitlines()) <= 24
        assert marked(text).endswith(("others: no w", "others: no x"))
        assert "mend: as" in text


@needs_root
def test_relative_paths() -> None:
    """His own begin where he is; another's way here counts too."""

    def world() -> None:
        os.makedirs("/run/closed/demo")
        os.chmod("/run/closed", 0o700)
        with listening("/run/closed/demo/s"):

            def ask() -> tuple[Answer, str | None]:
                return why("s"), connects("s")

            os.chdir("/run/closed/demo")
            answer, kernel = as_user(BOB, ask)
            assert (answer["can_connect"], kernel) == (True, None)
            assert answer["steps"][0]["path"] == "/run/closed/demo"
            answer = why("s", "--user", "bob")
            assert (answer["can_connect"], deciding(answer)["path"]) == (False, "/run/closed")
            assert why("./@s")["error"] == "ENOENT"

    in_world(world)


# Names that mean to do something.

HOSTILE = [
    b"two words",
    b"it's",
    b'"',
    b"$(touch x)",
    b"`touch x`",
    b"a;b&c|d>e<f",
    b"-rf",
    b"~",
    b"*?[a]",
    b"!x",
    b"#x",
    b"back\\slash\\",
    b"\\x41",
    b"a=b",
]
UNSHOWABLE = [
    b"a\nb",
    b"\x1b[2J\x1b[H",
    b"\r",
    b"\x7f",
    b"\xff\xfe",
    "gr\u00fcn".encode(),
    b"\x9b2J",
]


@needs_root
@pytest.mark.parametrize("name", HOSTILE + UNSHOWABLE)
def test_hostile_names(name: bytes) -> None:
    """A shell takes each as it is, or there is no command; a terminal gets printable ASCII.

    Taken out: the quotes, and that only printable ASCII can be quoted.
    """
    folder = b"/run/" + name
    path = folder + b"/" + name

    def world() -> None:
        os.mkdir(folder)
        os.chmod(folder, 0o700)
        os.mkdir("/run/empty")
        with listening(path, 0o755):
            os.chdir("/run/empty")
            status, text, errors = ctl(path, "--user", "bob")
            assert (status, errors) == (77, "")
            assert text.isascii()
            assert text.replace("\n", "").isprintable()
            answer = why(path, "--user", "bob")
            assert os.fsencode(answer["path"]) == path or name == b"\xff\xfe" or name == b"\x9b2J"
            if name in UNSHOWABLE:
                assert {mend["command"] for mend in answer["mends"]} == {None}
                return
            run_mend(answer)
            answer = why(path, "--user", "bob")
            assert deciding(answer)["what"] == "write permission"
            run_mend(answer)
            assert why(path, "--user", "bob")["can_connect"] is True
            assert as_bob(path) is None
            assert os.listdir("/run/empty") == []

    in_world(world)


@needs_root
def test_escaped_paths_can_be_typed_back() -> None:
    """Where nothing has the name as it was typed."""

    def world() -> tuple[Answer, Answer]:
        with listening(b"/run/a\nb"):
            escaped = why(r"/run/a\x0ab")
            with listening(rb"/run/a\x0ab", 0o700):
                return escaped, why(r"/run/a\x0ab", "--user", "bob")

    assert in_world(lambda: why(r"/run/a\x00b"))["error"] == "ENOENT"
    escaped, raw = in_world(world)
    assert (escaped["path"], escaped["can_connect"]) == ("/run/a\nb", True)
    assert (raw["path"], raw["can_connect"]) == (r"/run/a\x0ab", False)


@needs_root
def test_root_is_told_nothing_to_run_where_others_can_swap_names() -> None:
    """Neither in a sticky folder, nor in one that is somebody's; the owner is, on his own.

    Taken out: `roots_alone` of `mending`; then root is told to run it.
    """

    def world() -> list[Answer]:
        os.mkdir("/run/tmp")
        os.chmod("/run/tmp", 0o1777)
        os.mkdir("/run/alices")
        os.chown("/run/alices", ALICE, ALICE)
        with (
            listening("/run/tmp/roots", 0o755, uid=0),
            listening("/run/tmp/alices", 0o755),
            listening("/run/alices/roots", 0o755, uid=0),
        ):
            return [
                why(path, "--user", "bob")
                for path in ("/run/tmp/roots", "/run/tmp/alices", "/run/alices/roots")
            ]

    for answer in in_world(world):
        owner = answer["path"].rpartition("/")[2]
        for mend in answer["mends"]:
            assert mend["as"] == ([] if owner == "roots" else ["alice"])
            assert (mend["command"] is None) is (owner == "roots")


# What could stall.


@needs_root
@pytest.mark.parametrize("asks", [0, BOB])
def test_a_file_server_that_never_answers(asks: int) -> None:
    """It is not entered: the answer is unknown, and there at once.

    Taken out: the look at what answers in `path_walk`; then it does not come to an end.
    """

    def world() -> None:
        os.mkdir("/run/demo")
        os.mkdir("/run/demo/fuse")
        server = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={server},rootmode=40000,user_id={ALICE},group_id={ALICE},allow_other"
        mount("hanging", "/run/demo/fuse", "fuse", 0, options)
        mount_tmpfs("/run/sockbroker")
        os.symlink("/run/demo/fuse/s", "/run/link")
        with listening("/run/s"):

            def ask() -> None:
                begun = time.monotonic()
                for path in ("/run/demo/fuse/s", "/run/demo/fuse", "/run/link"):
                    answer = why(path, "--user", "bob")
                    assert answer["can_connect"] is None
                    assert "fuse may never answer" in deciding(answer)["says"]
                assert why("/run/demo/../s", "--user", "bob")["can_connect"] is True
                assert time.monotonic() - begun < 30

            ask() if asks == 0 else as_user(asks, ask)
            os.chmod("/run/demo", 0o700)
            answer = why("/run/demo/fuse/s", "--user", "bob")
            assert (answer["can_connect"], answer["error"]) == (False, "EACCES")
        os.close(server)

    in_world(world)
