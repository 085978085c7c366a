"""What the daemon serves: the interface definitions that ship with it, bound to their handlers.

The definitions are files beside this module.  Calls are checked against them, and they are what
introspection answers, word for word.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from sockbroker import __version__
from sockbroker.core.idl import Interface, parse
from sockbroker.core.service import STANDARD, Answer, Binding, Service
from sockbroker.core.varlink import Call
from sockbroker.session import Session

INTERFACE = "io.sockbroker"

Handlers = Mapping[str, Callable[[Session, Call], Answer]]


def definition(name: str) -> Interface:
    """Read the definition of an interface that ships with the package."""
    path = os.path.join(os.path.dirname(__file__), f"{name}.varlink")
    with open(path, encoding="utf-8") as file:
        return parse(file.read())


def service(handlers: Handlers) -> Service[Session]:
    """Return the service; a method without a handler answers MethodNotImplemented."""
    return Service(
        vendor="sockbroker",
        product="sockbroker",
        version=__version__,
        url="https://github.com/sockbroker/sockbroker",
        bindings=(
            Binding(interface=definition(STANDARD)),
            Binding(
                interface=definition(INTERFACE),
                handlers=handlers,
                needs_more=frozenset({"List", "Monitor"}),
            ),
        ),
    )
