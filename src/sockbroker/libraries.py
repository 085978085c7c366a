"""The libraries that the daemon is made with, imported before any other module imports them.

So they come without what they import for functions that nobody here calls (see `lazy_imports`):
structlog asyncio, a third of the daemon's start and 6 MiB of its memory, for its asynchronous
methods; dataclasses inspect, for the signature in place of a docstring that is missing (Python 3.13
has it call more of that, and so it is imported there).  And yaml, so that reading the policy need
not wait for it.
"""

from sockbroker.lazy_imports import lazily

with lazily("asyncio", "inspect", "uuid"):
    import dataclasses

    import structlog
    import yaml

__all__ = ["dataclasses", "structlog", "yaml"]
