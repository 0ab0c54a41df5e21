"""Accept asynchronous requests, run them through the pipeline when there is room, and write each answer to a file.

What waits is kept in memory and ends with the process; draining waits for it, as for any accepted request.
"""

import asyncio
import logging
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from lmi_chat import dialects
from lmi_chat.async_requests.folder import Folder, Parts
from lmi_chat.codec import json_text
from lmi_chat.errors import Bug, Busy, Error, TimedOut, unforeseen
from lmi_chat.pipeline.pipeline import InferenceRequest, Pipeline

BUSY_S = 0.5
NAME_BYTES = 255  # of a file
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncRequest:
    """One request: `call`, the file that holds its body (None: `call.body`), the files for its answer or its error.

    `wait_s` is how long it may wait to be started; the time of its answer is the call's own.
    """

    request: InferenceRequest
    source: Parts | None
    output: Parts
    failure: Parts
    wait_s: float


class DocumentBuffer:
    """A ResponseSink that collects the answer as one document."""

    def __init__(self) -> None:
        """Empty."""
        self.data = bytearray()
        self.error: Error | None = None

    async def whole(self, body: bytes, content_type: str) -> None:  # noqa: ARG002 a file has no type
        """Take the whole answer."""
        self.data += body

    async def start(self, content_type: str) -> None:
        """Begin a stream; the document is its frames, joined."""

    def write(self, data: bytes) -> None:
        """Add a frame."""
        self.data += data

    def fail(self, error: Error, frame: bytes) -> None:  # noqa: ARG002 the failure has a document of its own
        """Note that the stream failed."""
        self.error = error

    async def end(self) -> None:
        """Do nothing: the document is complete."""


class AsyncRequests:
    """All asynchronous requests of one server."""

    def __init__(self, pipeline: Pipeline, folder: Folder, *, most: int, at_once: int, max_body_bytes: int) -> None:
        """Hold at most `most` requests; `at_once` of them, with their bodies in memory, are in the pipeline."""
        self.folder = folder
        self._pipeline, self._most, self._max_body_bytes = pipeline, most, max_body_bytes
        self._gate = asyncio.Semaphore(at_once)
        self._held: set[asyncio.Task[None]] = set()
        self._outputs: set[Parts] = set()  # of those that are held

    async def submit(self, asked: AsyncRequest) -> AsyncRequest:
        """Accept a request, under names that no other answer has, and return it.

        Raises the pipeline's refusal, Busy, RateLimited, and for an unreadable file BadField or TooLarge.
        """
        if asked.source is not None:
            await asyncio.to_thread(self.folder.check, asked.source, self._max_body_bytes)
        if self._pipeline.refusal:
            raise self._pipeline.refusal
        if len(self._held) >= self._most:
            raise Busy(f"all {self._most} places for asynchronous requests are taken; send the request again later")
        self._pipeline.admit(asked.request.owner)
        asked = await self._with_own_names(asked)
        asked.request.is_awaited = False
        promise = ExitStack()
        promise.enter_context(self._pipeline.promise())
        asked.request.is_promised = True
        task = asyncio.create_task(self._answer(asked))
        self._held.add(task)
        self._outputs.add(asked.output)
        task.add_done_callback(self._held.discard)
        task.add_done_callback(lambda _: self._outputs.discard(asked.output))
        task.add_done_callback(lambda _: promise.close())
        return asked

    async def _with_own_names(self, asked: AsyncRequest) -> AsyncRequest:
        """Where an answer has that name, or will have it, another is given: nobody's answer is replaced."""
        has = self.folder.has
        if asked.output not in self._outputs:
            taken = [await asyncio.to_thread(has, place) for place in (asked.output, asked.failure)]
            if not any(taken):
                return asked
        mark = uuid.uuid4().hex
        name = f"{mark}-{asked.output[-1]}" if len(asked.output[-1]) + len(mark) < NAME_BYTES else mark
        return replace(asked, output=(*asked.output[:-1], name), failure=(*asked.failure[:-1], name))

    async def _answer(self, asked: AsyncRequest) -> None:
        document = DocumentBuffer()
        try:
            with self._pipeline.request_log.recording(asked.request.record):
                await self._run(asked, document)
        except Error as error:
            document.error = error
        except Exception as unknown:
            log.exception("asynchronous request %s failed", asked.request.id)
            document.error = unforeseen(unknown)
        if document.error is None and not await self._write(asked.output, bytes(document.data)):
            document.error = Bug("the answer could not be written to its output location")
        if document.error is not None:
            is_tgi = self._pipeline.deployment.is_tgi
            failure = dialects.error_body(document.error, asked.request.dialect, is_tgi=is_tgi)
            await self._write(asked.failure, json_text.dump(failure))

    async def _write(self, place: Parts, data: bytes) -> bool:
        """Write a document; False where the disk refuses."""
        try:
            await asyncio.to_thread(self.folder.write, place, data)
        except OSError:
            log.exception("cannot write %s", "/".join(place))
            return False
        return True

    async def _run(self, asked: AsyncRequest, document: DocumentBuffer) -> None:
        """Run the request when the pipeline has room. Raises TimedOut where it was not started within `wait_s`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + asked.wait_s
        expired = TimedOut(f"the request was not started within {asked.wait_s:g} s")
        try:
            async with asyncio.timeout_at(until):
                await self._gate.acquire()
        except TimeoutError:
            raise expired from None
        try:
            if asked.source is not None:
                read = partial(self.folder.read, asked.source, self._max_body_bytes)
                asked.request.body = await asyncio.to_thread(read)
            while True:
                try:
                    return await self._pipeline.answer(asked.request, document)
                except Busy:
                    if loop.time() >= until:
                        raise expired from None
                    await asyncio.sleep(BUSY_S)
        finally:
            asked.request.free_body()
            self._gate.release()
