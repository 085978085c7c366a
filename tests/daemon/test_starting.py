"""What a start makes of the disk, before it says that it is ready."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from peers import (
    DENIED,
    NO_SUCH_DIRECTORY,
    OBSTRUCTED,
    answers,
    ask_all,
    granted,
    listed,
    operator_asks,
    refused,
    user_asks,
)
from refusing import NO_PASSRIGHTS, Refusal, refuse
from running import (
    ALICE,
    BOB,
    CAROL,
    CHAT,
    MALLORY,
    OPERATOR,
    RUN,
    Manager,
    World,
    eventually,
    has_ended,
    layout,
    mount,
    state,
    tree,
)

from this_kernel import LAYERS

pytestmark = pytest.mark.root

POLICY = f"""\
apps:
  demo: {{allow: {{everyone: true}}}}
  boot:
    allow: {{users: [alice, "2000-2003"], groups: [chat, staff]}}
    deny: {{users: [mallory]}}
    at_boot: {{users: [alice, "2000-2003"], groups: [staff]}}
    mode: "2750"
    group: {CHAT}
    parent: {{mode: "0755"}}
  own:
    allow: {{users: [bob, 2000]}}
    at_boot: {{users: [bob, 2000]}}
"""

LAYOUT = {
    **layout(
        {
            "demo": {},
            "boot": {
                f"{uid}": (uid, CHAT, "2750") for uid in (ALICE, CAROL, 2000, 2001, 2002, 2003)
            },
            "own": {f"{BOB}": (BOB, BOB, "0700"), "2000": (2000, 65534, "0700")},
        }
    ),
    "boot": (0, 0, "0755"),
}
"""What POLICY has at every start: the members of staff are those whose primary group it is."""


def empty(run: Path) -> None:
    """Take everything away, as a boot does."""
    for entry in run.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@pytest.mark.parametrize("end", ["end", "kill"])
def test_the_layout_is_back_before_ready(world: World, end: str) -> None:
    """After the daemon's end and an emptied /run, all of the policy's layout is there at READY=1.

    The daemon is held in the very call that says so, so nothing can be made up for afterwards.
    Taken out: the order in `Daemon._start` (READY=1 came before `_set_up_disk`); then there is
    nothing yet.
    """
    first = world.start(POLICY)
    user_asks(ALICE, "Request", app="demo")
    assert tree() == {**LAYOUT, f"demo/{ALICE}": (ALICE, ALICE, "0700")}
    getattr(first, end)()
    empty(RUN)
    held = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=sendto"]
    held += ["-e", "inject=sendto:delay_exit=1000000"]
    with Manager(world.own / "notify") as manager:
        daemon = world.begin(under=held, environment=manager.environment())
        message = manager.wait_for("READY")
        found = tree()
        assert message == {"READY": "1", "STATUS": "running: 3 apps, policy 1"}
        assert found == LAYOUT
        daemon.wait_until_ready()
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"


def test_a_start_repairs_what_owners_changed(world: World) -> None:
    """Mode, group and ACLs are the policy's again after a start, of every known directory.

    Taken out: the directories that exist from `layout._bring_folder`; then they stay as they are.
    """
    world.start(POLICY).kill()
    directory = RUN / f"boot/{ALICE}"
    directory.chmod(0o777)
    os.chown(directory, -1, ALICE)
    subprocess.run(["setfacl", "-m", f"u:{MALLORY}:rwx", RUN / "boot/2001"], check=True)
    (RUN / "own/2000").chmod(0)
    (RUN / "boot").chmod(0o700)
    daemon = world.start()
    assert tree() == LAYOUT
    assert os.listxattr(RUN / "boot/2001") == []
    assert daemon.log("set up")[0]["repaired"] == 3


def test_the_disk_is_the_record(world: World) -> None:
    """A killed daemon's successor knows every directory that there was.

    Taken out: that a sweep takes only what is half made (it took all that nobody had told this run
    of).
    """
    daemon = world.start(POLICY)
    for uid in (ALICE, BOB, 3000):
        user_asks(uid, "Request", app="demo")
    before = listed(ask_all("List", at=OPERATOR))
    daemon.kill()
    world.start()
    assert listed(ask_all("List", at=OPERATOR)) == before
    assert granted(user_asks(3000, "Request", app="demo"))[1] == "existing"


def test_leftovers_of_a_killed_run_are_swept(world: World) -> None:
    """Half made and half deleted directories and folders are gone soon after the next start.

    Taken out: the call of `sweep`; then they stay.
    """
    world.start(POLICY).kill()
    tag = "0123456789abcdef"
    (RUN / f"demo/.new-{ALICE}-{tag}").mkdir(mode=0o700)
    given = RUN / f"demo/.new-{BOB}-{tag}"
    given.mkdir(mode=0o700)
    (given / "put in by its owner").touch()
    os.chown(given, BOB, BOB)
    deep = RUN / f"own/.old-{ALICE}-{tag}/a/b/c"
    deep.mkdir(parents=True)
    (RUN / ".sockbroker-new-demo/.sockbroker").mkdir(parents=True, mode=0o700)
    (RUN / ".sockbroker-old-other/.sockbroker").mkdir(parents=True, mode=0o700)
    world.start()
    eventually("swept", lambda: tree() == LAYOUT)


def test_a_leftover_that_cannot_be_swept_is_told(world: World) -> None:
    """Somebody has put something into what a killed run left: it stays, and an operator knows.

    Taken out: what `layout.sweep` makes of the names that `Base.sweep` returns.
    """
    (RUN / ".sockbroker-old-other").mkdir(mode=0o700)
    (RUN / ".sockbroker-old-other/file").touch()
    world.start(POLICY)
    status = operator_asks("Status")["parameters"]
    assert status["state"] == "degraded"
    assert [each for each in status["problems"] if "/run/.sockbroker-old-other: " in each]
    assert (RUN / ".sockbroker-old-other/file").exists()


def test_an_app_that_left_the_policy_keeps_its_directories(world: World) -> None:
    """They are shown as orphaned, nobody changes them, and their owners can release them.

    Taken out: the orphans of `layout.bring`; then they are not listed.
    """
    world.start(POLICY).kill()
    (RUN / "own/2000").chmod(0o705)
    world.start("apps: {demo: {allow: {everyone: true}}}")
    assert tree() == {**LAYOUT, "own/2000": (2000, 65534, "0705")}
    states = {each["path"]: each["state"] for each in listed(ask_all("List", at=OPERATOR))}
    assert set(states.values()) == {"orphaned"}
    assert f"/run/own/{BOB}" in states
    assert refused(user_asks(BOB, "Request", app="own")) == DENIED
    assert refused(user_asks(ALICE, "Release", app="own")) == DENIED
    assert user_asks(BOB, "Release", app="own") == {}
    assert not (RUN / f"own/{BOB}").exists()
    assert operator_asks("Status")["parameters"]["state"] == "running"


# What is in the way.


def a_link(path: Path) -> None:
    """To where the broker must never go."""
    path.symlink_to("/etc")


def a_file(path: Path) -> None:
    """Nothing that one can enter."""
    path.write_text("something")


def a_fifo(path: Path) -> None:
    """What stops whoever opens it."""
    os.mkfifo(path)


def a_mount(path: Path) -> None:
    """A file system of somebody's."""
    path.mkdir()
    mount("tmpfs", path, "tmpfs")


def a_mount_of_its_owner(path: Path) -> None:
    """The same, with nothing else wrong with it."""
    a_mount(path)
    os.chown(path, int(path.name), -1)
    path.chmod(0o700)


def foreign(path: Path) -> None:
    """A directory of another user."""
    path.mkdir(mode=0o711)
    os.chown(path, MALLORY, MALLORY)


def marked(path: Path) -> None:
    """A folder such as the broker makes, to be spoiled."""
    (path / ".sockbroker").mkdir(parents=True, mode=0o700)
    path.chmod(0o711)


def for_a_group_to_write(path: Path) -> None:
    """What others may have filled."""
    marked(path)
    path.chmod(0o770)


def for_all_to_write(path: Path) -> None:
    """Sticky or not: who is first decides."""
    marked(path)
    path.chmod(0o1777)


def with_an_acl(path: Path) -> None:
    """Another way for others to write."""
    marked(path)
    subprocess.run(["setfacl", "-m", f"u:{MALLORY}:rwx", path], check=True)


def unmarked(path: Path) -> None:
    """A folder of root's that something else has made."""
    path.mkdir(mode=0o711)
    (path / "something").touch()


def wrongly_marked(path: Path) -> None:
    """A marker that is not what the broker makes."""
    path.mkdir(mode=0o711)
    (path / ".sockbroker").touch()


def everything(path: Path) -> dict[str, object]:
    """All that a change of a tree would show in, but the times of reading."""
    found = {}
    for name in (path, *sorted(path.rglob("*") if path.is_dir() else ())):
        status = name.lstat()
        shown = (status.st_mode, status.st_uid, status.st_gid, status.st_ino, status.st_ctime_ns)
        acl = os.listxattr(name, follow_symlinks=False)
        found[str(name)] = (*shown, acl, os.readlink(name) if name.is_symlink() else None)
    return found


IN_THE_WAY = [
    a_link,
    a_file,
    a_fifo,
    a_mount,
    foreign,
    for_a_group_to_write,
    for_all_to_write,
    with_an_acl,
    unmarked,
    wrongly_marked,
]


def test_what_is_in_the_way_of_a_folder_is_not_touched(world: World) -> None:
    """An app whose folder is not the broker's is refused and reported; the others are served.

    Taken out: `_unsafe` of `Base._existing`; then what others could have filled is taken over.
    """
    apps = {f"app-{number}": make for number, make in enumerate(IN_THE_WAY)}
    for app, make in apps.items():
        make(RUN / app)
    etc = everything(Path("/etc/passwd")), os.listdir("/etc")
    before = {app: everything(RUN / app) for app in apps}
    rule = "{allow: {everyone: true}, at_boot: {users: [alice]}}"
    daemon = world.start("apps:\n" + "".join(f"  {app}: {rule}\n" for app in (*apps, "demo")))
    for app in apps:
        reply = user_asks(BOB, "Request", app=app)
        assert refused(reply) == OBSTRUCTED
        assert reply["parameters"]["path"] == f"/run/{app}"
        reply = user_asks(BOB, "Release", app=app)
        assert refused(reply) in {OBSTRUCTED, NO_SUCH_DIRECTORY}
    assert operator_asks("Reload")["parameters"]["policyGeneration"] == 2
    assert {app: everything(RUN / app) for app in apps} == before
    assert (everything(Path("/etc/passwd")), os.listdir("/etc")) == etc
    assert state(RUN / f"demo/{ALICE}") == (ALICE, ALICE, "0700")
    assert granted(user_asks(BOB, "Request", app="demo"))[1] == "created"
    status = operator_asks("Status")["parameters"]
    assert status["state"] == "degraded"
    assert sorted(text.split(":")[0] for text in status["problems"]) == [f"/run/{a}" for a in apps]
    assert sorted(daemon.log("ready")[0]["problems"]) == sorted(status["problems"])
    for app in ("app-0", "app-1"):
        (RUN / app).unlink()
    left = operator_asks("Reload")["parameters"]["problems"]
    assert sorted(text.split(":")[0] for text in left) == [f"/run/{a}" for a in apps][2:]
    assert granted(user_asks(BOB, "Request", app="app-0"))[1] == "created"


def test_what_is_in_the_way_of_a_directory_is_not_touched(world: World) -> None:
    """What has a directory's name and is none of that uid's is refused, reported and left alone.

    Taken out: the owner's uid in `app_folder._entry`, and RESOLVE_NO_XDEV of `entries.open_entry`;
    then another's directory is made right, and a mount is taken for the directory.
    """
    world.start(POLICY).kill()
    shutil.rmtree(RUN / f"boot/{ALICE}")
    kinds = {ALICE: a_link, 2000: a_file, 2001: a_fifo, 2002: a_mount_of_its_owner, 2003: foreign}
    for uid, make in kinds.items():
        path = RUN / f"boot/{uid}"
        if path.exists():
            path.rmdir()
        make(path)
    before = {uid: everything(RUN / f"boot/{uid}") for uid in kinds}
    world.start()
    for uid in kinds:
        for method in ("Request", "Release"):
            reply = user_asks(uid, method, app="boot")
            assert refused(reply) == OBSTRUCTED
            assert reply["parameters"]["path"] == f"/run/boot/{uid}"
    assert {uid: everything(RUN / f"boot/{uid}") for uid in kinds} == before
    assert state(RUN / f"boot/{CAROL}") == (CAROL, CHAT, "2750")
    status = operator_asks("Status")["parameters"]
    assert status["state"] == "degraded"
    found = {problem.split(":")[0] for problem in status["problems"]}
    assert found == {f"/run/boot/{uid}" for uid in kinds}
    shown = listed(ask_all("List", at=OPERATOR, app="boot"))
    states = {each["uid"]: each["state"] for each in shown}
    assert states == {CAROL: "ok", **dict.fromkeys(kinds, "obstructed")}


def test_adoption(world: World) -> None:
    """With `adopt: true` a folder of root's is taken over, and what is in it is judged as ever.

    Taken out: the owner's uid in `app_folder._entry`; then mallory's directory is made right as
    carol's.
    """
    folder = RUN / "demo"
    folder.mkdir(mode=0o755)
    (folder / "something").touch()
    for uid, mode in ((ALICE, 0o777), (BOB, 0o700)):
        (folder / f"{uid}").mkdir()
        (folder / f"{uid}").chmod(mode)
        os.chown(folder / f"{uid}", uid, uid)
    foreign(folder / f"{CAROL}")
    world.start("apps: {demo: {allow: {everyone: true}, adopt: true}}")
    assert (folder / "something").is_file()
    (folder / "something").unlink()
    expected = {f"{uid}": (uid, uid, "0700") for uid in (ALICE, BOB)}
    expected[f"{CAROL}"] = (MALLORY, MALLORY, "0711")
    assert tree() == layout({"demo": expected})
    assert operator_asks("Status")["parameters"]["problems"] == [
        f"/run/demo/{CAROL}: belongs to uid {MALLORY}, not {CAROL}"
    ]


def test_adoption_refuses_what_others_can_write(world: World) -> None:
    """Not even `adopt: true` makes a folder trusted that others could have filled.

    Taken out: `_unsafe` of `Base._existing`; then it is adopted.
    """
    kinds = [a_link, foreign, for_all_to_write, with_an_acl]
    for number, make in enumerate(kinds):
        make(RUN / f"app-{number}")
    before = everything(RUN)
    rule = "{allow: {everyone: true}, adopt: true}"
    world.start("apps:\n" + "".join(f"  app-{number}: {rule}\n" for number in range(len(kinds))))
    after = everything(RUN)
    assert {name: after[name] for name in before if name != "/run"} == {
        name: before[name] for name in before if name != "/run"
    }
    assert len(operator_asks("Status")["parameters"]["problems"]) == len(kinds)


# What keeps it from starting.


@pytest.mark.parametrize("spoil", [a_link, a_file, foreign, for_all_to_write, for_a_group_to_write])
def test_an_own_folder_that_is_not_roots_alone(world: World, spoil: object) -> None:
    """With /run/sockbroker in anybody else's hands the daemon does not start, and says why.

    Taken out: `root_path._check`, O_DIRECTORY and O_NOFOLLOW; then it starts, changes the file's
    mode, or goes where the link leads.
    """
    spoil(RUN / "sockbroker")  # type: ignore[operator]
    before = everything(RUN / "sockbroker")
    daemon = world.begin(policy=POLICY)
    assert daemon.ended() == 1
    (event,) = daemon.log("not started")
    assert "/run/sockbroker" in event["problems"][0]
    assert everything(RUN / "sockbroker") == before


def test_one_broker_for_a_base(world: World) -> None:
    """A second one is refused as long as the first lives, and no longer.

    Taken out: the flock(2) of `Base.lock`; then the second one starts.
    """
    first = world.start(POLICY)
    second = world.begin("--control-name", "other", "--runtime-directory", "/run/other")
    assert second.ended() == 1
    assert "another broker serves /run" in second.log("not started")[0]["problems"][0]
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    first.kill()
    world.start()
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "existing"


def test_the_lock_cannot_be_held_by_others(world: World) -> None:
    """A lock file that somebody else could have opened is not believed.

    Taken out: the look at the file in `Base.lock`; then it starts.
    """
    lock = RUN / ".sockbroker.lock"
    lock.touch()
    lock.chmod(0o644)
    daemon = world.begin(policy=POLICY)
    assert daemon.ended() == 1
    assert str(lock) in daemon.log("not started")[0]["problems"][0]


def test_only_root_can_start_it(world: World) -> None:
    """Anybody else is told so.

    Taken out: the look at the uid in `main`; then it fails later, for another reason.
    """
    daemon = world.begin(policy=POLICY, before=lambda: os.setresuid(ALICE, ALICE, ALICE))
    assert daemon.ended() == 1
    assert "must be started by root" in daemon.text()


def test_an_older_kernel(world: World) -> None:
    """Without openat2 and SO_PASSRIGHTS everything is the same.

    Taken out: `_NO_OPENAT2`, the look at the mount in `entries.open_entry`, and what catches the
    error in `refuse_descriptors`; with each, one of these fails.
    """
    a_link(RUN / "own")
    older = [NO_PASSRIGHTS, Refusal("openat2", errno.ENOSYS)]
    world.start(POLICY, before=lambda: refuse(older))
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    (RUN / f"demo/{ALICE}").chmod(0o777)
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "repaired"
    foreign(RUN / f"demo/{BOB}")
    a_mount_of_its_owner(RUN / f"demo/{CAROL}")
    assert refused(user_asks(BOB, "Request", app="demo")) == OBSTRUCTED
    assert refused(user_asks(CAROL, "Request", app="demo")) == OBSTRUCTED
    assert refused(user_asks(BOB, "Request", app="own")) == OBSTRUCTED
    assert user_asks(ALICE, "Release", app="demo") == {}
    eventually("deleted", lambda: len(os.listdir(RUN / "demo")) == 3)
    (RUN / "own").unlink()
    assert state(RUN / f"boot/{CAROL}") == (CAROL, CHAT, "2750")


FEWER_DEVICES = """\
mkdir "$1" && mount -n --bind /dev "$1" && mount -n -t tmpfs -o mode=0755 tmpfs /dev || exit 99
for name in $2; do
    touch "/dev/$name" && mount -n --bind "$1/$name" "/dev/$name" || exit 99
done
shift 2
exec "$@"
"""


def with_devices(world: World, *names: str) -> list[str]:
    """What starts a daemon with no other devices than these."""
    within = ["unshare", "--mount", "sh", "-c", FEWER_DEVICES, "sh"]
    return [*within, str(world.own / "devices"), " ".join(names)]


@pytest.mark.parametrize("names", [(), ("null",), ("urandom",)], ids=str)
def test_without_devices(world: World, names: tuple[str, ...]) -> None:
    """A container without /dev, or without one of its devices, lacks nothing that is needed.

    Seen to fail when the daemon opened /dev/null whatever its standard descriptors were, and when
    python-daemon did.
    """
    daemon = world.start(POLICY, under=with_devices(world, *names))
    assert tree() == LAYOUT
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    assert user_asks(ALICE, "Release", app="demo") == {}
    eventually("deleted", lambda: tree() == LAYOUT)
    status = operator_asks("Status")["parameters"]
    assert (status["state"], status["confinement"]) == ("running", LAYERS)
    assert daemon.log("fault") == []
    daemon.end()


def test_without_devices_and_descriptors(world: World) -> None:
    """Standard input, output and errors are nothing then, and never a socket or the lock."""
    daemon = world.begin(
        policy=POLICY, under=with_devices(world), before=lambda: os.closerange(0, 3)
    )
    eventually("answers", answers)
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    links = [os.readlink(f"/proc/{daemon.pid}/fd/{descriptor}") for descriptor in range(3)]
    assert {link.split()[0] for link in links} == {"/memfd:null"}
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.ended() == 0


def test_in_the_background_without_devices(world: World) -> None:
    """So it goes to the background, and says that it has."""
    starter = world.begin("--daemonize", policy=POLICY, under=with_devices(world))
    assert starter.ended() == 0, starter.text()
    assert starter.text() == ""
    pid = int((RUN / "sockbroker/sockbrokerd.pid").read_text())
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    os.kill(pid, signal.SIGTERM)
    eventually("ended", lambda: has_ended(pid))


def test_without_proc(world: World) -> None:
    """Nothing could be given away without /proc, so there is no start, and one line says why.

    Seen to fail without a look for it: "/proc/self/fd/5: No such file or directory" was all.
    """
    within = ["unshare", "--mount", "sh", "-c", 'mount -n -t tmpfs tmpfs /proc && exec "$@"', "sh"]
    daemon = world.begin(policy=POLICY, under=within)
    assert daemon.ended() == 1
    (event,) = daemon.log()
    assert event["problems"] == ["/proc: no proc file system is mounted there; mount one"]
    assert os.listdir(RUN) == []


def test_nothing_of_the_environment_steers_it(world: World) -> None:
    """No module, locale or home of the caller's has any effect, nor does a closed descriptor.

    Taken out: `_open_standard_descriptors`, the working directory, and -I of the command; with
    each, one of these fails.
    """
    evil = world.own / "evil"
    evil.mkdir()
    for name in ("yaml", "structlog", "daemon", "sockbroker", "socket"):
        (evil / f"{name}.py").write_text("raise SystemExit('the evil module was imported')")

    def before() -> None:
        os.chdir(evil)
        for descriptor in range(3):
            os.close(descriptor)

    environment = {"PYTHONPATH": str(evil), "PYTHONSTARTUP": str(evil / "yaml.py"), "LC_ALL": "C"}
    daemon = world.begin(policy=POLICY, before=before, environment=environment)
    eventually("answers", answers)
    eventually("answers", lambda: tree() == LAYOUT)
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    links = [os.readlink(f"/proc/{daemon.pid}/fd/{descriptor}") for descriptor in range(3)]
    assert links == ["/dev/null"] * 3
    assert os.readlink(f"/proc/{daemon.pid}/cwd") == "/"


def test_a_long_start_tells_how_far_it_is(world: World) -> None:
    """Every second or so the service manager gets more time and a count.

    Taken out: `extend_start`.
    """
    slow = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=mkdirat"]
    slow += ["-e", "inject=mkdirat:delay_enter=25000"]
    policy = 'apps: {demo: {allow: {everyone: true}, at_boot: {users: ["2000-2199"]}}}'
    with Manager(world.own / "notify") as manager:
        world.begin(policy=policy, under=slow, environment=manager.environment())
        counts = []
        while "READY" not in (message := manager.next()):
            assert message["EXTEND_TIMEOUT_USEC"] == "30000000"
            assert message["STATUS"].startswith("setting up: ")
            counts.append(int(message["STATUS"].split()[2]))
    assert len(counts) >= 2
    assert counts == sorted(set(counts))
    assert len(os.listdir(RUN / "demo")) == 201


def test_unknown_names_are_reported_and_the_rest_is_served(world: World) -> None:
    """A name that does not exist is a warning with its place; one that appears later counts.

    Taken out: the retry of `Loader.keep`; then they stay unknown.
    """
    policy = """\
apps:
  demo: {allow: {users: [alice, dora]}}
  lost: {allow: {everyone: true}, group: dorians}
"""
    world.start(policy)
    assert granted(user_asks(ALICE, "Request", app="demo"))[1] == "created"
    problems = operator_asks("Status")["parameters"]["problems"]
    assert any(f"{world.policy}:2:" in text and "dora" in text for text in problems), problems
    assert any(f"{world.policy}:3:" in text and "dorians" in text for text in problems), problems
    assert operator_asks("Status")["parameters"]["state"] == "degraded"
    assert refused(user_asks(1900, "Request", app="lost")) == DENIED
    for name, line in (("passwd", "dora:x:1900:1900::/:/bin/sh"), ("group", "dorians:x:5900:dora")):
        with (world.own / name).open("a") as file:
            file.write(f"{line}\n")
    eventually("known", lambda: "error" not in user_asks(1900, "Request", app="lost"))
    assert state(RUN / "lost/1900") == (1900, 5900, "0700")
    assert granted(user_asks(1900, "Request", app="demo"))[1] == "created"
    assert operator_asks("Status")["parameters"]["state"] == "running"
