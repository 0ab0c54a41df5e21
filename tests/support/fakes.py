"""Stand-ins that the quick tests share: a tokenizer of bytes, a deployment around it, events made by hand.

No engine, no heavy imports.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import settings

from lmi_chat import dialects
from lmi_chat.chat_template import Template
from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import Deployment, ParsedRequest
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.dialects.task import Renderer
from lmi_chat.errors import Error
from lmi_chat.job import Delta, EmbeddingSpec, Event, Finish, Finished, Reason, Token, TokenLogprob
from lmi_chat.pipeline import parsing
from lmi_chat.pipeline.request import InferenceRequest

END = "<|im_end|>"
END_ID = 256
VOCABULARY_TOKENS = 257
TURNS = "{turns}"
SPACE = EmbeddingSpec(dimensions=4)
brief = settings(max_examples=30, deadline=None, derandomize=True, database=None)


class _Decoder:
    def __getstate__(self) -> bytes:
        return json.dumps({"type": "ByteFallback"}).encode()


@dataclass
class _Encoding:
    ids: list[int]

    def truncate(self, most: int, *, direction: str) -> None:
        self.ids = self.ids[:most] if direction == "right" else self.ids[len(self.ids) - most :]


class _Backend:
    """What is used of the `tokenizers` library: encoding, and the decoder's state, which tells the spelling."""

    decoder = _Decoder()
    padding = truncation = None

    def __init__(self, tokenizer: "ByteTokenizer") -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, **kwargs: Any) -> Any:
        return _Encoding(self._tokenizer.encode(text, **kwargs))

    def num_special_tokens_to_add(self, **_: bool) -> int:
        return 0

    def post_process(self, part: "_Encoding", *_: object) -> "_Encoding":
        return part


class ByteTokenizer:
    """Token id = byte, and 256 = <|im_end|>. A chat template is a text with {turns} in it; None: no template."""

    def __init__(self, chat_template: str | None = TURNS) -> None:
        self.chat_template = chat_template
        self.all_special_ids = [END_ID]
        self.backend_tokenizer = _Backend(self)

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        *,
        chat_template: str | None = None,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **_: Any,
    ) -> str | list[int]:
        if add_generation_prompt and continue_final_message:
            raise ValueError("continue_final_message and add_generation_prompt are not compatible")
        text = "\n".join(message["role"] + "\n" + message["content"] + END for message in conversation)
        if continue_final_message:
            text = text.removesuffix(END)
        if add_generation_prompt:
            text += "\nassistant\n"
        prompt = str(chat_template or self.chat_template).replace(TURNS, text)
        return self.encode(prompt) if tokenize else prompt

    def encode(self, text: str, **_: Any) -> list[int]:
        parts = re.split(f"({re.escape(END)})", text)
        return [token for part in parts for token in ([END_ID] if part == END else part.encode())]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False, **_: Any) -> str:
        special = b"" if skip_special_tokens else END.encode()
        data = b"".join(special if token == END_ID else bytes([token]) for token in token_ids)
        return data.decode("utf-8", "replace")

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        words = {token: word for word, token in self.get_vocab().items()}
        return [words.get(token) for token in ids]

    def get_vocab(self) -> dict[str, int]:
        return {f"<0x{byte:02X}>": byte for byte in range(256)} | {END: END_ID}


def desk(*, chat_template: str | None = TURNS, **changes: Any) -> Deployment:
    """A deployment of model "tiny" (also "lmi") on ByteTokenizer, 1,024 tokens of context."""
    values: dict[str, Any] = {
        "model": "tiny",
        "names": frozenset({"tiny", "lmi"}),
        "template": Template(ByteTokenizer(chat_template)),
        "context_tokens": 1024,
        "vocabulary_tokens": VOCABULARY_TOKENS,
    }
    return Deployment(**values | changes)


def token(part: bytes, logprob: float = -0.5, top: Sequence[tuple[bytes, float]] = ()) -> Token:
    """A token of these bytes (its id is the first one's); b"" is <|im_end|>."""
    choice = TokenLogprob(part[0] if part else END_ID, logprob, part, is_special=not part)
    return Token(choice, tuple(TokenLogprob(other[0], other_logprob, other) for other, other_logprob in top))


def piece(
    text: str, *parts: bytes, index: int = 0, finish: Reason | None = None, stop: str | int | None = None
) -> Delta:
    """A piece whose tokens are `parts`; without parts, the text's bytes."""
    tokens = [token(part) for part in parts or [bytes([byte]) for byte in text.encode()]]
    ids = [each.choice.id for each in tokens]
    return Delta(index, text, ids, tokens, None if finish is None else Finish(finish, stop))


def parse(body: object, desk: Deployment, request_id: str = "1", *, forced: str | None = None) -> ParsedRequest:
    """The task that a body asks for, by the way that every request takes. Raises an Error that names the field."""
    data = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    call = InferenceRequest(body=data, id=request_id, forced=forced)
    task = parsing.parse(call, None, desk, None, desk.limits, Formatters())
    assert isinstance(task, ParsedRequest)
    return task


def refusal(body: Json, dialect: str, **changes: Any) -> Error:
    """The Error that `body` meets at desk(**changes); its form is checked: one line, UTF-8, at most 2 KiB."""
    with pytest.raises(Error) as caught:
        parse(body, desk(**changes))
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
                payloads += render.piece(event)
            case Finished():
                payloads += render.done(event)
            case Error():
                payloads.append(render.fail(event))
    assert not any(b"\n" in payload for payload in payloads)
    return [orjson.loads(payload) for payload in payloads]
