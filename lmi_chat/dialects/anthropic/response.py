"""Render messages in Anthropic's form: a stream of events, or the document that is their fold.

Shapes: Anthropic API reference, "Create a Message", "Streaming Messages" and "Errors".
"""

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from lmi_chat.codec.json_text import dump
from lmi_chat.dialects.anthropic.answer import (
    AnthropicError,
    AnthropicFault,
    AnthropicMessage,
    BlockDelta,
    ContentBlock,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    ErrorType,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    StopReason,
)
from lmi_chat.dialects.call_order import CallOrder, PartKey, part_key
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.task import TokenRenderer
from lmi_chat.errors import Error, NoThreads
from lmi_chat.job import Delta, Finish, Finished, Job

TYPES: Mapping[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    507: "overloaded_error",
}
CLIENT, SERVER = 400, 500
BlockEvent = ContentBlockStart | ContentBlockDelta | ContentBlockStop


def error_body(error: Exception) -> AnthropicError:
    """An Error as Anthropic's API has it; whose request it was stands where that is known."""
    if not isinstance(error, Error):
        error = Error("internal error")
    other: ErrorType = "invalid_request_error" if CLIENT <= error.status < SERVER else "api_error"
    kind = TYPES.get(error.status, other)
    fault: AnthropicFault = {"type": kind, "message": error.message}
    if isinstance(error, NoThreads):
        fault["details"] = {"error_code": "thread_unsupported_request"}
    return {"type": "error", "error": fault, "request_id": None}


class Blocks:
    """The blocks of a message as its deltas make them: what each delta does to them, as a stream's events."""

    def __init__(self, *, is_plain: bool) -> None:
        """`is_plain`: nothing is taken out of the text, which is one block then, open from the first delta on."""
        self._is_plain = is_plain
        self.stop: Finish | None = None
        self.has_called = False
        self._index = -1
        self._open: PartKey | None = None
        self._order = CallOrder()
        self._thought = hashlib.sha256()

    def take(self, delta: Delta) -> list[BlockEvent]:
        """The events of one delta; the last one ends the open block. A block is whole before the next one begins."""
        return [event for each in self._order.take(delta) for event in self._take(each)]

    def _take(self, delta: Delta) -> list[BlockEvent]:
        events: list[BlockEvent] = []
        if self._is_plain and self._index < 0:
            self._open = part_key(delta)
            events.append(self._begin(Delta(0, "", [])))
        key = part_key(delta)
        if delta.text or (delta.call is not None and delta.call.name):
            if key != self._open:
                events += self.close()
                events.append(self._begin(delta))
                self._open = key
            if delta.text:
                events.append({"type": "content_block_delta", "index": self._index, "delta": self._piece(delta)})
        if delta.finish is not None:
            self.stop = delta.finish
            events += self.close()
        return events

    def _begin(self, delta: Delta) -> ContentBlockStart:
        self._index += 1
        block: ContentBlock
        if delta.call is not None:
            self.has_called = True
            block = {"type": "tool_use", "id": delta.call.id, "name": delta.call.name, "input": {}}
        elif delta.kind == "reasoning":
            self._thought = hashlib.sha256()
            block = {"type": "thinking", "thinking": "", "signature": ""}
        else:
            block = {"type": "text", "text": ""}
        return {"type": "content_block_start", "index": self._index, "content_block": block}

    def _piece(self, delta: Delta) -> BlockDelta:
        if delta.call is not None:
            return {"type": "input_json_delta", "partial_json": delta.text}
        if delta.kind == "reasoning":
            self._thought.update(delta.text.encode("utf-8", "surrogatepass"))
            return {"type": "thinking_delta", "thinking": delta.text}
        return {"type": "text_delta", "text": delta.text}

    def close(self) -> list[BlockEvent]:
        """End the open block; a thought is signed, so that clients send it back."""
        events: list[BlockEvent] = []
        if self._open is None:
            return events
        if self._open[0] == "reasoning":
            signature = b64encode(self._thought.digest()).decode()
            delta: BlockDelta = {"type": "signature_delta", "signature": signature}
            events.append({"type": "content_block_delta", "index": self._index, "delta": delta})
        self._open = None
        events.append({"type": "content_block_stop", "index": self._index})
        return events

    def reason(self) -> tuple[StopReason, str | None]:
        """Why the message ended, and the stop sequence that ended it."""
        if self.stop is None or self.stop.reason != "stop":
            return "max_tokens", None
        if isinstance(self.stop.stop, str):
            return "stop_sequence", self.stop.stop
        return ("tool_use" if self.has_called else "end_turn"), None


def usage(done: Finished) -> MessageUsage:
    """Anthropic's usage object: the prompt's tokens are those that were not cached, and those that were."""
    counted: MessageUsage = {
        "input_tokens": done.prompt_tokens - done.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": done.cached_tokens,
        "output_tokens": done.completion_tokens,
    }
    if done.reasoning_tokens:
        counted["output_tokens_details"] = {"thinking_tokens": done.reasoning_tokens}
    return counted


def _message(job: Job, deployment: Deployment) -> AnthropicMessage:
    """The message without content."""
    return {
        "id": f"msg_{job.id}",
        "type": "message",
        "role": "assistant",
        "model": deployment.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage(Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=0)),
    }


def _failure(error: Error, job: Job) -> bytes:
    return dump({**error_body(error), "request_id": job.id})


class Events(TokenRenderer):
    """A streamed answer: its events, of which each payload begins with its type."""

    def __init__(self, job: Job, deployment: Deployment) -> None:
        """Begin; a text that nothing is taken out of is one block, and its tokens are written without their deltas."""
        start: MessageStart = {"type": "message_start", "message": _message(job, deployment)}
        self._start: Sequence[bytes] = (dump(start), b'{"type":"ping"}')
        self.is_quick = job.parsing is None
        self._job, self._blocks = job, Blocks(is_plain=self.is_quick)
        self.ends = (
            b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"',
            b'"}}',
        )

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Its events; the first one begins the message."""
        return [*self._begin(), *map(dump, self._blocks.take(delta))]

    def _begin(self) -> Sequence[bytes]:
        started, self._start = self._start, ()
        return started

    def done(self, done: Finished) -> Sequence[bytes]:
        """Why it ended, its usage, and the end."""
        reason, sequence = self._blocks.reason()
        last: MessageDelta = {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence},
            "usage": usage(done),
        }
        stop: MessageStop = {"type": "message_stop"}
        closing = map(dump, self._blocks.close())
        return (*self._begin(), *closing, dump(last), dump(stop))

    def fail(self, error: Error) -> bytes:
        """The error in place of the rest."""
        return _failure(error, self._job)


class Whole:
    """A whole answer: the fold of the same events."""

    def __init__(self, job: Job, deployment: Deployment) -> None:
        """Begin with a message without content."""
        self._job, self._blocks = job, Blocks(is_plain=job.parsing is None)
        self._message = _message(job, deployment)
        self._parts: list[tuple[ContentBlock, list[str]]] = []
        self.held_bytes = 0

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Fold its events; nothing is sent yet."""
        for event in self._blocks.take(delta):
            self._fold(event)
        self.held_bytes += len(delta.text)
        return ()

    def _fold(self, event: BlockEvent) -> None:
        if event["type"] == "content_block_start":
            self._parts.append((event["content_block"], []))
        elif event["type"] == "content_block_delta":
            block, parts = self._parts[event["index"]]
            match event["delta"]:
                case {"type": "signature_delta", "signature": signature} if block["type"] == "thinking":
                    block["signature"] = str(signature)
                case {"text": text} | {"thinking": text} | {"partial_json": text}:
                    parts.append(str(text))

    def done(self, done: Finished) -> Sequence[bytes]:
        """The one document."""
        for event in self._blocks.close():
            self._fold(event)
        self._message["content"] = [_filled(block, "".join(parts)) for block, parts in self._parts]
        self._message["stop_reason"], self._message["stop_sequence"] = self._blocks.reason()
        self._message["usage"] = usage(done)
        return (dump(self._message),)

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return _failure(error, self._job)


def _filled(block: ContentBlock, text: str) -> ContentBlock:
    """The block with all that its deltas brought."""
    if block["type"] == "text":
        return {**block, "text": text}
    if block["type"] == "thinking":
        return {**block, "thinking": text}
    return {**block, "input": read_input(text)}


def read_input(text: str) -> dict[str, Any]:
    """A call's input; of one that was cut what there is, as Anthropic's client reads a stream's."""
    try:
        value = from_json(text, allow_partial=True) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
