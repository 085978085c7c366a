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
    placed = {name: _stand_in(name) for name in names if name not in sys.modules}
    sys.modules.update(placed)
    try:
        yield
    finally:
        for name, stand_in in placed.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


def _stand_in(name: str) -> ModuleType:
    stand_in = ModuleType(name, f"Stands for {name} until something of it is used.")

    def find(attribute: str) -> object:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(import_module(name), attribute)

    vars(stand_in)["__getattr__"] = find  # see PEP 562
    return stand_in
