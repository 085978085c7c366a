"""Per-user runtime directories, /run/<app>/<uid>, handed out by the sockbroker daemon.

    import sockbroker
    with sockbroker.request("chat") as directory:
        server = directory.listen("control.sock", mode=0o660)
    client = sockbroker.connect("chat", "control.sock", user="alice")

The names below are the library; it needs the standard library only. Each is imported when it is
first used, because the daemon and the parts of this package that decide things import the package
too, and have no use for it.
"""

TYPE_CHECKING = False  # as a checker reads it; `typing` itself would take long to import
if TYPE_CHECKING:
    from sockbroker.answers import ListedDirectory, Reloaded, Status
    from sockbroker.client import broker_status, list_directories, release, reload_policy, request
    from sockbroker.directory import Directory
    from sockbroker.errors import (
        BrokerUnavailable,
        CallFailed,
        Closed,
        ConnectFailed,
        ConnectionLost,
        Denied,
        Error,
        Impostor,
        InUse,
        InvalidAddress,
        InvalidApp,
        InvalidSocket,
        LimitReached,
        ListenFailed,
        NameInUse,
        NoSuchDirectory,
        NoSuchUser,
        Obstructed,
        PermissionDenied,
        PolicyInvalid,
        ProtocolFault,
        TimedOut,
        UnexpectedDirectory,
        Unmarked,
        Unverifiable,
        WrongListener,
    )
    from sockbroker.listening import Listener
    from sockbroker.reaching import connect

__version__ = "0.1.0"

__all__ = [
    "BrokerUnavailable",
    "CallFailed",
    "Closed",
    "ConnectFailed",
    "ConnectionLost",
    "Denied",
    "Directory",
    "Error",
    "Impostor",
    "InUse",
    "InvalidAddress",
    "InvalidApp",
    "InvalidSocket",
    "LimitReached",
    "ListedDirectory",
    "ListenFailed",
    "Listener",
    "NameInUse",
    "NoSuchDirectory",
    "NoSuchUser",
    "Obstructed",
    "PermissionDenied",
    "PolicyInvalid",
    "ProtocolFault",
    "Reloaded",
    "Status",
    "TimedOut",
    "UnexpectedDirectory",
    "Unmarked",
    "Unverifiable",
    "WrongListener",
    "broker_status",
    "connect",
    "list_directories",
    "release",
    "reload_policy",
    "request",
]

_MODULES = {
    "ListedDirectory": "answers",
    "Reloaded": "answers",
    "Status": "answers",
    "list_directories": "client",
    "release": "client",
    "reload_policy": "client",
    "request": "client",
    "broker_status": "client",
    "Directory": "directory",
    "Listener": "listening",
    "connect": "reaching",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value
