"""Events made by hand, and the ways in and out of a dialect that the quick tests share. No engine, no heavy imports."""

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import settings

from lmi_chat import dialects
from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import Deployment, ParsedRequest
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.dialects.task import Renderer
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Event, Finish, Finished, PoolingSpec, Reason, Token, TokenLogprob
from lmi_chat.pipeline import parsing
from lmi_chat.pipeline.request import InferenceRequest
from lmi_chat.testing import END, END_ID, ByteTokenizer, deployment

SPACE = PoolingSpec(dimensions=4)
LABELS = PoolingSpec(task="classify", dimensions=3, labels=("dull", None, "bright"))
SCORER = PoolingSpec(task="classify", dimensions=1, labels=("LABEL_0",))
TOKENS = PoolingSpec(task="token_embed", dimensions=4)
__all__ = [
    "END",
    "END_ID",
    "LABELS",
    "SCORER",
    "SPACE",
    "TOKENS",
    "ByteTokenizer",
    "JoiningPairs",
    "brief",
    "delta",
    "deployment",
    "parse",
    "refusal",
    "rendered",
    "token",
]
brief = settings(max_examples=30, deadline=None, derandomize=True, database=None)


class JoiningPairs:
    """Joins the bytes of two texts by a zero, behind the instruction; the second text begins behind that."""

    def __init__(self, *, takes_instruction: bool = False) -> None:
        self.takes_instruction = takes_instruction
        self.asked: list[Json] = []

    def encode(self, query: str, document: str, **options: Any) -> tuple[list[int], int]:
        self.asked.append(options)
        first = [*query.encode()[: options["query_tokens"] or None], 0]
        second = [*document.encode()[: options["document_tokens"] or None]]
        most, is_end = options["most"], options["side"] == "left"
        ids = [*options["instruction"].encode(), *first, *second]
        return (ids[-most:] if is_end else ids[:most]), len(first)


def token(part: bytes, logprob: float = -0.5, top: Sequence[tuple[bytes, float]] = ()) -> Token:
    """A token of these bytes (its id is the first one's); b"" is <|im_end|>."""
    choice = TokenLogprob(part[0] if part else END_ID, logprob, part, is_special=not part)
    return Token(choice, tuple(TokenLogprob(other[0], other_logprob, other) for other, other_logprob in top))


def delta(
    text: str, *parts: bytes, index: int = 0, finish: Reason | None = None, stop: str | int | None = None
) -> Delta:
    """A delta whose tokens are `parts`; without parts, the text's bytes."""
    tokens = [token(part) for part in parts or [bytes([byte]) for byte in text.encode()]]
    ids = [each.choice.id for each in tokens]
    return Delta(index, text, ids, tokens, None if finish is None else Finish(finish, stop))


def parse(body: object, deployment: Deployment, request_id: str = "1", *, forced: str | None = None) -> ParsedRequest:
    """The task that a body asks for, by the way that every request takes. Raises an Error that names the field."""
    data = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    call = InferenceRequest(body=data, id=request_id, forced=forced)
    task = parsing.parse(call, None, deployment, None, deployment.limits, Formatters())
    assert isinstance(task, ParsedRequest)
    return task


def refusal(body: Json, dialect: str, **changes: Any) -> Error:
    """The Error that `body` meets at desk(**changes); its form is checked: one line, UTF-8, at most 2 KiB."""
    with pytest.raises(Error) as caught:
        parse(body, deployment(**changes))
    error = caught.value
    data = orjson.dumps(dialects.error_body(error, dialect))
    assert len(data) <= 2048
    assert error.message.splitlines() == [error.message]
    assert not any(unicodedata.category(character) == "Cc" for character in error.message)
    return error


def rendered(render: Renderer, *events: Event) -> list[Any]:
    """The payloads for these events as objects; each must be one JSON text on one line."""
    payloads: list[bytes] = []
    for event in events:
        match event:
            case Delta():
                payloads += render.delta(event)
            case Finished():
                payloads += render.done(event)
            case Error():
                payloads.append(render.fail(event))
    assert not any(b"\n" in payload for payload in payloads)
    return [orjson.loads(payload) for payload in payloads]
