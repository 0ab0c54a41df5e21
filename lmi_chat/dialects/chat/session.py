"""Read session requests (`requestType` NEW_SESSION and CLOSE) and SageMaker's headers around a session.

Source: Amazon SageMaker, "Stateful sessions" (header names and the form of `Expires`); LMI's answer bodies.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects.chat import request as chat
from lmi_chat.dialects.chat.answer import SessionAnswer
from lmi_chat.dialects.chat.body import SESSIONS, SessionBody
from lmi_chat.dialects.chat.messages import CALL, SHOWN
from lmi_chat.dialects.chat.response import calls_of, content_of
from lmi_chat.dialects.checks import check_model
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.sequence import SequenceState
from lmi_chat.dialects.task import ParsedRequest, Renderer
from lmi_chat.errors import BadField, Error, Problem
from lmi_chat.job import Delta, Finished, Job
from lmi_chat.storage.sessions import Message, Session, Sessions

NEW, CLOSE = SESSIONS
KEPT = SHOWN | {CALL}
"""What a held message has: an older call of a function, too, which the next turn reads anew."""


def headers_of_new(session: Session) -> Mapping[str, str]:
    """What tells the client and the platform the session's id and end."""
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(session.expires_at))
    told = f"{session.id}; Expires={ends}"
    return {"X-Amzn-SageMaker-New-Session-Id": told, "X-Amzn-SageMaker-Session-Id": told}


def answer(
    body: Json, deployment: Deployment, sessions: Sessions | None, session_id: str, owner: str = ""
) -> tuple[bytes, Mapping[str, str]]:
    """Open or close a session of `owner`: its document and headers. Raises BadField, NotFound, Busy.

    An unknown key is refused, as AWS's hosting standard has it: dropped in silence it would be missed in every turn.
    """
    check_model(body.get("model"), deployment)
    reader = BodyReader(deployment)
    reader.read(body, SessionBody)
    kind = reader.get("requestType")
    if kind is None and not reader.problems:
        reader.add_problem("requestType", f"must be one of {', '.join(SESSIONS)}, got null")
    reader.finish(is_strict=True)
    if sessions is None:
        text = "requestType is not served: sessions are off (option.enable_stateful_sessions)"
        raise BadField([Problem("requestType", text)])
    if kind == NEW:
        session = sessions.open(owner)
        return _result(f"Session {session.id} created"), headers_of_new(session)
    if not session_id:
        text = "requestType CLOSE needs the session's id in the header X-Amzn-SageMaker-Session-Id"
        raise BadField([Problem("requestType", text)])
    closed = sessions.close(session_id, owner)
    headers = {"X-Amzn-SageMaker-Closed-Session-Id": closed.id}
    return _result(f"Session {closed.id} closed"), headers


def _result(text: str) -> bytes:
    answer: SessionAnswer = {"result": text}
    return dump(answer)


def parse_chat(
    body: Json, deployment: Deployment, request_id: str, session: Session, sessions: Sessions
) -> ParsedRequest:
    """A chat body in a session: its messages follow those that are held. Raises as chat.parse."""
    turn = body.get("messages")
    messages = session.with_turn(turn) if isinstance(turn, list) else turn
    task = chat.parse(body | {"messages": messages}, deployment, request_id)
    if task.job.width != 1 or messages is None:
        raise BadField([Problem("n", f"n must be 1 in a session, got {task.job.width} sequences")])
    seen = [{name: value for name, value in message.items() if name in KEPT} for message in messages]
    task.render = Remembering(task.render, task.job, partial(sessions.store, session), seen)
    return task


class Remembering:
    """A render that keeps the conversation and its answer in the session, once the answer is complete.

    What the model thought is kept, too: whether a later turn shows it again is its template's to say.
    """

    def __init__(
        self, shown: Renderer, job: Job, keep: Callable[[list[Message]], None], messages: Sequence[Message]
    ) -> None:
        """Show the answer to `job` by `shown`, keep it by `keep`; `messages` are the conversation up to it."""
        self._shown, self._keep, self._messages = shown, keep, messages
        self._state = SequenceState(job)

    @property
    def held_bytes(self) -> int:
        """What the shown one keeps."""
        return self._shown.held_bytes

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Keep its text, and show it."""
        self._state.take(delta, is_shown=True)
        return self._shown.delta(delta)

    def done(self, done: Finished) -> Sequence[bytes]:
        """The turn is complete."""
        message: Message = {"role": "assistant", "content": content_of(self._state)}
        if self._state.reasoning:
            message["reasoning"] = self._state.reasoning
        if self._state.calls:
            message["tool_calls"] = calls_of(self._state)
        self._keep([*self._messages, message])
        return self._shown.done(done)

    def fail(self, error: Error) -> bytes:
        """The turn is not kept."""
        return self._shown.fail(error)
