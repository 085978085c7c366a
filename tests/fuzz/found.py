"""What the fuzzers found: each input is tried again in every run, and has to be none any more.

To add one: the failing test prints it, with its target.
"""

FOUND: list[tuple[str, str, bytes]] = [
    (
        # What was received together with it was not answered; byte by byte it was.
        "a whole call before a message that is too long",
        "codec",
        b'{"method":"org.varlink.service.GetInfo"}\0' + b"x" * 16390,
    ),
    (
        # It was taken for a policy without apps, whatever stood before.
        "a carriage return alone at the end of a policy",
        "policy",
        b"apps: {a: {}}\r",
    ),
    (
        # Not ours to mend: YAML ends the last line itself, so the place is behind the file's end.
        "a problem at the end of a file that does not end its line",
        "policy",
        b'apps: {a: {mode: "0755", allow: {everyone: true|}, a: {}}',
    ),
]
