"""What `sockbrokerd --remove-directories` says; the installer's tests have what it does."""

from __future__ import annotations

import pytest
from running import RUN, World

pytestmark = pytest.mark.root


def test_what_cannot_be_removed_is_named(world: World) -> None:
    """What a killed run left half made, and somebody has put something into, is not passed over.

    Taken out: the line for what `Base.sweep` returns; then the status is 0 and nothing is said.
    """
    (RUN / ".sockbroker-new-demo/.sockbroker").mkdir(parents=True, mode=0o700)
    (RUN / ".sockbroker-old-other").mkdir(mode=0o700)
    (RUN / ".sockbroker-old-other/file").touch()
    removing = world.begin("--remove-directories")
    assert removing.ended() == 1
    assert removing.text() == "/run/.sockbroker-old-other: kept: it cannot be removed\n"
    assert sorted(entry.name for entry in RUN.iterdir()) == [
        ".sockbroker-old-other",
        ".sockbroker.lock",
    ]
