"""Render completions: a stream of chunks, or one document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lmi_chat.codec.json_text import dump, fill
from lmi_chat.dialects import openai
from lmi_chat.dialects.completion.answer import Completion, CompletionChoice, CompletionHead, CompletionLogprobs
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.logprobs import (
    NO_LOGPROBS,
    NO_PROMPT_LOGPROBS,
    ChoiceLogprobs,
    Scores,
    of_prompt,
)
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.sequence import SequenceState, finish_word, likeliest, usage
from lmi_chat.dialects.task import Renderer
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Finish, Finished, Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the reply is to show: of each prompt's `width` sequences the `returned` likeliest.

    `beams` is the width of a beam search or 0; `logprobs` and `prompt_logprobs` the alternatives or None;
    `is_scoring`: the prompt alone; `has_ids`: token ids too; `names_ids`: tokens are written `token_id:7`.
    """

    id: str
    returned: int
    width: int
    beams: int
    logprobs: int | None
    prompt_logprobs: int | None
    has_echo: bool
    has_ids: bool
    names_ids: bool
    is_scoring: bool
    usage: Mapping[str, bool]


def _choice(
    index: int, text: str, logprobs: CompletionLogprobs | None, finish: Finish | None, deployment: Deployment
) -> CompletionChoice:
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish_word(finish, deployment.finish_words),
        "stop_reason": finish.stop if finish else None,
    }


def _head(wanted: Wanted, deployment: Deployment) -> CompletionHead:
    head = openai.head(wanted.id, deployment)
    return {
        "id": head["id"],
        "object": "text_completion",
        "created": head["created"],
        "model": head["model"],
        "system_fingerprint": head["system_fingerprint"],
    }


class Chunks(openai.ChunkRenderer):
    """A streamed answer: one text_completion per delta. Choices count prompts and sequences, prompt by prompt."""

    PLAIN = b'"text":', b',"logprobs":null,"finish_reason":null,"stop_reason":null'

    def __init__(self, jobs: Sequence[Job], deployment: Deployment, wanted: Wanted) -> None:
        """Begin each choice with its prompt, if that is to be shown."""
        top = wanted.logprobs
        marks = {"has_scores": top is not None, "has_ids": wanted.has_ids, "is_tgi": deployment.is_tgi}
        super().__init__(_head(wanted, deployment), wanted.usage, jobs, **marks)
        self._deployment = deployment
        self._leads = [job.prompt_text for job in self._rows] if wanted.has_echo else []
        self._scores: list[Scores] = []
        if top is not None:
            self._scores = [Scores(job, deployment.template, top, names_ids=wanted.names_ids) for job in self._rows]

    def _choice(self, delta: Delta, *, is_first: bool) -> CompletionChoice:  # noqa: ARG002 the text has its lead already
        logprobs = self._scores[delta.index].take(delta.prompt, delta.tokens) if self._scores else None
        return _choice(delta.index, delta.text, logprobs, delta.finish, self._deployment)


class Whole:
    """A whole answer: the fold of the same deltas."""

    def __init__(self, jobs: Sequence[Job], deployment: Deployment, wanted: Wanted) -> None:
        """Start with as many sequences as run, each with its prompt if that is to be shown."""
        self._deployment, self._wanted = deployment, wanted
        self._states = [
            SequenceState(job, job.prompt_text if wanted.has_echo else "") for job in jobs for _ in range(job.width)
        ]
        self._logprobs: dict[SequenceState, ChoiceLogprobs] = {}
        if wanted.logprobs is not None:
            for state in self._states:
                scores = Scores(state.job, deployment.template, wanted.logprobs, names_ids=wanted.names_ids)
                self._logprobs[state] = ChoiceLogprobs(scores)
        self._prompt_logprobs = dict.fromkeys(self._states, b"[]")
        self.held_bytes = 0

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Keep the delta; nothing is sent yet."""
        state = self._states[delta.index]
        state.take(delta)
        self.held_bytes += len(delta.text)
        if self._logprobs:
            self.held_bytes += self._logprobs[state].take(delta)
        if delta.prompt and self._wanted.prompt_logprobs is not None:
            self._prompt_logprobs[state] = written = dump(of_prompt(delta.prompt, self._wanted.prompt_logprobs))
            self.held_bytes += len(written)
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:
        """The one document."""
        states, width, returned = self._states, self._states[0].job.width, self._wanted.returned
        if returned < width:
            prompts = (states[start : start + width] for start in range(0, len(states), width))
            states = [state for own in prompts for state in likeliest(own, returned)]
        choices = [self._choice(index, state) for index, state in enumerate(states)]
        head = _head(self._wanted, self._deployment)
        document: Completion = {**head, "choices": choices, "usage": usage(done)}
        text = dump(document)
        if self._logprobs:
            text = fill(text, NO_LOGPROBS, [self._logprobs[state].written() for state in states])
        if self._wanted.prompt_logprobs is not None:
            text = fill(text, NO_PROMPT_LOGPROBS, [self._prompt_logprobs[state] for state in states])
        return (text,)

    def _choice(self, index: int, state: SequenceState) -> CompletionChoice:
        choice = _choice(index, state.text, None, state.finish, self._deployment)
        if self._wanted.prompt_logprobs is not None:
            choice["prompt_logprobs"] = []
        if self._wanted.has_ids:
            choice["token_ids"], choice["prompt_token_ids"] = state.ids, state.job.prompt_ids
        return choice

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(error_body(error))


class Scored:
    """An answer that is the prompt alone: the token that the engine could not but generate is left out."""

    def __init__(self, render: Renderer) -> None:
        """Hand what is left to `render`."""
        self._render = render

    @property
    def held_bytes(self) -> int:
        """The inner one's."""
        return self._render.held_bytes

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """The delta without what was generated."""
        finish = Finish("length") if delta.finish and delta.finish.reason != "abort" else delta.finish
        return self._render.delta(replace(delta, text="", ids=[], tokens=[], finish=finish))

    def done(self, done: Finished) -> Sequence[bytes]:
        """The end, with nothing generated."""
        return self._render.done(replace(done, completion_tokens=0))

    def fail(self, error: Error) -> bytes:
        """The error in place of the answer."""
        return self._render.fail(error)
