"""What the broker does on disk, as a program of its own, to be killed or confined by the tests.

Run as `broken_off.py SOURCE BASE WORK`.  The two faccessat2(2) calls on names that do not exist
frame the work in a trace of its system calls.
"""

import os
import sys

sys.path.insert(0, sys.argv[1])

from sockbroker.kernel.directories import Base, Parent, Wanted
from sockbroker.kernel.removal import remove

BASE = sys.argv[2]
PARENT = Parent(mode=0o711, gid=0)
WANTED = Wanted(mode=0o2750, gid=4321)


def start() -> None:
    """What every start does before anything else."""
    with Base.open(BASE) as base:
        base.lock()
        base.sweep()
        for app in base.scan():
            found = base.find(app)
            if found is not None:
                with found as folder:
                    for name in folder.sweep(folder.names()):
                        remove(folder.fileno(), name, stop=lambda: False)
        with base.folder("chat", PARENT, adopt=True) as folder:
            folder.ensure(1000, WANTED, new_gid=1000, limit=10)


def release() -> None:
    """Move the directory aside and delete it."""
    with Base.open(BASE) as base, base.folder("chat", PARENT, adopt=False) as folder:
        remove(folder.fileno(), folder.move_aside(1000), stop=lambda: False)


def retire() -> None:
    """Remove the app's empty folder."""
    with Base.open(BASE) as base:
        base.retire("chat")


os.access("/begin of the work", os.F_OK)
{"start": start, "release": release, "retire": retire}[sys.argv[3]]()
os.access("/end of the work", os.F_OK)
