"""Write answers by a formatter of LMI's older kind, which is called for each token with all that came so far.

Its parameter is a TextGenerationOutput of `djl_python.request_io`: sequences by index, each read token by token. What
it gives for each token of the first sequence is a text; together they are the whole answer, in a stream each is a
payload.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects.formatters import line
from lmi_chat.dialects.sequence import LMI_FINISH, SequenceState, finish_word
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.djl import library
from lmi_chat.errors import Error, HookFailed
from lmi_chat.job import Delta, Finished, Job, Token, TokenLogprob

KINDS = frozenset({"RequestOutput", "TextGenerationOutput"})
PROMPTS = frozenset({"messages", "prompt", "inputs"})
NO_TOKEN = -1


def is_for_tokens(function: Callable[..., Any]) -> bool:
    """Whether a formatter says by its parameter's type that it is of the older kind."""
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):  # something callable that tells nothing of itself
        return False
    kind = parameters[0].annotation if parameters else None
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return name.rpartition(".")[2].strip("'\"") in KINDS


class TokenFormatter:
    """A formatter that writes each token."""

    def __init__(self, write: Callable[[Any], Any]) -> None:
        """`write` is called with a TextGenerationOutput and gives a text."""
        self._write = write

    def apply(self, parsed: ParsedRequest, body: Json) -> None:
        """Have `parsed` answered so; each token comes with its log-probability then, calls and reasoning as text.

        A vector is no text and stays.
        """
        if parsed.job.pooling is not None:
            return
        parsed.jobs = tuple(map(_shown_by_token, parsed.jobs))
        inner = body.get("parameters")
        given = inner if isinstance(inner, dict) else {name: body[name] for name in body.keys() - PROMPTS}
        parsed.render = Written(parsed, given, self._write)


def _shown_by_token(job: Job) -> Job:
    """The job with log-probabilities, and its text in one piece: each token is to have its own."""
    sampling = job.sampling
    return replace(job, sampling=replace(sampling, logprobs=sampling.logprobs or 0), parsing=None)


class Written:
    """The render of an answer that a formatter writes token by token; errors keep their own shape."""

    def __init__(self, parsed: ParsedRequest, given: Mapping[str, Any], write: Callable[[Any], Any]) -> None:
        """Write the answer to `parsed`, whose parameters were `given`."""
        self._is_stream, self._inner, self._write = parsed.is_stream, parsed.render, write
        self._io = library.request_io()
        self._outputs = [self._output(job, given) for job in parsed.jobs]
        self._texts: list[list[str]] = [[] for _ in parsed.jobs]
        self._places = [(place, index) for place, job in enumerate(parsed.jobs) for index in range(job.width)]
        self.held_bytes = 0
        self._states = [SequenceState(parsed.jobs[place]) for place, _ in self._places]

    def _output(self, job: Job, given: Mapping[str, Any]) -> Any:
        asked = self._io.TextInput(
            request_id=job.id, parameters=dict(given), input_text=job.prompt_text, input_ids=list(job.prompt_ids)
        )
        return self._io.TextGenerationOutput(request_id=job.id, input=asked)

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """A payload per token of each prompt's first sequence; of a whole answer nothing yet. Raises HookFailed."""
        place, index = self._places[delta.index]
        output = self._outputs[place]
        if delta.prompt:
            output.prompt_tokens_details = [self._prompt_token(token) for token in delta.prompt if token is not None]
        tokens = self._tokens(delta)
        finish = finish_word(delta.finish, LMI_FINISH)
        payloads = []
        for number, (token, top) in enumerate(tokens, 1):
            is_last = number == len(tokens) and finish is not None
            output.set_next_token(token, index, is_last, finish if is_last else None)
            output.sequences[index].cumulative_log_prob += token.log_prob or 0.0
            if top:
                output.set_next_top_tokens([self._token(each.id, _text(each.bytes), each) for each in top], index)
            output.finished = output.finished or (is_last and index == 0)
            if index == 0:
                payloads += self._called(place)
        return payloads

    def _tokens(self, delta: Delta) -> list[tuple[Any, Sequence[TokenLogprob]]]:
        """The tokens of a delta with their texts and alternatives; an end without a token is one that is none."""
        if spelled := self._states[delta.index].spell(delta):
            return [(self._token(token.choice.id, text, token.choice), token.top) for token, text in spelled]
        if delta.ids and not delta.tokens:
            texts = [""] * (len(delta.ids) - 1) + [delta.text]
            return [(self._io.Token(token_id, text), ()) for token_id, text in zip(delta.ids, texts, strict=True)]
        return [(self._io.Token(NO_TOKEN, delta.text, 0.0, special_token=True), ())] if delta.finish is not None else []

    def _token(self, token_id: int, text: str, choice: Any) -> Any:
        logprob = choice.logprob if math.isfinite(choice.logprob) else None
        return self._io.Token(token_id, text, logprob, special_token=choice.is_special)

    def _prompt_token(self, token: Token) -> Any:
        return self._token(token.choice.id, _text(token.choice.bytes), token.choice)

    def _called(self, place: int) -> list[bytes]:
        try:
            text = self._write(self._outputs[place])
        except Exception as error:
            raise HookFailed.of("the output formatter", error) from error
        if isinstance(text, dict | list):
            text = dump(text).decode()
        if not isinstance(text, str):
            raise HookFailed(f"the output formatter must give a str, got {type(text).__name__}")
        if not self._is_stream:
            self._texts[place].append(text)
            self.held_bytes += len(text)
            return []
        return [payload] if (payload := line(text)) else []

    def done(self, done: Finished) -> Sequence[bytes]:  # noqa: ARG002 a formatter has told the end with the last token
        """The whole answer: prompt by prompt, all that was written. Of a stream nothing is left."""
        return () if self._is_stream else ("".join(text for texts in self._texts for text in texts).encode(),)

    def fail(self, error: Error) -> bytes:
        """The dialect's own."""
        return self._inner.fail(error)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
