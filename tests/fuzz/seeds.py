"""What the fuzzers begin with: inputs near what they are to find, and words of the languages."""

from __future__ import annotations

REPEATED = b"***"
"""Begins an input of which the rest is repeated, so that what is not linear takes too long."""

_CALL = b'{"method":"io.sockbroker.Explain","parameters":{"app":"open","uid":1001}}'
_REPLY = b'{"parameters":{"path":"/run/a/1","outcome":"created"},"continues":true}'
_ERROR = b'{"error":"io.sockbroker.Denied","parameters":{"app":"a","reason":"no"}}'
_INFO = b'{"method":"org.varlink.service.GetInfo"}'

_POLICY = b"""\
uid_range: [1000, 60000]
apps:
  chat:
    description: Local chat
    allow:
      users: [alice, 1007, "2000-2999"]
      groups: [chat, 27]
      everyone: false
    deny: {users: [mallory, "1009"], groups: [guests]}
    mode: "2750"
    group: chat
    parent: {mode: "0755", group: adm}
    at_boot:
      users: [alice]
      groups: [chat]
      everyone: true
    max_directories: 70000
    adopt: true
  other: {}
"""

SEEDS: dict[str, list[bytes]] = {
    "codec": [
        _CALL + b"\0",
        _INFO + b"\0" + _CALL + b"\0" + _CALL[:20],
        _REPLY,
        _ERROR + b"\0",
        b'{"method":"a.b.C","oneway":true,"org.example":[null,-0.5e1,"\\ud83d\\ude00"]}\0\0',
        b'{"method":"a.b.C","parameters":{"x":[[[[[[[[[[[[[[1e5]]]]]]]]]]]]]]}}\0',
        _INFO + b"\0" + b"x" * 16390,
        REPEATED + b'{"a":',
        REPEATED + b"[",
        REPEATED + _INFO + b"\0",
    ],
    "parameters": [
        bytes([method | flags]) + text
        for method in (2, 3, 4, 5, 68, 69)
        for flags in (0, 128)
        for text in (
            b"{}",
            b'{"app":"open"}',
            b'{"app":"open","uid":1001,"force":true}',
            b'{"app":"denied","uid":4294967294}',
            b'{"app":"\\u00e9","uid":-1,"force":null}',
            b'{"app":{"open":[1e400,9223372036854775808]}}',
            b'{},"oneway":true,"x.y":{}',
        )
    ],
    "policy": [
        _POLICY,
        b"apps: {}",
        b'apps: {a: {mode: "0755", allow: {everyone: true}}, a: {}}',
        b"apps: &x {a: *x, ? [b] : c, <<: {}}\n---\n",
        b"apps:\n  a:\n    description: |\n      two\n      lines\n    mode: 0750\n",
        b"\xef\xbb\xbfapps: {}\r\n",
        b"%YAML 1.1\n--- !!map\napps: !x {}\n...\n",
        REPEATED + b"- ",
        REPEATED + b"{",
        REPEATED + b"? a\n: b\n",
        REPEATED + b"a: &b\n",
    ],
}

_WORDS = {
    "codec": (
        '"method" "parameters" "error" "continues" "oneway" "more" "upgrade" true false null '
        '"io.sockbroker.Explain" "org.varlink.service.GetInfo" \\ud800 \\u0000 1e999 NaN Infinity '
        "-0.0 9223372036854775808 {} [] a.b"
    ),
    "parameters": (
        '"app" "uid" "force" "interface" "open" "listed" "others" "denied" "io.sockbroker" true '
        "false null 1001 1002 65534 4294967295 9223372036854775808 -1 1001.0 \\ud800 {} []"
    ),
    "policy": (
        "apps: uid_range: allow: deny: at_boot: users: groups: everyone: description: mode: "
        "group: parent: max_directories: adopt: true false ~ << *x &x !!str --- ... %TAG | > "
        '"0750" "2770" "1000-2000" [1000,60000] {} [] ? # systemd 0x10 4294967294 65534'
    ),
}


def dictionary(target: str) -> str:
    """Return libFuzzer's dictionary for a target: its words, quoted as libFuzzer reads them."""
    words = [word.encode() for word in _WORDS[target].split()] + [b"\0", b"\n", b"\xc2\x85"]
    quoted = ["".join(f"\\x{byte:02x}" for byte in word) for word in words]
    return "".join(f'"{word}"\n' for word in quoted)


def unfolded(data: bytes, length: int) -> bytes:
    """Return the input that these bytes stand for, of about this length where it is repeated."""
    text = data.removeprefix(REPEATED)
    return data if text in (data, b"") else text * (length // len(text) + 1)
