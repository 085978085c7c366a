"""How the daemon logs: structlog, configured here and nowhere else.

One line for each change or refusal, as a dictionary of an event and its fields.  Under the journal
it is a JSON line with the priority prefix of sd-daemon(3); on a terminal a readable line; for a
daemon in the background, which has no standard error, a datagram to /dev/log as JSON.  JSON
escapes whatever could start a line of its own or steer a terminal, and so does the readable form.

Writing never blocks: a log that takes nothing loses lines, and the next line that gets through
says how many.
"""

from __future__ import annotations

import functools
import logging
import os
import select
import socket
import stat
import time
from _json import encode_basestring_ascii, make_encoder
from collections.abc import Callable, MutableMapping
from typing import Any

from sockbroker.core.escaping import escape
from sockbroker.libraries import structlog

Event = MutableMapping[str, Any]
Logger = Any
"""A structlog bound logger; its methods are made at run time."""

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog(3) priorities by structlog's method names."""

_SYSLOG_DAEMON = 3 << 3  # LOG_DAEMON, syslog(3)


class Output:
    """Takes finished lines; what structlog calls a logger."""

    def __init__(self, write: Callable[[bytes], bool]) -> None:
        self._write = write
        self._lost = 0

    def msg(self, line: str) -> None:
        if self._lost:
            note = f"{self._lost} log lines were lost before this one"
            prefix = "<4>" if line.startswith("<") else ""
            if not self._write(f'{prefix}{{"event": "{note}"}}\n'.encode()):
                self._lost += 1
                return
            self._lost = 0
        if not self._write(line.encode("ascii", "backslashreplace")):
            self._lost += 1

    debug = info = warning = error = critical = msg


def journal_logger(descriptor: int) -> Logger:
    """Log as JSON lines with a priority, to the journal's stream."""
    return _logger(Output(_stream(descriptor)), _with_priority, _json_line)


def plain_logger(descriptor: int) -> Logger:
    """Log for a file or pipe: JSON lines with the time."""
    return _logger(Output(_stream(descriptor)), _with_level, _with_time, _json_line)


def terminal_logger(descriptor: int) -> Logger:
    """Log for a person at a terminal."""
    return _logger(Output(_stream(descriptor)), _with_level, _readable_line)


def syslog_logger() -> Logger:
    """Log as JSON datagrams to /dev/log, for a daemon in the background; lost if none listens."""
    return _logger(Output(_syslog()), _with_priority, _json_line)


def logger_for(descriptor: int, journal_stream: str | None) -> Logger:
    """Choose by what standard error is: `journal_stream` is $JOURNAL_STREAM, systemd.exec(5)."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return syslog_logger()
    if journal_stream == f"{status.st_dev}:{status.st_ino}":
        return journal_logger(descriptor)
    if stat.S_ISCHR(status.st_mode) and os.isatty(descriptor):
        return terminal_logger(descriptor)
    return plain_logger(descriptor)


def _logger(output: Output, *processors: Any) -> Logger:
    return structlog.wrap_logger(
        output,
        processors=[_with_exception, *processors],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        context_class=dict,
    ).bind()  # now, and not again for each line


# Processors: from an event to one line.


def _with_exception(_logger: Logger, _method: str, event: Event) -> Event:
    error = event.pop("fault", None)
    if isinstance(error, BaseException):
        event["fault"] = f"{type(error).__name__}: {error}"
        trace = error.__traceback__
        places = []
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        event["trace"] = places
    return event


def _with_priority(_logger: Logger, method: str, event: Event) -> Event:
    event["_prefix"] = f"<{PRIORITIES.get(method, 6)}>"
    return event


def _with_level(_logger: Logger, method: str, event: Event) -> Event:
    event["level"] = method
    return event


def _with_time(_logger: Logger, _method: str, event: Event) -> Event:
    event["time"] = _shown(int(time.time()))
    return event


@functools.lru_cache(maxsize=1)  # lines come in bursts
def _shown(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


# What json.JSONEncoder makes anew for each line.
_encoder = make_encoder(None, str, encode_basestring_ascii, None, ": ", ", ", False, False, True)


def _json_line(_logger: Logger, _method: str, event: Event) -> str:
    prefix = event.pop("_prefix", "")
    line = {"event": event.pop("event"), **event}
    return f"{prefix}{''.join(_encoder(line, 0))}\n"


def _readable_line(_logger: Logger, _method: str, event: Event) -> str:
    level = event.pop("level")
    name = event.pop("event")
    fields = " ".join(f"{key}={_readable(value)}" for key, value in event.items())
    return f"{level:8} {escape(str(name))} {fields}".rstrip() + "\n"


def _readable(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_readable(item) for item in value) + "]"
    text = escape(str(value)).replace('"', "\\x22")  # else a value could look like other fields
    return f'"{text}"' if " " in text or not text else text


# Where lines go.  Each takes a line and says whether it went.


def _stream(descriptor: int) -> Callable[[bytes], bool]:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return lambda _line: False
    if stat.S_ISSOCK(mode):
        # The journal: sending without waiting needs no change to what others share.
        stream = socket.socket(fileno=os.dup(descriptor))

        def send(line: bytes) -> bool:
            try:
                return stream.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(line)
            except OSError:
                return False

        return send
    try:
        # A description of our own: O_NONBLOCK on the one that others share would change theirs,
        # and a terminal that polls writable need not have room for a whole line.
        descriptor = os.open(
            f"/proc/self/fd/{descriptor}",
            os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC,
        )
    except OSError:
        pass  # as it is, then
    if stat.S_ISREG(mode):  # poll(2): it is always writable

        def append(line: bytes) -> bool:
            try:
                return os.write(descriptor, line) == len(line)
            except OSError:
                return False

        return append
    writable = select.poll()
    writable.register(descriptor, select.POLLOUT)

    def write(line: bytes) -> bool:
        try:
            # pipe(7): a pipe that polls writable takes PIPE_BUF bytes without waiting.
            for start in range(0, len(line), select.PIPE_BUF):
                if not writable.poll(0):
                    return False
                os.write(descriptor, line[start : start + select.PIPE_BUF])
        except OSError:
            return False
        return True

    return write


def _syslog() -> Callable[[bytes], bool]:
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    name = f"sockbrokerd[{os.getpid()}]: ".encode()

    def send(line: bytes) -> bool:
        priority, _, text = line.rstrip(b"\n")[1:].partition(b">")
        datagram = b"<%d>%s%s" % (_SYSLOG_DAEMON | int(priority), name, text)
        try:
            log.sendto(datagram, socket.MSG_DONTWAIT, "/dev/log")
        except OSError:
            return False
        return True

    return send
