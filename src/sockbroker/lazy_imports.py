"""Keeps a library from importing what it uses only in functions that are never called here.

importlib.util.LazyLoader does not do here: its module is loaded when anybody asks for any of its
attributes, and the import statement itself asks one that is in sys.modules for its `__spec__`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


@contextmanager
def lazily(*names: str) -> Iterator[None]:
    """While entered, `import NAME` gives a module that is imported when it is first used.

    What has been imported before stays as it is; whoever imports it afterwards gets the real one.
    """
    placed = {name: _StandIn(name) for name in names if name not in sys.modules}
    sys.modules.update(placed)
    try:
        yield
    finally:
        for name, stand_in in placed.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


class _StandIn(ModuleType):
    """Stands for a module until something of it is used."""

    def __bool__(self) -> bool:
        return False  # so logging, which asks sys.modules, takes asyncio for not imported

    def __getattr__(self, attribute: str) -> object:
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
        return getattr(import_module(name), attribute)
