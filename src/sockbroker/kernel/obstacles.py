"""What can be in the way of a directory: the three answers that are neither it nor a fault.

Apart from the modules that raise them, because all of these do.  Their texts quote only paths that
are made of the base, an app's name and a uid.
"""


class Obstructed(Exception):
    """Something that the broker did not make is at `path`; it was not touched."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class LimitReached(Exception):
    """There are `limit` of `resource` already."""

    def __init__(self, resource: str, limit: int) -> None:
        super().__init__(f"{resource}: limit of {limit} reached")
        self.resource = resource
        self.limit = limit


class NoSuchDirectory(Exception):
    """There is no directory of `uid` at `path`."""

    def __init__(self, path: str, uid: int) -> None:
        super().__init__(f"{path}: no such directory")
        self.path = path
        self.uid = uid
