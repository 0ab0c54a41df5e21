"""Hold conversations in memory, so that a request need only bring its new turn; no HTTP here.

They live in memory, end at a fixed time after they began, and are bounded in number and bytes: the oldest go first.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from lmi_chat.codec.json_text import dump
from lmi_chat.errors import BadField, Conflict, Problem
from lmi_chat.text import echo

Message = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Session:
    """One conversation; `expires_at` is a wall-clock time in seconds since 1970."""

    id: str
    expires_at: float
    messages: list[Message] = field(default_factory=list)
    bytes: int = 0
    turn: "Turn | None" = None

    def with_turn(self, messages: Sequence[Message]) -> list[Message]:
        """Return the whole conversation: `messages` are its next turn, or all of it once more."""
        held = len(self.messages)
        if held and _said(messages[:held]) == _said(self.messages):
            return list(messages)
        return [*self.messages, *messages]


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


def _said(messages: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return the parts of a message that identify it: clients send theirs back with keys added."""
    return [(one.get("role"), one.get("content")) if isinstance(one, dict) else (None, one) for one in messages]


class Sessions:
    """All sessions of one server."""

    def __init__(self, *, seconds: float, most: int, most_bytes: int = 2**28) -> None:
        """A session ends `seconds` after it began; at most `most` are held, with `most_bytes` of conversation."""
        self._seconds, self._most, self._most_bytes = seconds, most, most_bytes
        self._held: dict[str, Session] = {}
        self.bytes = 0

    def open(self) -> Session:
        """Open a session."""
        return self.add(self.draft())

    def draft(self) -> Session:
        """Make a session that begins with `add`."""
        return Session(id=str(uuid.uuid4()), expires_at=time.time() + self._seconds)

    def add(self, session: Session) -> Session:
        """Add a draft; the oldest session makes room."""
        self._forget_expired()
        while len(self._held) >= self._most:
            self._drop(next(iter(self._held.values())))
        self._held[session.id] = session
        return session

    def get(self, session_id: str) -> Session:
        """Return a session by its id. Raises BadField for one that is unknown, closed or expired."""
        self._forget_expired()
        session = self._held.get(session_id)
        if session is None:
            text = f"session {echo(session_id)} is unknown: it never began here, was closed, or has expired"
            raise BadField([Problem("session", text)])
        return session

    def close(self, session_id: str) -> Session:
        """Close a session. Raises BadField as `get`."""
        session = self.get(session_id)
        self._drop(session)
        return session

    def store(self, session: Session, messages: list[Message]) -> None:
        """Store `messages` as the conversation so far; the oldest sessions make room for it."""
        if session.id not in self._held:
            return
        size = len(dump(messages))
        self.bytes += size - session.bytes
        session.messages, session.bytes = messages, size
        while self.bytes > self._most_bytes:
            self._drop(next(iter(self._held.values())))

    def _drop(self, session: Session) -> None:
        del self._held[session.id]
        self.bytes -= session.bytes

    def _forget_expired(self) -> None:
        now = time.time()
        while self._held:  # they expire in the order in which they began
            oldest = next(iter(self._held.values()))
            if oldest.expires_at > now:
                return
            self._drop(oldest)
