"""The daemon with all its modules imported, which forks for each start; run as a program.

    python many_starts.py sockbroker.daemon DESCRIPTOR

Each message on the socket DESCRIPTOR is a JSON array.  ["begin", LOG, ARGUMENT...] forks a daemon,
which stops before its first own step, for a tracer to come and to send SIGCONT; the answer is its
pid.  ["end", PID] waits for the end of one; the answer is its exit status.  So what an interpreter
does before it runs the program is not in the way of a tracer that counts, and takes no time.
"""

import json
import os
import shutil
import signal
import sys

import daemon as python_daemon
import yaml

from sockbroker import daemon

ELSE_IMPORTED_DURING_THE_START = (python_daemon, shutil, yaml)

LARGEST = 65536


def main() -> int:
    """Serve; in each fork, be the daemon."""
    channel = int(sys.argv[2])  # a number and no object, which would be closed in the forks
    while message := os.read(channel, LARGEST):
        what, *rest = json.loads(message)
        if what == "begin":
            answer = os.fork()
            if answer == 0:
                os.close(channel)
                return be_the_daemon(*rest)
            os.waitpid(answer, os.WUNTRACED)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(rest[0], 0)[1])
        os.write(channel, json.dumps(answer).encode())
    return 0


def be_the_daemon(log: str, *arguments: str) -> int:
    """Run it as its command does, with its output in a file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    os.kill(os.getpid(), signal.SIGSTOP)
    return daemon.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
