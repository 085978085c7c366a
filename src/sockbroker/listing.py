"""Answers List: the directories as they are on disk, one a reply.

Nothing is remembered between calls.  A directory is told with what the policy in force wants of it
and with what the kernel's tables say of its use; both may be others a moment later.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from sockbroker.core.decision import Refused, decide
from sockbroker.core.policy import Policy
from sockbroker.core.service import Answer, Deferred, Failed, Failure, Replies, Series
from sockbroker.core.varlink import Call, encode_parameters
from sockbroker.failures import failure, from_fault, user, whom
from sockbroker.folders import Folders
from sockbroker.generation import Generation
from sockbroker.interfaces import Handlers
from sockbroker.kernel.app_folder import Folder, Wanted
from sockbroker.kernel.directories import Base
from sockbroker.kernel.obstacles import Obstructed
from sockbroker.kernel.survey import Sight, Survey
from sockbroker.kernel.usage import Tables
from sockbroker.record import Record
from sockbroker.session import Session
from sockbroker.sightings import Sightings

SECONDS_OF_A_TURN = 0.001
"""Of looking at directories before others have their turn; their owners decide how much is in."""


class Listing:
    """Tells what there is."""

    def __init__(
        self, generation: Generation, folders: Folders, sightings: Sightings, record: Record
    ) -> None:
        self._generation = generation
        self._folders = folders
        self._sightings = sightings
        self._record = record

    def handlers(self) -> Handlers:
        """Return the methods that this answers."""
        return {"List": self._list}

    def _list(self, session: Session, call: Call) -> Answer:
        app, uid = call.parameters.get("app"), call.parameters.get("uid")
        if uid is None and not session.operator:
            uid = session.peer.uid
        if uid is not None:
            uid = user(session, uid)
            if isinstance(uid, Failure) and app is None:
                return uid
        if app is not None:
            refusal = self._refusal(session, app, uid)
            if refusal is not None:
                return refusal
        nothing = failure("NoSuchDirectory", app=app, uid=uid)
        deferred = Deferred()

        def seen(tables: Tables | None) -> None:
            name = None if app is None else str(app)
            number = uid if isinstance(uid, int) else None
            deferred.resolve(Series(self._directories(name, number, tables, nothing)))

        self._sightings.ask(seen)
        return deferred

    def _refusal(self, session: Session, app: object, uid: object) -> Failure | None:
        named = whom(session, app, None)
        if isinstance(named, Failure):
            return named
        if isinstance(uid, Failure):
            return uid
        if session.operator:
            return None
        decision = decide(self._generation.policy, str(app), session.peer, session.groups)
        if isinstance(decision, Refused):
            return self._record.deny(str(app), session.peer, decision)
        return None

    def _directories(
        self, app: str | None, uid: int | None, tables: Tables | None, nothing: Failure
    ) -> Replies:
        """Yield the directories of an app, or of all; of a uid, or of all; Failed if there is none.

        None in between gives the others their turn: folders, directories and what is in them may be
        many.
        """
        written: list[str] = []
        found = False
        end = time.monotonic() + SECONDS_OF_A_TURN
        try:
            for text in self._texts(app, uid, tables):
                if text is not None:
                    found = True
                    written.append(text)
                if time.monotonic() > end:
                    yield written or None
                    written = []
                    end = time.monotonic() + SECONDS_OF_A_TURN
        except OSError as error:
            if written:
                yield written
            raise Failed(from_fault(error, self._folders.base.path)) from error
        if written:
            yield written
        if not found:
            raise Failed(nothing)

    def _texts(
        self, app: str | None, uid: int | None, tables: Tables | None
    ) -> Iterator[str | None]:
        """Describe each directory, with None for work that comes to no text."""
        for name in sorted(self._generation.folders) if app is None else (app,):
            yield None
            folder = _find(self._folders.base, name)
            if folder is None:
                continue
            with folder:
                uids = [] if uid is None else [uid]
                for each in folder.uids() if uid is None else ():
                    uids.append(each)
                    yield None
                uids.sort()
                survey = Survey(folder, tables)
                texts = _Texts(folder, self._generation.policy)
                for each in uids:
                    sight = survey.look(each)
                    if texts.policy is not self._generation.policy:  # reloaded meanwhile
                        texts = _Texts(folder, self._generation.policy)
                    yield None if sight is None else texts.text(each, sight)


def _find(base: Base, app: str) -> Folder | None:
    """Open an app's folder to list it; one that is not safe has nothing that could be told."""
    try:
        return base.find(app)
    except Obstructed:
        return None


class _Texts:
    """Writes the replies about the directories of a folder, which have most in common."""

    def __init__(self, folder: Folder, policy: Policy) -> None:
        self.policy = policy
        self._folder = folder
        self._beginning = f'{{"directory":{{{_members(app=folder.app)},"uid":'
        self._rest: dict[Sight, tuple[str, str]] = {}

    def text(self, uid: int, sight: Sight) -> str:
        """Describe the directory of `uid`, in the order of the interface."""
        rest = self._rest.get(sight)
        if rest is None:
            rest = self._rest[sight] = self._describe(sight)
        name = self.policy.user_names.get(uid)
        user = "" if name is None else f",{_members(userName=name)}"
        return f"{self._beginning}{uid}{user}{rest[0]}{uid}{rest[1]}"

    def _describe(self, sight: Sight) -> tuple[str, str]:
        """Write what follows the user's name: what is before the uid in the path, and behind it."""
        path = _members(
            gid=sight.gid,
            groupName=self.policy.group_names.get(sight.gid),
            path=f"{self._folder.path}/",
        )
        others = _members(
            mode=f"{sight.mode:04o}",
            state=_state(self._folder, sight, self.policy),
            inUse=sight.usage.in_use,
            sockets=sight.usage.sockets,
        )
        return f",{path[:-1]}", f'",{others}}}}}'


def _members(**members: object) -> str:
    return encode_parameters(members)[1:-1]


def _state(folder: Folder, sight: Sight, policy: Policy) -> str:
    if folder.app in policy.unserved:
        return "unserved"  # its group has no gid for now
    app = policy.apps.get(folder.app)
    if app is None:
        return "orphaned"
    return folder.state(sight.entry(), Wanted(mode=app.mode, gid=app.gid))
