"""Fold the deltas of an answer into the items of a response, and render it: a stream of events, or one document.

Shapes: OpenAI API reference, "Responses": the response object, its streaming events.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lmi_chat.codec.json_text import Array, dump, fill, unescape
from lmi_chat.dialects.call_order import CallOrder, PartKey, part_key
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.logprobs import of_content
from lmi_chat.dialects.responses.answer import (
    Asked,
    CustomToolCall,
    FunctionCall,
    ItemStatus,
    OutputItem,
    OutputMessage,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Response,
    ResponseUsage,
    Status,
)
from lmi_chat.dialects.responses.custom_input import CustomInput
from lmi_chat.dialects.responses.tools import Origin
from lmi_chat.dialects.sequence import TextTokens
from lmi_chat.dialects.task import TokenRenderer
from lmi_chat.errors import Error, RateLimited
from lmi_chat.job import Delta, DeltaKind, Finish, Finished, Job, Token

Event = tuple[str, bytes]
"""The type of an event without `response.`; its members beyond type and number, as JSON with a comma before each."""
NO_LOGPROBS, NO_OUTPUT = b'"logprobs":[]', b'"output":[]'
PREFIX: Mapping[DeltaKind, str] = {"content": "msg", "reasoning": "rs", "call": "fc"}


def _members(**values: object) -> bytes:
    return b"," + dump(values)[1:-1]


@dataclass(slots=True, kw_only=True)
class Item:
    """One item of the output as far as it has come: a message, what was thought, or a call of a tool.

    `custom`: the tool is a custom one, whose input is the item's text.
    """

    kind: DeltaKind
    place: int
    job: Job
    id: str = ""
    call_id: str = ""
    name: str = ""
    namespace: str | None = None
    custom: CustomInput | None = None
    status: ItemStatus = "in_progress"
    parts: list[str] = field(default_factory=list)
    spelled: list[bytes] = field(default_factory=list)  # what came after `parts`, as JSON writes it
    logprobs: Array = field(default_factory=Array)

    @property
    def text(self) -> str:
        """All of it, or the arguments or input of a call."""
        self._settle()
        if len(self.parts) > 1:
            self.parts = ["".join(self.parts)]
        return self.parts[0] if self.parts else ""

    def add(self, text: str) -> str:
        """Add a text; gives what it adds: of a custom tool's arguments, their part of the input."""
        self._settle()
        if self.custom is not None:
            text = self.custom.take(text)
        self.parts.append(text)
        return text

    def _settle(self) -> None:
        """Read the spelled tokens in one go."""
        if self.spelled:
            self.parts.append(unescape(b"".join(self.spelled)))
            self.spelled.clear()

    @property
    def where(self) -> Mapping[str, object]:
        """The members by which its events name it."""
        own = {"item_id": self.id, "output_index": self.place}
        return own if self.kind == "call" else own | {"content_index": 0}

    @property
    def delta_name(self) -> str:
        """The name of its events, before .delta and .done."""
        names = {"content": "output_text", "reasoning": "reasoning_text", "call": "function_call_arguments"}
        return names[self.kind] if self.custom is None else "custom_tool_call_input"

    def _part(self, text: str) -> OutputText | ReasoningText:
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _shown(self, text: str | None) -> OutputItem:
        """The item with `text`; None: nothing of it has come."""
        if self.kind == "call":
            return self._call(text or "")
        content = [] if text is None else [self._part(text)]
        if self.kind == "reasoning":
            thought: ReasoningItem = {
                "id": self.id,
                "type": "reasoning",
                "status": self.status,
                "summary": [],
                "content": content,  # type: ignore[typeddict-item]  # the kind says which
            }
            return thought
        message: OutputMessage = {
            "id": self.id,
            "type": "message",
            "status": self.status,
            "role": "assistant",
            "content": content,  # type: ignore[typeddict-item]
        }
        return message

    def _call(self, text: str) -> FunctionCall | CustomToolCall:
        call: FunctionCall | CustomToolCall
        if self.custom is None:
            call = {
                "id": self.id,
                "type": "function_call",
                "status": self.status,
                "call_id": self.call_id,
                "name": self.name,
                "arguments": text,
            }
        else:
            call = {
                "id": self.id,
                "type": "custom_tool_call",
                "status": self.status,
                "call_id": self.call_id,
                "name": self.name,
                "input": text,
            }
        if self.namespace is not None:
            call["namespace"] = self.namespace
        return call

    def _filled(self, text: bytes) -> bytes:
        """A JSON text that has its text once, with the log-probabilities of that."""
        return fill(text, NO_LOGPROBS, [self.logprobs.written()]) if self.kind == "content" else text

    def written(self) -> bytes:
        """The item as JSON."""
        return self._filled(dump(self._shown(self.text)))

    def opened(self) -> list[Event]:
        """The events that begin it."""
        item = _members(output_index=self.place, item=self._shown(None))
        if self.kind == "call":
            return [("output_item.added", item)]
        part = _members(**self.where, part=self._part(""))
        return [("output_item.added", item), ("content_part.added", part)]

    def piece(self, text: str, tokens: Sequence[Token]) -> list[Event]:
        """The event of more text."""
        more: dict[str, object] = {"delta": text}
        if self.kind == "content":
            more["logprobs"] = of_content(tokens, self.job.sampling)["content"]
        return [(f"{self.delta_name}.delta", _members(**self.where, **more))]

    def _end(self, text: str) -> dict[str, object]:
        """The members that tell all of its text."""
        if self.kind == "call":
            return {"arguments": text, "name": self.name} if self.custom is None else {"input": text}
        return {"text": text, "logprobs": []} if self.kind == "content" else {"text": text}

    def closed(self, status: ItemStatus) -> list[Event]:
        """The events that end it."""
        self.status, events = status, []
        if self.custom is not None and (rest := self.custom.end(is_cut=status == "incomplete")):
            self.parts.append(rest)
            events = self.piece(rest, ())
        text = self.text
        events.append((f"{self.delta_name}.done", self._filled(_members(**self.where, **self._end(text)))))
        if self.kind != "call":
            part = self._filled(_members(**self.where, part=self._part(text)))
            events.append(("content_part.done", part))
        item = _members(output_index=self.place) + b',"item":' + self.written()
        return [*events, ("output_item.done", item)]


class Fold:
    """What an answer has become: its items, and for each delta the events that tell it."""

    def __init__(
        self, job: Job, asked: Asked, deployment: Deployment, origins: Mapping[str, Origin], *, has_logprobs: bool
    ) -> None:
        """Begin without items; the response repeats `asked`. `origins`: of the tools that may be called."""
        self.job, self._asked, self._model, self._origins = job, asked, deployment.model, origins
        self._created_at = int(time.time())
        self._tokens = TextTokens(job.sampling, is_parsed=job.parsing is not None) if has_logprobs else None
        self.items: list[Item] = []
        self._key: PartKey | None = None
        self._order = CallOrder()
        self._early: list[Token] = []  # of a message whose text has not come, or of what stands between the items
        self._finish: Finish | None = None
        self.held_bytes = 0

    def take(self, delta: Delta) -> list[Event]:
        """Add a delta; gives its events. An item is whole before the next one begins."""
        return [event for each in self._order.take(delta) for event in self._take(each)]

    def _take(self, delta: Delta) -> list[Event]:
        tokens = self._tokens.take(delta)[0] if self._tokens is not None else []
        self._finish = delta.finish or self._finish
        if self._early and delta.kind == "content":
            tokens, self._early = [*self._early, *tokens], []
        events: list[Event] = []
        if delta.text or (delta.call is not None and delta.call.name):
            events += self._open(delta)
            self._early = []
        elif self._key != part_key(delta):
            self._early = tokens if delta.kind == "content" else []
            return events
        if not delta.text and not (tokens and delta.kind == "content"):
            return events
        return events + self._add(delta, tokens)

    def _add(self, delta: Delta, tokens: Sequence[Token]) -> list[Event]:
        """Add text and tokens to the open item."""
        item = self.items[-1]
        text = item.add(delta.text)
        self.held_bytes += len(delta.text)
        if item.kind == "content" and tokens:
            self.held_bytes += item.logprobs.add(of_content(tokens, self.job.sampling)["content"])
        return item.piece(text, tokens) if text or item.kind == "content" else []

    def _open(self, delta: Delta) -> list[Event]:
        """Begin an item if the delta is of another than the last one."""
        key = part_key(delta)
        if key == self._key:
            return []
        ended = self.items[-1].closed("completed") if self._key is not None else []
        self._key = key
        return ended + self.begin(delta)

    def begin(self, delta: Delta) -> list[Event]:
        """Begin an item of the delta's kind."""
        item = Item(kind=delta.kind, place=len(self.items), job=self.job)
        if delta.call is not None:
            item.call_id, item.name = delta.call.id, delta.call.name
            self.held_bytes += len(item.name)
            if (origin := self._origins.get(item.name)) is not None:
                item.name, item.namespace = origin.name, origin.namespace
                item.custom = CustomInput() if origin.is_custom else None
        prefix = PREFIX[delta.kind] if item.custom is None else "ctc"
        item.id = f"{prefix}_{self.job.id}_{item.place}"
        self._key = part_key(delta)
        self.items.append(item)
        return item.opened()

    @property
    def is_cut(self) -> bool:
        """Whether the answer reached a bound."""
        return self._finish is not None and self._finish.reason != "stop"

    def end(self) -> list[Event]:
        """The events that end the last item; of an answer without any, an empty message."""
        empty = Delta(0, "", [])
        begun = [] if self.items else self.begin(empty)
        if self._early and self._key == part_key(empty):
            begun += self._add(empty, self._early)
        return begun + self.items[-1].closed("incomplete" if self.is_cut else "completed")

    def response(self, status: Status, done: Finished | None = None, error: Error | None = None) -> bytes:
        """The response as JSON."""
        shown: Response = {
            "id": f"resp_{self.job.id}",
            "object": "response",
            "created_at": self._created_at,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": None if error is None else {"code": _code(error), "message": error.message},
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self._model,
            "output": [],
            "usage": None if done is None else usage(done),
            **self._asked,
        }
        before, after = dump(shown).split(NO_OUTPUT, 1)
        return before + b'"output":[' + b",".join(item.written() for item in self.items) + b"]" + after


def _code(error: Error) -> str:
    """One of the few codes that OpenAI has for a response that failed."""
    return "rate_limit_exceeded" if isinstance(error, RateLimited) else "server_error"


def usage(done: Finished) -> ResponseUsage:
    """The usage object, in tokens."""
    return {
        "input_tokens": done.prompt_tokens,
        "input_tokens_details": {"cached_tokens": done.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": done.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": done.reasoning_tokens},
        "total_tokens": done.prompt_tokens + done.completion_tokens,
    }


Save = Callable[[bytes], None]
"""Keeps a whole response."""


class Whole:
    """A whole answer: the fold without its events."""

    def __init__(self, fold: Fold, save: Save | None) -> None:
        """Render what `fold` becomes, and keep it by `save`."""
        self._fold, self._save = fold, save

    @property
    def held_bytes(self) -> int:
        """The texts."""
        return self._fold.held_bytes

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Keep the delta; nothing is sent yet."""
        self._fold.take(delta)
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:
        """The one document."""
        self._fold.end()
        document = self._fold.response("incomplete" if self._fold.is_cut else "completed", done)
        if self._save is not None:
            self._save(document)
        return (document,)

    def fail(self, error: Error) -> bytes:
        """The failed response."""
        return self._fold.response("failed", error=error)


class Events(TokenRenderer):
    """A streamed answer: an event for each step of it."""

    def __init__(self, fold: Fold, save: Save | None, *, has_logprobs: bool) -> None:
        """Render what `fold` becomes, and keep it by `save`."""
        self._fold, self._save = fold, save
        self.is_quick = not has_logprobs
        self._count = 0
        self._token_middle = b""

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Its events; the first one's begin the response."""
        events = self._begun()
        if events and self.is_quick and self._fold.job.parsing is None:
            events += self._fold.begin(delta)  # tokens may come next, and each is one event
            self._token_middle = _members(**self._fold.items[0].where) + b',"delta":"'
        return [self._payload(*event) for event in events + self._fold.take(delta)]

    def _begun(self) -> list[Event]:
        """The events that begin the response, before the first other one."""
        if self._count:
            return []
        begun = b',"response":' + self._fold.response("in_progress")
        return [("created", begun), ("in_progress", begun)]

    def token(self, token_id: int, spelled: bytes, logprob: float) -> bytes:  # noqa: ARG002 what TokenSink hands over
        """The event of one token."""
        self._fold.items[0].spelled.append(spelled)
        self._count += 1
        number = b'{"type":"response.output_text.delta","sequence_number":%d' % (self._count - 1)
        return number + self._token_middle + spelled + b'","logprobs":[]}'

    def _payload(self, kind: str, members: bytes) -> bytes:
        self._count += 1
        return b'{"type":"response.%b","sequence_number":%d%b}' % (kind.encode(), self._count - 1, members)

    def done(self, done: Finished) -> Sequence[bytes]:
        """The last item's end, and the response."""
        status: Status = "incomplete" if self._fold.is_cut else "completed"
        payloads = [self._payload(*event) for event in self._begun() + self._fold.end()]
        document = self._fold.response(status, done)
        if self._save is not None:
            self._save(document)
        return [*payloads, self._payload(status, b',"response":' + document)]

    def fail(self, error: Error) -> bytes:
        """The response as far as it has come, which has failed."""
        return self._payload("failed", b',"response":' + self._fold.response("failed", error=error))
