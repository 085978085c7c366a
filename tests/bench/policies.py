"""The policies that the broker is measured with, and the same layouts for others."""

from __future__ import annotations

APPS = 200
FIRST_UID = 100_000
"""Of those who get directories at boot: nobody of the user database."""

GROUP = 65534
"""Of their directories: what the broker gives to uids that are in no database."""

ONE_APP = "apps: {demo: {allow: {everyone: true}}}\n"


def many_apps() -> str:
    """200 apps."""
    apps = (f"  app-{number}: {{allow: {{everyone: true}}}}\n" for number in range(APPS))
    return f"apps:\n{''.join(apps)}"


def many_directories(directories: int) -> str:
    """The one app, with room for so many directories of uids from `FIRST_UID` on."""
    last = FIRST_UID + directories
    return (
        f"uid_range: [1000, {last}]\n"
        f"apps: {{demo: {{allow: {{everyone: true}}, max_directories: {directories}}}}}\n"
    )


def _layout(allow: str, at_boot: str, directories: int) -> str:
    return (
        f"apps:\n  demo:\n    max_directories: {directories}\n"
        f"    allow:{allow}\n    at_boot:{at_boot}\n"
    )


def one_by_one(directories: int) -> str:
    """A line for each directory that is to be there at boot; who may ask for one is a range."""
    uids = range(FIRST_UID, FIRST_UID + directories)
    lines = "".join(f"\n      - {uid}" for uid in uids)
    span = f'"{uids[0]}-{uids[-1]}"'
    return _layout(f" {{users: [{span}]}}", f"\n      users:{lines}", directories)


def as_range(directories: int) -> str:
    """The same directories as one range."""
    span = f'{{users: ["{FIRST_UID}-{FIRST_UID + directories - 1}"]}}'
    return _layout(f" {span}", f" {span}", directories)


def as_group(directories: int) -> str:
    """The same directories for the members of a group; see `accounts_of`."""
    return _layout(" {groups: [bench]}", " {groups: [bench]}", directories)


def accounts_of(directories: int) -> tuple[str, str]:
    """Lines of passwd and group that make them a group of users."""
    uids = range(FIRST_UID, FIRST_UID + directories)
    people = "".join(f"u{uid}:x:{uid}:{GROUP}::/:/bin/sh\n" for uid in uids)
    return people, f"bench:x:{FIRST_UID - 1}:{','.join(f'u{uid}' for uid in uids)}\n"


def tmpfiles(directories: int) -> str:
    """The same directories for systemd-tmpfiles(8)."""
    uids = range(FIRST_UID, FIRST_UID + directories)
    lines = "".join(f"d /run/tmpfiles/{uid} 0700 {uid} {GROUP}\n" for uid in uids)
    return f"d /run/tmpfiles 0711 root root\n{lines}"


def entries(number: int) -> str:
    """So many apps, each with a mode, two users and two groups."""
    return "apps:\n" + "".join(
        f"  app-{i}:\n"
        f'    mode: "0750"\n'
        f"    group: {5000 + i}\n"
        f"    allow:\n      users: [{1000 + i}, {20_000 + i}]\n"
        f"      groups: [{5000 + i}, {30_000 + i}]\n"
        for i in range(number)
    )
