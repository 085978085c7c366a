"""Which words may name an app and which numbers may be a user.

This is the only grammar that decides whether a string from a policy or from a peer may become a
component of a path, so it is kept apart from everything that uses it. ASCII only: `\\d`, `\\w` and
`int()` accept Unicode digits, underscores and blanks, and `$` matches before a final newline.
"""

import re
from typing import Final

_APP_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,30}")

# (uid_t)-1 means "no user" to chown(2) and setreuid(2), so the highest number that can be one is:
MAX_ID: Final = 2**32 - 2

# What the kernel shows for an id that has no mapping (/proc/sys/kernel/overflowuid, its 16-bit
# form, and -1). Any number of people may look like one of these: it identifies nobody.
OVERFLOW_IDS: Final = frozenset({65534, 65535, 2**32 - 1})

# Folders and files that Debian, systemd and widespread system software keep in /run. A package
# that is installed later would find its place taken by an app of one of these names.
RESERVED_NAMES: Final = frozenset(
    """
    agetty alsa apparmor atd avahi-daemon blkid boltd chrony cloud-init cockpit console-setup
    containerd credentials crio cron cryptsetup cups dbus dhclient dhcpcd docker dpkg faillock
    firewalld flatpak fsck fwupd gdm gdm3 host initctl initramfs irqbalance kdump keyrings
    kubernetes libvirt lightdm lirc lock log lvm mdadm media mount motd multipathd needrestart
    netns netplan network nfs nscd nslcd ntpd nut ostree plymouth podman polkit polkit-1
    reboot-required resolvconf rpc_pipefs rpcbind runit samba sddm secrets sendsigs sepermit
    setrans shm snapd sockbroker sshd sssd sudo systemd tmpfiles tpm2-tss tuned udev udisks2 user
    userdb utmp uuidd wpa_supplicant xtables
    """.split()  # noqa: SIM905 - a table of words, which quotes and commas would make unreadable
)


def is_app_name(text: str) -> bool:
    """Tell whether `text` is spelled like an app's name; a reserved one is."""
    return _APP_NAME.fullmatch(text) is not None


def parse_uid(text: str) -> int | None:
    """Read a uid or gid in decimal as `str(int)` writes it; None for anything else.

    Says nothing about whether it can be somebody's: see `is_user_id`.
    """
    if not (text.isascii() and text.isdecimal()) or len(text) > 10:
        return None
    if text[0] == "0" and text != "0":
        return None
    number = int(text)
    return number if number <= MAX_ID else None


def is_user_id(number: int) -> bool:
    """Tell whether `number` can identify one user (or group): in range, and no overflow id."""
    return 0 <= number <= MAX_ID and number not in OVERFLOW_IDS
