"""Fixtures of the daemon's tests: a world in which to start it, and one that must not suffer."""

from collections.abc import Iterator

import pytest
from peers import Peer, granted, user_asks
from running import BOB, RUN, Daemon, World, eventually, private_world


@pytest.fixture
def world() -> Iterator[World]:
    """An empty /run, a place for a policy, and known users."""
    with private_world() as world:
        yield world
        for peer in list(Peer.running):  # of a test that failed
            peer.end()


@pytest.fixture
def daemon(world: World) -> Iterator[Daemon]:
    """A daemon that has to be none the worse for whatever the test does to it."""
    daemon = world.start("apps: {demo: {allow: {everyone: true}}, nobody: {}}")
    user_asks(BOB, "Request", app="demo")
    before = daemon.descriptors()
    yield daemon
    assert daemon.process.poll() is None, daemon.text()
    assert granted(user_asks(BOB, "Request", app="demo")) == (f"/run/demo/{BOB}", "existing")
    eventually("descriptors closed", lambda: daemon.descriptors() <= before)
    assert daemon.log("fault") == []
    assert {entry.name for entry in RUN.iterdir()} == {
        ".sockbroker.lock",
        "demo",
        "nobody",
        "sockbroker",
    }
    daemon.end()
