"""Answers Release: a directory that nobody uses is moved aside, and deleted later.

It is looked at before it is moved aside and again afterwards, because somebody may have come in
between; then it is moved back.  One's own may always be released, also without a rule or an app;
but who has no rule learns nothing from a release that fails.
"""

from __future__ import annotations

from typing import NamedTuple

from sockbroker.core.decision import Refused, decide
from sockbroker.core.service import Answer, Deferred, Failure, Reply
from sockbroker.core.varlink import Call
from sockbroker.disposal import MOST_FOR_A_UID, Disposal
from sockbroker.failures import failure, whom
from sockbroker.folders import Folders
from sockbroker.generation import Generation
from sockbroker.interfaces import Handlers
from sockbroker.kernel.app_folder import Folder
from sockbroker.kernel.obstacles import LimitReached, NoSuchDirectory, Obstructed
from sockbroker.kernel.usage import Tables, usage_of
from sockbroker.record import Record
from sockbroker.session import Session
from sockbroker.sightings import Sightings


class _Request(NamedTuple):
    """One call, checked."""

    session: Session
    app: str
    uid: int
    path: str
    force: bool
    refused: Refused | None
    """What the policy says to one who may learn nothing of a release that fails."""


class Releasing:
    """Takes directories away."""

    def __init__(
        self,
        generation: Generation,
        folders: Folders,
        disposal: Disposal,
        sightings: Sightings,
        record: Record,
    ) -> None:
        self._generation = generation
        self._folders = folders
        self._disposal = disposal
        self._sightings = sightings
        self._record = record

    def handlers(self) -> Handlers:
        """Return the methods that this answers."""
        return {"Release": self._release}

    def _release(self, session: Session, call: Call) -> Answer:
        uid = whom(session, call.parameters["app"], call.parameters.get("uid"))
        if isinstance(uid, Failure):
            return uid
        app = str(call.parameters["app"])
        path = f"{self._folders.base.path}/{app}/{uid}"
        force = call.parameters.get("force") is True
        request = _Request(session, app, uid, path, force, self._refused(session, app))
        moved = self._move_aside(request, None) if request.force else self._look(request)
        if isinstance(moved, str):
            return self._dispose(request, moved)
        if moved is not None:
            return moved
        deferred = Deferred()
        self._sightings.ask(lambda tables: self._go_on(request, tables, deferred))
        return deferred

    def _refused(self, session: Session, app: str) -> Refused | None:
        if session.operator:
            return None
        decision = decide(self._generation.policy, app, session.peer, session.groups)
        return decision if isinstance(decision, Refused) else None

    def _look(self, request: _Request) -> Failure | None:
        """Refuse at once what cannot be released whoever uses it."""
        try:
            with self._folder(request) as folder:
                entry = folder.look(request.uid)
                if entry is None:
                    raise NoSuchDirectory(request.path, request.uid)
                if entry.obstruction is not None:
                    raise Obstructed(request.path, entry.obstruction)
        except (NoSuchDirectory, Obstructed, OSError) as error:
            return self._refuse(request, error)
        return None

    def _go_on(self, request: _Request, tables: Tables | None, answer: Deferred) -> None:
        if answer.cancelled:
            return  # the peer is gone, and nothing is done yet
        moved = self._move_aside(request, tables)
        if isinstance(moved, str):
            self._sightings.ask(lambda again: self._finish(request, moved, again, answer))
        else:
            answer.resolve(moved)

    def _finish(
        self, request: _Request, moved: str, tables: Tables | None, answer: Deferred
    ) -> None:
        """Look again at what is out of the way now, where nobody new can come in by its path."""
        try:
            with self._folder(request) as folder:
                refusal = self._in_use(folder, moved, request, tables)
                if refusal is not None:
                    folder.put_back(moved, request.uid)
                    answer.resolve(refusal)
                    return
        except FileExistsError:
            pass  # its owner has asked for a new one meanwhile
        except (NoSuchDirectory, Obstructed, OSError) as error:
            if self._put_back(request, moved):
                answer.resolve(self._refuse(request, error))
                return
        answer.resolve(self._dispose(request, moved))

    def _put_back(self, request: _Request, moved: str) -> bool:
        """Undo what cannot be finished; False where not even that can be done, and it is gone."""
        try:
            with self._folder(request) as folder:
                folder.put_back(moved, request.uid)
        except (NoSuchDirectory, Obstructed, OSError):
            return False
        return True

    def _move_aside(self, request: _Request, tables: Tables | None) -> str | Failure:
        """Return the name that the directory has now, or why it stays where it is."""
        try:
            with self._folder(request) as folder:
                if not request.force:
                    refusal = self._in_use(folder, str(request.uid), request, tables)
                    if refusal is not None:
                        return refusal
                if not self._disposal.has_room(request.app, request.uid):
                    raise LimitReached("directories waiting to be deleted", MOST_FOR_A_UID)
                return folder.move_aside(request.uid)
        except (NoSuchDirectory, Obstructed, LimitReached, OSError) as error:
            return self._refuse(request, error)

    def _folder(self, request: _Request) -> Folder:
        folder = self._folders.base.find(request.app)
        if folder is None:
            raise NoSuchDirectory(request.path, request.uid)
        return folder

    def _refuse(self, request: _Request, error: Exception) -> Failure:
        peer = request.session.peer
        if request.refused is not None:
            return self._record.deny(request.app, peer, request.refused)
        return self._record.fail("release", request.app, peer, error, request.path)

    def _dispose(self, request: _Request, moved: str) -> Reply:
        self._disposal.add(request.app, moved)
        self._record.change(
            "removed", request.app, request.session.peer, path=request.path, force=request.force
        )
        return Reply()

    def _in_use(
        self, folder: Folder, name: str, request: _Request, tables: Tables | None
    ) -> Failure | None:
        """Say so if it is in use; where that cannot be told, to others than its owner."""
        found = usage_of(folder.fileno(), name, request.uid, tables)
        if found.in_use:
            reason = "a live socket is bound in it, or a process of its owner has marked it"
        elif found.in_use is None and request.uid != request.session.peer.uid:
            reason = "whether it is in use cannot be told"
        else:
            return None
        self._record.in_use(request.app, request.session.peer, request.path, reason)
        return failure("InUse", path=request.path, reason=reason)
