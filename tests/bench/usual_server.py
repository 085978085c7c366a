"""A server as most would write it in Python: asyncio, json, and the same job on a directory.

    python usual_server.py NAME FOLDER

It serves the abstract socket NAME, and prints "ready" once it does.  Like the C reference it makes
the system calls of the job and has no policy, no limits and no record.
"""

import asyncio
import json
import os
import socket
import stat
import struct
import sys

SO_PEERGROUPS = 59


class Conversation(asyncio.Protocol):
    """One connection."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn who it is."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _pid, self._uid, _gid = struct.unpack("iII", credentials)

    def data_received(self, data: bytes) -> None:
        """Answer every whole call."""
        *calls, self._received = (self._received + data).split(b"\0")
        for call in calls:
            self._transport.write(json.dumps(self._answer(json.loads(call))).encode() + b"\0")

    def _answer(self, call: dict[str, dict[str, str]]) -> dict[str, object]:
        self._socket.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
        if call["parameters"]["app"] != "demo":
            return {"error": "no"}
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        directory = os.open(str(self._uid), flags, dir_fd=self._folder)
        try:
            status = os.fstat(directory)
        finally:
            os.close(directory)
        if status.st_uid != self._uid or stat.S_IMODE(status.st_mode) != 0o700:
            return {"error": "no"}
        return {"parameters": {"path": f"/run/demo/{self._uid}", "outcome": "existing"}}


async def serve(name: str, folder: int) -> None:
    """Serve for good."""
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: Conversation(folder), f"\0{name}", backlog=4096)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], os.open(sys.argv[2], os.O_RDONLY | os.O_DIRECTORY)))
