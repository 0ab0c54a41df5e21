"""Render chat completions: a stream of chunks, or one document.

Shapes: OpenAI API reference, "Chat completions" (completion object, chunk object, streaming usage chunk).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmi_chat.codec.json_text import Json, dump, unescape
from lmi_chat.dialects import openai
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.logprobs import of_prompt
from lmi_chat.dialects.sequence import SequenceState, finish_word, likeliest, usage
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Finished, Job, Token, TokenLogprob


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


class Chunks(openai.ChunkRenderer):
    """A streamed answer: one chat.completion.chunk per delta."""

    PLAIN = b'"delta":{"content":', b'},"logprobs":null,"finish_reason":null'

    def __init__(self, job: Job, deployment: Deployment, usage: Mapping[str, bool], shown: Shown) -> None:
        """Begin; the tier stands in each chunk if one was asked for."""
        head = openai.head(f"chatcmpl-{job.id}", deployment, "chat.completion.chunk")
        head |= {"service_tier": shown.tier} if shown.tier else {}
        marks = {"has_scores": shown.has_logprobs, "has_ids": shown.has_ids, "is_tgi": deployment.is_tgi}
        super().__init__(head, usage, [job], **marks)
        self._deployment, self._shown = deployment, shown

    def token(self, token_id: int, spelled: bytes, logprob: float) -> bytes:
        """One chunk; the first one names the role."""
        if not self._begun:
            return b"".join(self.delta(Delta(0, unescape(spelled), [token_id])))
        return super().token(token_id, spelled, logprob)

    def _choice(self, delta: Delta, *, is_first: bool) -> Json:
        message: Json = {"content": delta.text}
        if is_first:
            message = {"role": "assistant", "content": self._shown.begun + delta.text}
        choice = {
            "index": delta.index,
            "delta": message,
            "logprobs": _logprobs(delta.tokens) if self._shown.has_logprobs else None,
            "finish_reason": finish_word(delta.finish, self._deployment.finish_words),
        }
        return choice | ({} if delta.finish is None else {"stop_reason": delta.finish.stop})


class Whole:
    """A whole answer: the fold of the same deltas."""

    def __init__(self, job: Job, deployment: Deployment, shown: Shown) -> None:
        """Start with as many empty sequences as run; the likeliest that are to be shown are."""
        self._deployment, self._shown = deployment, shown
        self._head = openai.head(f"chatcmpl-{job.id}", deployment, "chat.completion") | {"service_tier": shown.tier}
        self._states = [SequenceState(job, shown.begun) for _ in range(job.width)]

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Keep the delta; nothing is sent yet."""
        self._states[delta.index].take(delta)
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:
        """The one document."""
        states, returned = self._states, self._shown.returned
        if returned < len(states):
            states = likeliest(states, returned)
        choices = [self._choice(place, state) for place, state in enumerate(states)]
        document = self._head | {"choices": choices, "usage": usage(done)}
        if self._shown.prompt_logprobs is not None:
            document["prompt_logprobs"] = of_prompt(done.prompt_logprobs, self._shown.prompt_logprobs)
        return (dump(document),)

    def _choice(self, place: int, state: SequenceState) -> Json:
        choice: Json = {
            "index": place,
            "message": {"role": "assistant", "content": state.text, "refusal": None},
            "logprobs": _logprobs(state.tokens) if self._shown.has_logprobs else None,
            "finish_reason": finish_word(state.finish, self._deployment.finish_words),
            "stop_reason": state.finish and state.finish.stop,
        }
        ids = {"token_ids": state.ids, "prompt_token_ids": state.job.prompt_ids}
        return choice | (ids if self._shown.has_ids else {})

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(openai.error_body(error))
