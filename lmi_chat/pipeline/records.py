"""Answer a body of several records in JSON Lines, as SageMaker's batch transform sends it: a line for each, in order.

Each record is a request of its own, with its line in the log; what is wrong with one is its answer and hurts no other.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from lmi_chat import dialects
from lmi_chat.codec import framing, json_text
from lmi_chat.dialects.chat.session import NEW
from lmi_chat.errors import BadField, BadJson, Busy, Error, Problem, TimedOut, TooLarge, unforeseen
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.observability.record import RequestRecord
from lmi_chat.pipeline import metering
from lmi_chat.pipeline.output import ResponseSink
from lmi_chat.pipeline.request import InferenceRequest

ANSWERS_BYTES = 64 * 2**20
"""Of all lines of one answer, which are held until the last is there."""
BUSY_S = 0.5
WARNINGS_MOST = 8
log = logging.getLogger(__name__)


def split(body: bytes, most: int) -> Sequence[bytes]:
    """The lines of a body that are not blank. Raises BadJson for more than `most` lines, blank ones among them."""
    count = body.count(b"\n") + (not body.endswith(b"\n"))
    if count > most:
        raise BadJson(f"the body has {count} lines; at most {most} are read (option.max_lines)")
    return [line for line in body.split(b"\n") if line and not line.isspace()]


class _Document:
    """A ResponseSink for one record's whole answer."""

    data = b""

    async def whole(self, body: bytes, content_type: str) -> None:  # noqa: ARG002 all are JSON
        """Take the answer."""
        self.data = body

    async def start(self, content_type: str) -> None:  # noqa: ARG002 a record that streams is refused
        """Never called."""
        raise TypeError("a record's answer is whole")

    def write(self, data: bytes) -> None:
        """Never called."""

    def fail(self, error: Error, frame: bytes) -> None:
        """Never called."""

    async def end(self) -> None:
        """Never called."""


@dataclass(slots=True, kw_only=True)
class Records:
    """The records of one request: `lines`, answered by `answer_one` within `seconds` of the request's arrival.

    At most `at_once` of them are on their way; those of a session one after the other, so that each is a turn.
    """

    request: InferenceRequest
    lines: Sequence[bytes]
    answer_one: Callable[[InferenceRequest, ResponseSink], Awaitable[None]]
    request_log: RequestLog
    at_once: int
    seconds: float
    is_tgi: bool
    admit: Callable[[], None]  # counts a record towards its caller's rate. Raises RateLimited
    replies: list[bytes] = field(default_factory=list)
    held_bytes: int = 0

    async def answer(self, out: ResponseSink) -> None:
        """Answer all. Raises BadField, and Busy where there is no room for the first record."""
        if self.request.session_id == NEW:
            text = f"session: {NEW} and {len(self.lines)} records in one body; open the session first"
            raise BadField([Problem("session", text)])
        self.request.record.dialect = "records"
        self.replies = [b""] * len(self.lines)
        numbers = iter(range(len(self.lines)))

        async def work() -> None:
            for number in numbers:  # each worker takes the next one
                self.replies[number] = reply = await self._reply(number)
                self.held_bytes += len(reply)
                await asyncio.sleep(0)  # a record that is refused at once has waited for nothing

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(1 if self.request.session_id else min(self.at_once, len(self.lines))):
                    group.create_task(work())
        except* Busy as refused:
            refusals = refused.exceptions
        else:
            refusals = ()
        if refusals:
            raise Busy("there is no room for the first record; send the request again later") from refusals[0]
        await out.whole(b"\n".join(self.replies) + b"\n", framing.LINES.content_type)

    async def _reply(self, number: int) -> bytes:
        """One record's answer, or its error. Raises Busy for the first one."""
        record_id = f"{self.request.id}-{number}"
        began, trace = self.request.record.began, self.request.record.trace
        here = trace.headers() if trace is not None else {}
        one = replace(
            self.request,
            body=self.lines[number],
            id=record_id,
            content_type=framing.DOCUMENT.content_type,
            is_promised=True,
            is_record=True,
            on_body_freed=None,
            warnings=[],
            headers={},
            units=0,
            record=RequestRecord(
                id=record_id,
                began=began,
                traceparent=here.get("traceparent", ""),
                tracestate=here.get("tracestate", ""),
            ),
        )
        document = _Document()
        error: Error
        try:
            with self.request_log.recording(one.record):
                await self._answer(number, one, document)
        except Error as found:
            if number == 0 and isinstance(found, Busy):
                raise
            error = found
        except Exception as failure:
            log.exception("request %s failed", record_id)
            error = unforeseen(failure)
        else:
            self._warn(number, one)
            metering.note(self.request, self.request.units + one.units)
            return document.data.rstrip(b"\n")
        return json_text.dump(
            dialects.error_body(error, one.dialect or one.forced or "", is_tgi=self.is_tgi, request_id=one.id)
        )

    async def _answer(self, number: int, one: InferenceRequest, document: _Document) -> None:
        """Answer a record when there is room for it. Raises its Error."""
        if self.held_bytes > ANSWERS_BYTES:
            raise TooLarge(
                f"the answers before it have {self.held_bytes} bytes; one body holds {ANSWERS_BYTES} of them"
            )
        while True:
            left_s = self.seconds - self.request.record.age_s
            if left_s <= 0:
                raise TimedOut(f"its turn did not come within {self.seconds:g} s")
            one.deadline_s = max(round(left_s, 3), 0.001)
            try:
                return await self.answer_one(one, document)
            except Busy:
                if number == 0:
                    raise
            await asyncio.sleep(BUSY_S)

    def _warn(self, number: int, one: InferenceRequest) -> None:
        room = WARNINGS_MOST - len(self.request.warnings)
        self.request.warnings += [f"record {number}: {text}" for text in one.warnings[: max(0, room)]]
