"""The entry point `sockbrokerd`: puts the parts together, becomes a daemon, and ends.

Everything that exists once in the process is made here and handed to who needs it; nothing else
reads the environment, the command line or the clock of a start.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from io import FileIO

import sockbroker.libraries  # noqa: F401  # before all others: see there
from sockbroker import __version__
from sockbroker.broker import Broker
from sockbroker.closing import Closer
from sockbroker.complaints import sentence
from sockbroker.confinement import Confinement
from sockbroker.core.policy import PolicyError
from sockbroker.disposal import Disposal
from sockbroker.folders import Folders
from sockbroker.generation import Generation
from sockbroker.interfaces import service
from sockbroker.kernel.directories import Base, BaseLocked
from sockbroker.kernel.listeners import ListenerError
from sockbroker.kernel.loop import Loop, block_signals
from sockbroker.kernel.null_device import open_null
from sockbroker.kernel.policyfile import PolicyFileError
from sockbroker.kernel.root_path import DirectoryError, open_root_path
from sockbroker.kernel.service_manager import Inherited, Notifier, systemd_is_running, take
from sockbroker.kernel.worker import Worker
from sockbroker.launch import Launch, in_background
from sockbroker.layout import Dispose, Report
from sockbroker.listing import Listing
from sockbroker.loading import look_up, problems_of, read
from sockbroker.logs import Logger, logger_for, syslog_logger
from sockbroker.options import Options, read_options
from sockbroker.pidfile import PidFile
from sockbroker.record import Record
from sockbroker.releasing import Releasing
from sockbroker.server import Server
from sockbroker.sightings import Sightings
from sockbroker.sockets import Sockets
from sockbroker.status import Status
from sockbroker.uninstall import remove_directories

SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)

MOST_DESCRIPTORS = 8192
"""More than the connections, folders and workers ever need; python-daemon 2 tries to close each
descriptor up to the limit, which a container may set to a billion."""

NICE = -4
"""Enough to get a processor before those who flood it.  With -5 the kernel interrupts whoever
comes between connecting and asking, and a request takes a fifth longer."""

MOST_CONNECTIONS = 4096
"""As many as systemd's own Varlink services take; less where descriptors are few."""

SECONDS_TO_DRAIN = 4.0
"""What running calls get at the end; the contract gives the whole end 5."""

SECONDS_UNHEARD = 1.0
"""What a peer that was accepted and has not spoken yet gets at the end."""

SECONDS_BETWEEN_PROGRESS = 1.0

EXIT_POLICY = 65  # EX_DATAERR, sysexits(3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; returns its exit status."""
    block_signals(SIGNALS)
    try:
        _open_standard_descriptors()
    except OSError as error:
        return _complain(sentence("opening standard input and output", error))
    inherited = take(os.environ, os.getpid())
    os.umask(0o077)
    options = read_options(arguments)
    if os.geteuid() != 0:
        return _complain("sockbrokerd makes directories for others, so it must be started by root")
    if options.remove_directories:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return remove_directories(options.base, force=options.force)
    try:
        _limit_descriptors()
        _take_precedence()
        if not options.daemonize:
            return _foreground(options, inherited)
        if systemd_is_running() and options.base == "/run":
            return _complain("systemd runs this machine; use: systemctl start sockbroker.service")
        return in_background(lambda launch: _background(options, launch))
    except OSError as error:
        return _complain(sentence("becoming a daemon", error))


def _complain(text: str) -> int:
    print(f"sockbrokerd: {text}", file=sys.stderr)
    return 1


def _open_standard_descriptors() -> None:
    """Fill 0, 1 and 2 if they are closed: the lock must not become standard input, and be lost."""
    while (descriptor := open_null()) <= 2:
        continue
    os.close(descriptor)
    # Python has no stream where there was no descriptor, and python-daemon wants all three.
    sys.stdin = sys.stdin or os.fdopen(0, "r", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _limit_descriptors() -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if most < hard or hard == resource.RLIM_INFINITY:  # else a service manager has seen to it
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        except ValueError as error:  # what it makes of EPERM
            raise OSError(errno.EPERM, f"the limit of open files: {error}") from error


def _take_precedence() -> None:
    """Get a processor before those who flood it: what others ask takes little of it."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError:
        return  # a service manager has given its own, or a container may not


def _foreground(options: Options, inherited: Inherited) -> int:
    _detach(detach_process=False, files_preserve=list(inherited.descriptors), output=True)
    # Made after it: the context has closed every descriptor that it does not know.
    logger = logger_for(2, inherited.journal_stream)
    return Daemon(options, inherited, logger).run(Launch(None))


def _background(options: Options, launch: Launch) -> int:
    try:
        _detach(detach_process=True, files_preserve=launch.descriptors(), output=False)
        daemon = Daemon(options, Inherited(), syslog_logger())
    except OSError as error:
        launch.failed((sentence("becoming a daemon", error),), 1)
        return 1
    return daemon.run(launch)


def _detach(*, detach_process: bool, files_preserve: list[int], output: bool) -> None:
    """Become a daemon, with the caller's output or none; OSError if the kernel refuses."""
    # After the limit: 2.3 lists every possible descriptor.
    from daemon.daemon import DaemonContext, DaemonError

    with FileIO(open_null()) as null:  # python-daemon's own would have to be /dev/null
        try:
            DaemonContext(
                detach_process=detach_process,
                chroot_directory=None,
                working_directory="/",
                umask=0o077,
                uid=None,
                gid=None,
                initgroups=False,
                prevent_core=True,
                files_preserve=files_preserve,
                pidfile=None,  # written by ourselves, and for information only
                signal_map={},  # the loop has its own
                stdin=null,
                stdout=sys.stdout if output else null,
                stderr=sys.stderr if output else null,
            ).open()
        except (ValueError, DaemonError) as error:  # `resource` makes ValueErrors of some errors
            cause = error.__cause__
            raise (cause if isinstance(cause, OSError) else OSError(str(error))) from error


class Daemon:
    """One run, from the lock to the last reply."""

    def __init__(self, options: Options, inherited: Inherited, log: Logger) -> None:
        self._options = options
        self._inherited = inherited
        self._log = log
        self._doing = "reading the policy"
        """The part of the start that is under way, for who has to mend what is in its way."""
        self._notifier = Notifier(inherited.notify_socket)

    def run(self, launch: Launch) -> int:
        """Start, tell `launch` how that went, serve, and end; returns the exit status."""
        # Until the loop takes them these simply end a start: what is half done, the next one mends.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
        try:
            with ExitStack() as stack:
                try:
                    self._start(stack, launch)
                except (PolicyError, PolicyFileError) as error:
                    return self._fail(launch, problems_of(error), EXIT_POLICY)
                except (BaseLocked, DirectoryError, ListenerError) as error:
                    return self._fail(launch, (str(error),), 1)
                except OSError as error:
                    return self._fail(launch, (sentence(self._doing, error),), 1)
                self._loop.run(self._server.between)
        except Exception as fault:
            self._log.critical("fault", fault=fault)
            return self._fail(launch, (f"a fault of the program: {fault!r}",), 1)
        self._log.info("stopped")
        return 0

    def _fail(self, launch: Launch, problems: Sequence[str], status: int) -> int:
        self._log.critical("not started", problems=list(problems))
        self._notifier.tell(f"STATUS=not started: {problems[0]}")
        launch.failed(problems, status)
        return status

    def _start(self, stack: ExitStack, launch: Launch) -> None:
        options = self._options
        sys.setswitchinterval(0.0005)  # else a worker that computes holds each call up by 5 ms
        document = read(options.policy)  # a bad one ends the start before anything is touched
        self._doing = "making sure of the broker's own directory"
        _look_for_proc()
        os.close(open_root_path(options.runtime_directory, make_mode=0o755))
        confinement = Confinement(options.base, options.runtime_directory)
        confinement.confine_mounts()
        self._doing = f"taking {options.base} for this broker"
        base = stack.enter_context(Base.open(options.base))
        base.lock()
        own = open_root_path(options.runtime_directory, make_mode=0o755)
        stack.callback(os.close, own)
        self._doing = "listening"
        sockets = Sockets(
            control_name=options.control_name,
            runtime_directory=options.runtime_directory,
            log=self._log,
        )
        stack.callback(sockets.close)
        sockets.set_up(self._inherited.descriptors)
        stack.enter_context(PidFile(own, "sockbrokerd.pid", self._log))
        confinement.confine()
        if confinement.missing:
            self._log.warning("not all that confines holds", missing=confinement.missing)
        self._doing = "looking up the names of the policy"
        policy = look_up(document)

        self._doing = "setting up what serves"
        loop = self._loop = Loop()
        stack.callback(loop.close)
        folders = Folders(base)
        stack.callback(folders.close)
        reader, look_ups, remover = (
            Worker(name, loop.call_from_thread) for name in ("policy", "accounts", "removal")
        )
        disposal = Disposal(
            folders, loop, remover, lambda text: self._log.warning("not deleted", why=text)
        )
        stack.callback(disposal.stop)

        generation = self._generation = Generation(
            options.policy,
            document,
            policy,
            folders=folders,
            loop=loop,
            worker=reader,
            log=self._log,
            changed=self._tell_status,
        )
        self._set_up_disk(generation, disposal.add, launch)

        record = Record(self._log)
        sightings = Sightings(Worker("sightings", loop.call_from_thread))
        broker = Broker(generation, folders, look_ups, record)
        releasing = Releasing(generation, folders, disposal, sightings, record)
        listing = Listing(generation, folders, sightings, record)
        self._status = Status(
            __version__,
            generation=generation,
            sockets=sockets,
            disposal=disposal,
            record=record,
            confinement=confinement.held,
            server=lambda: self._server,
        )
        self._server = Server(
            loop,
            service(
                {
                    **broker.handlers(),
                    **releasing.handlers(),
                    **listing.handlers(),
                    **self._status.handlers(),
                }
            ),
            most_connections=_most_connections(),
            closer=Closer(Worker("closer", loop.call_from_thread)),
            fault=lambda peer, error: self._log.error(
                "fault", uid=peer.uid, pid=peer.pid, fault=error
            ),
            violation=lambda peer, error: record.violation(peer, str(error)),
        )
        stack.callback(self._server.close)
        sockets.serve(
            loop,
            lambda listener, operator: self._server.listen(listener, operator=operator),
            self._tell_status,
        )
        loop.on_signal(signal.SIGHUP, self._reload)
        loop.on_signal(signal.SIGTERM, self._drain)
        loop.on_signal(signal.SIGINT, self._drain)
        if self._inherited.watchdog_seconds:
            self._feed_watchdog(self._inherited.watchdog_seconds / 2)
        self._notifier.ready(self._status.line())
        self._log.info(
            "ready",
            version=__version__,
            sockets=sockets.names(),
            policy=options.policy,
            apps=len(policy.apps),
            confined=confinement.held,
            state=self._status.state,
            problems=self._status.problems()[:20],
        )
        launch.ready()

    def _set_up_disk(self, generation: Generation, dispose: Dispose, launch: Launch) -> None:
        """Bring the disk to the policy before anybody is served, and tell how far it is."""
        report = Report()
        began = told = time.monotonic()
        for _ in generation.set_up(report, dispose):
            now = time.monotonic()
            if now - told >= SECONDS_BETWEEN_PROGRESS:
                told = now
                text = f"setting up: {report.seen} directories so far"
                self._notifier.extend_start(30, text)
                self._log.info("setting up", directories=report.seen)
                launch.progress(text)
        self._log.info(
            "set up",
            created=report.created,
            repaired=report.repaired,
            right=report.right,
            seconds=round(time.monotonic() - began, 3),
        )

    def _tell_status(self) -> None:
        self._notifier.status(self._status.line())

    def _reload(self) -> None:
        self._notifier.reloading()
        self._generation.reload(lambda _problems: self._notifier.ready(self._status.line()))

    def _feed_watchdog(self, seconds: float) -> None:
        self._notifier.alive()
        self._loop.call_later(seconds, lambda: self._feed_watchdog(seconds))

    def _drain(self) -> None:
        """Take no more peers, let what runs end, and go."""
        if self._status.draining:
            return
        self._status.draining = True
        self._notifier.stopping()
        self._server.stop_listening()
        began = time.monotonic()

        def look() -> None:
            waited = time.monotonic() - began
            left = self._server.drain(unheard_too=waited >= SECONDS_UNHEARD)
            if not left or waited >= SECONDS_TO_DRAIN:
                self._loop.stop()
            else:
                self._loop.call_later(0.02, look)

        look()


def _look_for_proc() -> None:
    """Modes and owners are set by the paths of descriptors, and the use of directories is there."""
    if not os.path.isdir("/proc/self/fd"):
        raise DirectoryError("/proc: no proc file system is mounted there; mount one")


def _most_connections() -> int:
    """Leave a quarter of the descriptors for folders, files and what else is open."""
    return min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4)


if __name__ == "__main__":
    sys.exit(main())
