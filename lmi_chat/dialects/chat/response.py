"""The chat dialect's answers, one assistant's turn: a chunk per piece, or one document. Parsing is chat.py's.

Shapes: OpenAI API reference, "Chat completions" (completion object, chunk object, streaming usage chunk).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmi_chat.codec.json_text import Json, dump, unescape
from lmi_chat.dialects import openai
from lmi_chat.dialects.desk import Deployment, TokenRenderer
from lmi_chat.dialects.logprobs import of_prompt
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Finish, Finished, Job, Token, TokenLogprob


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What an answer carries.

    `returned` sequences come back; `prompt_logprobs`: alternatives per token of the prompt, or None; `tier` is the one
    given; `begun`: the turn it continues; `has_ids`: token ids too.
    """

    returned: int
    has_logprobs: bool
    prompt_logprobs: int | None = None
    tier: str | None = None
    begun: str = ""
    has_ids: bool = False


def _choice(choice: TokenLogprob) -> Json:
    text = choice.bytes.decode("utf-8", "replace")
    return {"token": text, "logprob": choice.logprob, "bytes": list(choice.bytes)}


def _logprobs(tokens: Sequence[Token]) -> Json:
    return {
        "content": [_choice(token.choice) | {"top_logprobs": [_choice(top) for top in token.top]} for token in tokens]
    }


class Chunks(openai.Chunks, TokenRenderer):
    """A streamed answer: one chat.completion.chunk per piece."""

    def __init__(self, job: Job, desk: Deployment, usage: Mapping[str, bool], shown: Shown) -> None:
        """Render what is the same in every plain chunk once; the tier stands in each if one was asked for."""
        head = openai.head(f"chatcmpl-{job.id}", desk, "chat.completion.chunk")
        super().__init__(head | ({"service_tier": shown.tier} if shown.tier else {}), usage, len(job.prompt_ids))
        self._job, self._desk, self._shown = job, desk, shown
        self.is_quick = not (shown.has_logprobs or shown.has_ids or self._is_continuous)
        self._started: set[int] = set()
        self._plain_head = self._head + b',"choices":[{"index":0,"delta":{"content":'
        self._plain_tail = b'},"logprobs":null,"finish_reason":null}]' + self._null_usage
        self.ends = self._plain_head + b'"', b'"' + self._plain_tail

    def piece(self, piece: Delta) -> Sequence[bytes]:
        """One chunk; the plain ones, which are nearly all, are prefix + text + suffix."""
        self._completion_tokens += len(piece.ids)
        is_plain = piece.index == 0 and 0 in self._started and piece.finish is None
        if is_plain and self.is_quick:
            return (self._plain_head + dump(piece.text) + self._plain_tail,) if piece.text else ()
        if not (piece.text or piece.tokens or piece.finish or (self._shown.has_ids and piece.ids)):
            return ()
        return (self._chunk(self._choice(piece)),)

    def token(self, token_id: int, spelled: bytes, logprob: float) -> bytes:
        """One chunk; the first one names the role."""
        if not self._started:
            return b"".join(self.piece(Delta(0, unescape(spelled), [token_id])))
        return super().token(token_id, spelled, logprob)

    def _choice(self, piece: Delta) -> Json:
        delta: Json = {"content": piece.text}
        is_first = piece.index not in self._started
        if is_first:
            self._started.add(piece.index)
            delta = {"role": "assistant", "content": self._shown.begun + piece.text}
        choice = {
            "index": piece.index,
            "delta": delta,
            "logprobs": _logprobs(piece.tokens) if self._shown.has_logprobs else None,
            "finish_reason": openai.finish_word(piece.finish, self._desk),
        }
        if piece.finish is not None:
            choice["stop_reason"] = piece.finish.stop
        if self._shown.has_ids:
            choice["token_ids"] = piece.ids
            choice |= {"prompt_token_ids": self._job.prompt_ids} if is_first else {}
        return choice


class Whole:
    """A whole answer: the fold of the same pieces."""

    def __init__(self, job: Job, desk: Deployment, shown: Shown) -> None:
        """Start with as many empty sequences as run; the likeliest that are to be shown are."""
        self._job, self._desk, self._shown = job, desk, shown
        self._head = openai.head(f"chatcmpl-{job.id}", desk, "chat.completion") | {"service_tier": shown.tier}
        self._texts: list[list[str]] = [[shown.begun] for _ in range(job.width)]
        self._ids: list[list[int]] = [[] for _ in range(job.width)]
        self._tokens: list[list[Token]] = [[] for _ in range(job.width)]
        self._finishes: list[Finish | None] = [None] * job.width

    def piece(self, piece: Delta) -> Sequence[bytes]:
        """Keep the piece; nothing is sent yet."""
        self._texts[piece.index].append(piece.text)
        self._tokens[piece.index] += piece.tokens
        self._ids[piece.index] += piece.ids
        self._finishes[piece.index] = piece.finish or self._finishes[piece.index]
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:
        """The one document."""
        order = list(range(self._job.width))
        if self._shown.returned < self._job.width:
            order.sort(key=lambda index: -openai.likelihood(self._tokens[index]))
        choices = [self._choice(index, place) for place, index in enumerate(order[: self._shown.returned])]
        document = self._head | {"choices": choices, "usage": openai.usage(done)}
        if self._shown.prompt_logprobs is not None:
            document["prompt_logprobs"] = of_prompt(done.prompt_logprobs, self._shown.prompt_logprobs)
        return (dump(document),)

    def _choice(self, index: int, place: int) -> Json:
        finish = self._finishes[index]
        choice: Json = {
            "index": place,
            "message": {"role": "assistant", "content": "".join(self._texts[index]), "refusal": None},
            "logprobs": _logprobs(self._tokens[index]) if self._shown.has_logprobs else None,
            "finish_reason": openai.finish_word(finish, self._desk),
            "stop_reason": finish and finish.stop,
        }
        ids = {"token_ids": self._ids[index], "prompt_token_ids": self._job.prompt_ids}
        return choice | (ids if self._shown.has_ids else {})

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(openai.error_body(error))
