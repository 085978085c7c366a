"""Confines the daemon, so that one that has been taken over is not all of root.

A service manager may have done some of it before; what the daemon can do by itself it does as well,
however it was started.  Each layer stops what the others cannot: read-only mounts what chown(2) and
chmod(2) would do elsewhere, Landlock the making of files (a unit, a rule of udev) even where it
must write, the filter whatever is no file.  What does not hold is told and no reason not to serve:
in a container most of it may be refused.

The mounts come first, before a descriptor of the base is open, which would lead round them.  The
rest comes before the first thread and before the first peer, and after the last file is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sockbroker.kernel import capabilities, landlock, process_flags, system_call_filter
from sockbroker.kernel.capabilities import (
    CAP_CHOWN,
    CAP_DAC_READ_SEARCH,
    CAP_FOWNER,
    CAP_FSETID,
)
from sockbroker.kernel.mount_namespace import is_read_only, leave_writable_only
from sockbroker.kernel.root_path import DirectoryError

KEPT = frozenset({CAP_CHOWN, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID})
"""Give directories away, look into users' own, set their modes, and keep setgid on them."""

# Below /run, but for PID 1, udev and whoever else obeys what is written or asked for there.
_OBEYED = ("systemd", "udev")
_ASKED = ("systemd/private", "dbus", "docker.sock", "containerd", "podman")

_EVERYWHERE = landlock.READ_FILE | landlock.READ_DIR
_IN_THE_BASE = (
    landlock.MAKE_DIR | landlock.REMOVE_DIR | landlock.REMOVE_FILE | landlock.REFER | _EVERYWHERE
)


class Layer(NamedTuple):
    """One layer: its name, how it is put on (or OSError), and whether it holds already."""

    name: str
    apply: Callable[[], None]
    holds: Callable[[], bool]


class Confinement:
    """Which layers hold, and why the others do not."""

    def __init__(self, base: str, runtime_directory: str) -> None:
        """Both folders have to be there before the layers are applied."""
        self._base = base
        self._own = runtime_directory
        self.held: list[str] = []
        self.missing: dict[str, str] = {}

    def confine_mounts(self) -> None:
        """Have all be read-only but the base and the daemon's own folder.

        DirectoryError if these two are as well: there is no way back out of the namespace.
        """
        self._apply([Layer(name="mounts", apply=self._mount, holds=self._mounted)])
        why = self.missing.get("mounts")
        if why is not None and any(map(is_read_only, self._writable())):
            raise DirectoryError(
                f"{self._base}: read-only for this process, which could not see to that: {why};"
                " see what forbids it, or have it mounted so that it can be written"
            )

    def confine(self) -> None:
        """Put on all other layers; no file can be made from here on, in no folder."""
        self._apply(self._layers())

    def _layers(self) -> Iterator[Layer]:
        yield Layer(
            name="no_new_privs",
            apply=process_flags.set_no_new_privileges,
            holds=process_flags.no_new_privileges,
        )
        yield Layer(
            name="capabilities",
            apply=lambda: capabilities.keep(KEPT),
            holds=lambda: capabilities.held() <= KEPT and capabilities.bounding() <= KEPT,
        )
        yield Layer(
            name="no_new_code",
            apply=process_flags.set_no_new_code,
            holds=process_flags.no_new_code,
        )
        yield Layer(name="landlock", apply=self._restrict, holds=lambda: False)
        yield Layer(name="system_calls", apply=system_call_filter.filter_calls, holds=lambda: False)

    def _apply(self, layers: Sequence[Layer] | Iterator[Layer]) -> None:
        for layer in layers:
            try:
                if not _holds(layer):
                    layer.apply()
            except OSError as error:
                self.missing[layer.name] = error.strerror or str(error)
            else:
                self.held.append(layer.name)

    def _mount(self) -> None:
        leave_writable_only(
            self._writable(),
            but_not=[f"{self._base}/{name}" for name in _OBEYED],
            hidden=[f"{self._base}/{name}" for name in _ASKED],
        )

    def _mounted(self) -> bool:
        return is_read_only("/") and not any(map(is_read_only, self._writable()))

    def _restrict(self) -> None:
        landlock.restrict({"/": _EVERYWHERE, **dict.fromkeys(self._writable(), _IN_THE_BASE)})

    def _writable(self) -> list[str]:
        within = self._own.startswith(f"{self._base.rstrip('/')}/")
        return [self._base] if within else [self._base, self._own]


def _holds(layer: Layer) -> bool:
    """Tell whether it holds already; what cannot be told does not."""
    try:
        return layer.holds()
    except OSError:
        return False
