"""Hold conversations in memory, so that a request need only bring its new turn; no HTTP here.

They live in memory, end at a fixed time after they began, and are bounded in number and bytes. The oldest make room,
but none that is younger than FLOOR_S, so that nobody ends everyone's sessions by opening many; and an owner who holds
half of all makes room with its own. A conversation is held as JSON, and counted as it is held.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import orjson

from lmi_chat.codec.json_text import dump
from lmi_chat.errors import BadField, Busy, Conflict, Problem
from lmi_chat.observability import refusals
from lmi_chat.text import echo

Message = dict[str, Any]
FLOOR_S = 60.0
OWNER_PART = 2
"""One owner's sessions are at most such a part of all."""


@dataclass(slots=True, kw_only=True)
class Session:
    """One conversation; `expires_at` is a wall-clock time in seconds since 1970, `document` its messages as JSON.

    `owner` is the name of the API key that began it.
    """

    id: str
    expires_at: float
    owner: str = ""
    began: float = field(default_factory=time.monotonic)
    document: bytes = b"[]"
    turn: "Turn | None" = None

    @property
    def messages(self) -> list[Message]:
        """The conversation so far."""
        return orjson.loads(self.document)  # type: ignore[no-any-return]

    @property
    def is_young(self) -> bool:
        """Whether it may not be ended yet to make room for others."""
        return time.monotonic() - self.began < FLOOR_S

    def with_turn(self, messages: Sequence[Message]) -> list[Message]:
        """Return the whole conversation: `messages` are its next turn, or all of it once more."""
        held = self.messages
        if held and _said(messages[: len(held)]) == _said(held):
            return list(messages)
        return [*held, *messages]


_turns = Lock()  # of all sessions: it is held for an assignment


@dataclass(slots=True, eq=False)
class Turn:
    """One request in a session. It excludes others from `begin` to `end`, which may come from different threads.

    Only what uses the held conversation begins: a request that passes it by never meets a Conflict.
    """

    session: Session
    is_over: bool = False

    def begin(self) -> Session:
        """Hold the session. Raises Conflict while it answers another turn."""
        with _turns:
            if self.session.turn is not None:
                raise Conflict(f"session {self.session.id} is answering another request; send one turn at a time")
            if not self.is_over:  # else its client has gone while this was on its way
                self.session.turn = self
        return self.session

    def end(self) -> None:
        """Let go of the session; a `begin` that comes later holds nothing."""
        with _turns:
            self.is_over = True
            if self.session.turn is self:
                self.session.turn = None


def _said(messages: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return the parts of a message that identify it: clients send theirs back with keys added.

    Some write the content of a call of tools, which is null, as an empty text.
    """
    return [
        (one.get("role"), one.get("content") or "", _call_ids(one.get("tool_calls")))
        if isinstance(one, dict)
        else (None, one)
        for one in messages
    ]


def _call_ids(calls: object) -> list[object]:
    return [call.get("id") if isinstance(call, dict) else call for call in calls] if isinstance(calls, list) else []


class Sessions:
    """All sessions of one server."""

    def __init__(self, *, seconds: float, most: int, most_bytes: int = 2**28) -> None:
        """A session ends `seconds` after it began; at most `most` are held, with `most_bytes` of conversation."""
        self._seconds, self._most, self._most_bytes = seconds, most, most_bytes
        self._held: dict[str, Session] = {}
        self.bytes = 0

    def open(self, owner: str = "") -> Session:
        """Open a session. Raises Busy as `add`."""
        return self.add(self.draft(owner))

    def draft(self, owner: str = "") -> Session:
        """Make a session that begins with `add`."""
        return Session(id=str(uuid.uuid4()), expires_at=time.time() + self._seconds, owner=owner)

    def add(self, session: Session) -> Session:
        """Add a draft; the oldest session makes room. Raises Busy where all are too young for that."""
        self._forget_expired()
        own = [other for other in self._held.values() if session.owner and other.owner == session.owner]
        if len(own) >= max(1, self._most // OWNER_PART):
            self._drop(own[0])
        while len(self._held) >= self._most:
            oldest = next(iter(self._held.values()))
            if oldest.is_young:
                text = f"all {self._most} sessions (max_sessions) have begun within the last {FLOOR_S:g} s"
                refusals.record("max_sessions", text)
                raise Busy(f"{text}; send the request again later")
            self._drop(oldest)
        self._held[session.id] = session
        self.bytes += len(session.document)
        return session

    def get(self, session_id: str, owner: str = "") -> Session:
        """Return a session of `owner` by its id. Raises BadField for one that is unknown, closed or expired."""
        self._forget_expired()
        session = self._held.get(session_id)
        if session is None or session.owner != owner:
            text = f"session {echo(session_id)} is unknown: it never began here, was closed, or has expired"
            raise BadField([Problem("session", text)])
        return session

    def close(self, session_id: str, owner: str = "") -> Session:
        """Close a session. Raises BadField as `get`."""
        session = self.get(session_id, owner)
        self._drop(session)
        return session

    def store(self, session: Session, messages: list[Message]) -> None:
        """Store `messages` as the conversation so far.

        Older sessions make room for it; where all are young, this one ends itself, and its next turn is told so.
        """
        if session.id not in self._held:
            return
        document = dump(messages)
        self.bytes += len(document) - len(session.document)
        session.document = document
        while self.bytes > self._most_bytes:
            oldest = next((other for other in self._held.values() if not other.is_young), session)
            refusals.record("max_session_bytes", f"sessions hold more than {self._most_bytes} bytes; one was ended")
            self._drop(oldest)

    def _drop(self, session: Session) -> None:
        del self._held[session.id]
        self.bytes -= len(session.document)

    def _forget_expired(self) -> None:
        now = time.time()
        while self._held:  # they expire in the order in which they began
            oldest = next(iter(self._held.values()))
            if oldest.expires_at > now:
                return
            self._drop(oldest)
