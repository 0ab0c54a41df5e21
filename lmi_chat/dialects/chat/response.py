"""Render chat completions: a stream of chunks, or one document.

Shapes: OpenAI API reference, "Chat completions" (completion object, chunk object, streaming usage chunk).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from lmi_chat.codec.json_text import dump, fill, unescape
from lmi_chat.dialects import openai
from lmi_chat.dialects.chat.answer import (
    CalledFunctionDelta,
    ChatAnswerMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatChunkHead,
    ChatCompletion,
    ChatDelta,
    ChatToolCall,
    ChatToolCallDelta,
    Reasoning,
)
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.logprobs import NO_CONTENT, ContentLogprobs, of_content, of_prompt
from lmi_chat.dialects.sequence import SequenceState, TextTokens, finish_word, likeliest, usage
from lmi_chat.errors import Error
from lmi_chat.job import CallPart, Delta, Finished, Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What an answer carries.

    `returned` sequences come back; `prompt_logprobs`: alternatives per token of the prompt, or None; `tier` is the one
    given; `begun`: the turn it continues; `has_ids`: token ids too; `names_ids`: tokens are written `token_id:7`.
    """

    returned: int
    has_logprobs: bool
    prompt_logprobs: int | None = None
    tier: str | None = None
    begun: str = ""
    has_ids: bool = False
    names_ids: bool = False


CONTENT_KEY = b'"content":'


def content_of(state: SequenceState) -> str | None:
    """What a sequence says; None where it calls tools instead."""
    return state.text if state.text or not state.calls else None


def calls_of(state: SequenceState) -> list[ChatToolCall]:
    """The calls of a sequence; of one that was cut the last one's arguments are as incomplete as they came."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in state.calls
    ]


@cache
def _reasoning_keys(names: Sequence[str]) -> Sequence[bytes]:
    """What stands before the text under each of the names."""
    return [b'%b"%b":' % (b"," if place else b"", name.encode()) for place, name in enumerate(names)]


def _add_reasoning(message: Reasoning, text: str, deployment: Deployment) -> None:
    for name in deployment.reasoning_fields if text else ():
        message[name] = text


def _call_piece(part: CallPart, text: str) -> ChatToolCallDelta:
    if not part.name:
        return {"index": part.place, "function": {"arguments": text}}
    function: CalledFunctionDelta = {"name": part.name, "arguments": text}
    return {"index": part.place, "id": part.id, "type": "function", "function": function}


def _tells_calls(job: Job) -> bool:
    """Whether a call is why a sequence ended: one that the request names is no choice of the model."""
    return job.parsing is None or job.parsing.choice != "named"


class Chunks(openai.ChunkRenderer):
    """A streamed answer: one chat.completion.chunk per delta, and one that has nothing but the end."""

    PLAIN = b'"delta":{' + CONTENT_KEY, b'},"logprobs":null,"finish_reason":null'

    def __init__(self, job: Job, deployment: Deployment, usage: Mapping[str, bool], shown: Shown) -> None:
        """Begin; the tier stands in each chunk if one was asked for."""
        own = openai.head(f"chatcmpl-{job.id}", deployment)
        head: ChatChunkHead = {
            "id": own["id"],
            "object": "chat.completion.chunk",
            "created": own["created"],
            "model": own["model"],
            "system_fingerprint": own["system_fingerprint"],
        }
        if shown.tier:
            head["service_tier"] = shown.tier
        marks = {"has_scores": shown.has_logprobs, "has_ids": shown.has_ids, "is_tgi": deployment.is_tgi}
        super().__init__(head, usage, [job], **marks)
        self._deployment, self._shown = deployment, shown
        self._sampling = job.sampling
        is_parsed = job.parsing is not None
        self._tokens = [TextTokens(job.sampling, is_parsed=is_parsed) for _ in range(job.width)]
        self._tells_calls = _tells_calls(job)
        self._callers: set[int] = set()  # sequences that called a tool

    def token(self, token_id: int, spelled: bytes, logprob: float) -> bytes:
        """One chunk; the first one names the role."""
        if not self._begun:
            return b"".join(self.delta(Delta(0, unescape(spelled), [token_id])))
        return super().token(token_id, spelled, logprob)

    def _plain(self, delta: Delta) -> Sequence[bytes]:
        """The chunk of a text alone; where it reasons, under the deployment's names for that."""
        if delta.kind == "content":
            return super()._plain(delta)
        text = dump(delta.text)
        fields = text.join(_reasoning_keys(self._deployment.reasoning_fields)) + text
        return (self._plain_heads[delta.index].removesuffix(CONTENT_KEY) + fields + self._plain_tail,)

    def _split(self, delta: Delta) -> Sequence[Delta]:
        """The end has a chunk of its own, behind the one with the last text."""
        if self._shown.has_logprobs:
            given, _ = self._tokens[delta.index].take(delta)
            delta = delta if given is delta.tokens else replace(delta, tokens=given)
        if delta.call is not None and self._tells_calls:
            self._callers.add(delta.index)
        if delta.finish is None:
            return super()._split(delta)
        if delta.index in self._begun and not (openai.has_text(delta) or delta.tokens):
            return (delta,)
        return replace(delta, finish=None), Delta(delta.index, "", [], finish=delta.finish)

    def _choice(self, delta: Delta, *, is_first: bool) -> ChatChunkChoice:
        """The choice of a chunk; the first one is never the last."""
        message = self._message(delta, is_first=is_first)
        choice: ChatChunkChoice = {"index": delta.index, "delta": message, "logprobs": None, "finish_reason": None}
        if delta.finish is not None:
            choice["delta"] = {}
            has_called = delta.index in self._callers
            choice["finish_reason"] = finish_word(delta.finish, self._deployment.finish_words, has_called=has_called)
            choice["stop_reason"] = delta.finish.stop
        elif self._shown.has_logprobs:
            choice["logprobs"] = of_content(delta.tokens, self._sampling, names_ids=self._shown.names_ids)
        return choice

    def _message(self, delta: Delta, *, is_first: bool) -> ChatDelta:
        """A delta by its kind; the first one names the role, and has the begun turn if there is one."""
        message: ChatDelta = {"role": "assistant"} if is_first else {}
        begun = self._shown.begun if is_first else ""
        if begun or delta.kind == "content":
            message["content"] = begun + (delta.text if delta.kind == "content" else "")
        if delta.kind == "reasoning":
            _add_reasoning(message, delta.text, self._deployment)
        if delta.call is not None and openai.has_text(delta):
            message["tool_calls"] = [_call_piece(delta.call, delta.text)]
        return message


class Whole:
    """A whole answer: the fold of the same deltas."""

    def __init__(self, job: Job, deployment: Deployment, shown: Shown) -> None:
        """Start with as many empty sequences as run; the likeliest that are to be shown are."""
        self._deployment, self._shown = deployment, shown
        self._head = openai.head(f"chatcmpl-{job.id}", deployment)
        self._states = [SequenceState(job, shown.begun) for _ in range(job.width)]
        self._logprobs = {state: ContentLogprobs(job, names_ids=shown.names_ids) for state in self._states}
        self._tells_calls = _tells_calls(job)
        self.held_bytes = 0

    def join(self, others: Iterable["Whole"]) -> None:
        """Answer other chats of the request, too: all sequences, theirs last, are shown in one document."""
        for other in others:
            self._states += other._states  # noqa: SLF001 a Whole too, as below
            self._logprobs |= other._logprobs  # noqa: SLF001
        self._shown = replace(self._shown, returned=len(self._states))

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Keep the delta; nothing is sent yet."""
        state = self._states[delta.index]
        state.take(delta)
        self.held_bytes += len(delta.text) if delta.call is None else len(delta.text) + len(delta.call.name)
        if self._shown.has_logprobs:
            self.held_bytes += self._logprobs[state].take(delta)
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:
        """The one document."""
        states, returned = self._states, self._shown.returned
        if returned < len(states):
            states = likeliest(states, returned)
        document: ChatCompletion = {
            "id": self._head["id"],
            "object": "chat.completion",
            "created": self._head["created"],
            "model": self._head["model"],
            "system_fingerprint": self._head["system_fingerprint"],
            "service_tier": self._shown.tier,
            "choices": [self._choice(place, state) for place, state in enumerate(states)],
            "usage": usage(done),
        }
        if self._shown.prompt_logprobs is not None:
            document["prompt_logprobs"] = of_prompt(done.prompt_logprobs, self._shown.prompt_logprobs)
        if not self._shown.has_logprobs:
            return (dump(document),)
        return (fill(dump(document), NO_CONTENT, [self._logprobs[state].written() for state in states]),)

    def _choice(self, place: int, state: SequenceState) -> ChatChoice:
        has_called = bool(state.calls) and self._tells_calls
        choice: ChatChoice = {
            "index": place,
            "message": self._message(state),
            "logprobs": {"content": []} if self._shown.has_logprobs else None,
            "finish_reason": finish_word(state.finish, self._deployment.finish_words, has_called=has_called),
            "stop_reason": state.finish.stop if state.finish else None,
        }
        if self._shown.has_ids:
            choice["token_ids"], choice["prompt_token_ids"] = state.ids, state.job.prompt_ids
        return choice

    def _message(self, state: SequenceState) -> ChatAnswerMessage:
        message: ChatAnswerMessage = {"role": "assistant", "content": content_of(state), "refusal": None}
        _add_reasoning(message, state.reasoning, self._deployment)
        if state.calls:
            message["tool_calls"] = calls_of(state)
        return message

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(openai.error_body(error))
