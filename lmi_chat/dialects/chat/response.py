"""Render chat completions: a stream of chunks, or one document.

Shapes: OpenAI API reference, "Chat completions" (completion object, chunk object, streaming usage chunk).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lmi_chat.codec.json_text import dump, fill, unescape
from lmi_chat.dialects import openai
from lmi_chat.dialects.chat.answer import (
    ChatChoice,
    ChatChunkChoice,
    ChatChunkHead,
    ChatCompletion,
    ChatDelta,
)
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.logprobs import NO_CONTENT, ContentLogprobs, of_content, of_prompt
from lmi_chat.dialects.sequence import SequenceState, TextTokens, finish_word, likeliest, usage
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Finished, Job


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


class Chunks(openai.ChunkRenderer):
    """A streamed answer: one chat.completion.chunk per delta, and one that has nothing but the end."""

    PLAIN = b'"delta":{"content":', b'},"logprobs":null,"finish_reason":null'

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
        self._tokens = [TextTokens(job.sampling) for _ in range(job.width)]

    def token(self, token_id: int, spelled: bytes, logprob: float) -> bytes:
        """One chunk; the first one names the role."""
        if not self._begun:
            return b"".join(self.delta(Delta(0, unescape(spelled), [token_id])))
        return super().token(token_id, spelled, logprob)

    def _split(self, delta: Delta) -> Sequence[Delta]:
        """The end has a chunk of its own, behind the one with the last text."""
        if self._shown.has_logprobs:
            given, _ = self._tokens[delta.index].take(delta)
            delta = delta if given is delta.tokens else replace(delta, tokens=given)
        if delta.finish is None:
            return super()._split(delta)
        if delta.index in self._begun and not (delta.text or delta.tokens):
            return (delta,)
        return replace(delta, finish=None), Delta(delta.index, "", [], finish=delta.finish)

    def _choice(self, delta: Delta, *, is_first: bool) -> ChatChunkChoice:
        """The choice of a chunk; the first one is never the last."""
        message: ChatDelta = {"content": delta.text}
        if is_first:
            message = {"role": "assistant", "content": self._shown.begun + delta.text}
        choice: ChatChunkChoice = {"index": delta.index, "delta": message, "logprobs": None, "finish_reason": None}
        if delta.finish is not None:
            choice["delta"] = {}
            choice["finish_reason"] = finish_word(delta.finish, self._deployment.finish_words)
            choice["stop_reason"] = delta.finish.stop
        elif self._shown.has_logprobs:
            choice["logprobs"] = of_content(delta.tokens, self._sampling, names_ids=self._shown.names_ids)
        return choice


class Whole:
    """A whole answer: the fold of the same deltas."""

    def __init__(self, job: Job, deployment: Deployment, shown: Shown) -> None:
        """Start with as many empty sequences as run; the likeliest that are to be shown are."""
        self._deployment, self._shown = deployment, shown
        self._head = openai.head(f"chatcmpl-{job.id}", deployment)
        self._states = [SequenceState(job, shown.begun) for _ in range(job.width)]
        self._logprobs = {state: ContentLogprobs(job.sampling, names_ids=shown.names_ids) for state in self._states}
        self.held_bytes = 0

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Keep the delta; nothing is sent yet."""
        state = self._states[delta.index]
        state.take(delta)
        self.held_bytes += len(delta.text)
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
        choice: ChatChoice = {
            "index": place,
            "message": {"role": "assistant", "content": state.text, "refusal": None},
            "logprobs": {"content": []} if self._shown.has_logprobs else None,
            "finish_reason": finish_word(state.finish, self._deployment.finish_words),
            "stop_reason": state.finish.stop if state.finish else None,
        }
        if self._shown.has_ids:
            choice["token_ids"], choice["prompt_token_ids"] = state.ids, state.job.prompt_ids
        return choice

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(openai.error_body(error))
