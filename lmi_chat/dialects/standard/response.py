"""Render answers in LMI's standard schema: a line per token, or one document."""

from collections.abc import Sequence
from dataclasses import replace

from lmi_chat.codec.json_text import Array, dump, fill, number
from lmi_chat.dialects import tgi
from lmi_chat.dialects.answer import LmiError, PromptScores
from lmi_chat.dialects.logprobs import of_prompt
from lmi_chat.dialects.sequence import LMI_FINISH, TGI_FINISH, SequenceState, counts, finish_word, likeliest
from lmi_chat.dialects.standard.answer import (
    ErrorToken,
    GeneratedToken,
    Generation,
    GenerationDetails,
    GenerationErrorLine,
    GenerationLine,
    MediaCounts,
    OtherSequences,
    PrefillToken,
    SequenceDetails,
    SequenceEnd,
    TopToken,
    TopTokens,
)
from lmi_chat.dialects.task import TokenRenderer
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Finished, Job, Token

NO_TOKENS, NO_TOP_TOKENS = b'"tokens":[]', b'"top_tokens":[]'
CLOSING_TOKEN: GeneratedToken = {"id": -1, "text": "", "log_prob": 0.0, "logprob": 0.0, "special": True}
LINE = (
    b'{"index":0,"token":{"id":%d,"text":"%b","log_prob":%b,"logprob":%b,"special":false},'
    b'"generated_text":null,"details":null}'
)
ERROR_TOKEN: ErrorToken = {"id": -1, "text": "", "log_prob": -1, "special_token": True}


def error_body(error: Exception) -> LmiError:
    """An Error as LMI has it, with the field's path beside it."""
    if not isinstance(error, Error):
        error = Error("internal error")
    return {"error": error.message, "code": error.status, "type": error.kind, "param": error.param}


def _token(token: Token, text: str) -> GeneratedToken:
    choice = token.choice
    return {
        "id": choice.id,
        "text": text,
        "log_prob": choice.logprob,
        "logprob": choice.logprob,
        "special": choice.is_special,
    }


def _top(token: Token) -> list[TopToken]:
    return [
        {"id": top.id, "text": top.bytes.decode("utf-8", "replace"), "logprob": top.logprob, "special": top.is_special}
        for top in token.top
    ]


def _prefill(token: Token) -> PrefillToken:
    choice = token.choice
    text = choice.bytes.decode("utf-8", "replace")
    return {"id": choice.id, "text": text, "log_prob": choice.logprob, "logprob": choice.logprob}


def _begin(job: Job, *, return_full_text: bool) -> SequenceState:
    return SequenceState(job, job.prompt_text if return_full_text else "")


def _ending(state: SequenceState, *, is_tgi: bool) -> SequenceEnd:
    """What is said about a sequence besides its text and tokens."""
    return {
        "finish_reason": finish_word(state.finish, TGI_FINISH if is_tgi else LMI_FINISH) or "abort",
        "generated_tokens": state.count,
        "seed": state.job.sampling.seed,
    }


class Lines(TokenRenderer):
    """A streamed answer: one line per token, the last of each sequence with its whole text.

    `index` counts prompts and sequences, prompt by prompt.
    """

    def __init__(self, jobs: Sequence[Job], *, details: bool, return_full_text: bool, is_tgi: bool = False) -> None:
        """Remember what the last lines are to carry."""
        self._is_tgi = is_tgi
        self._has_details = details
        self._states = [_begin(job, return_full_text=return_full_text) for job in jobs for _ in range(job.width)]
        self.is_quick = len(self._states) == 1 and not jobs[0].sampling.stop

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """A line per token; the one that ends the sequence closes it, an end without a token has a line of its own."""
        state = self._states[delta.index]
        state.take(delta, is_shown=True)
        spelled = state.spell(delta)
        tokens = [_token(token, text) for token, text in spelled]
        if delta.finish is not None and not tokens:
            tokens = [{**CLOSING_TOKEN, "text": delta.text}]
        lines: list[GenerationLine] = [
            {"index": delta.index, "token": token, "generated_text": None, "details": None} for token in tokens
        ]
        for line, (token, _) in zip(lines, spelled, strict=False):
            if token.top:
                line["top_tokens"] = _top(token)
        if delta.finish is not None:
            lines[-1]["generated_text"] = state.text
            if self._has_details:
                ending = _ending(state, is_tgi=self._is_tgi)
                lines[-1]["details"] = {**ending, "input_length": len(state.job.prompt_ids)}
        return [dump(line) for line in lines]

    def token(self, token_id: int, spelled: bytes, logprob: float) -> bytes:
        """The line of one token that is shown and does not end the sequence."""
        self._states[0].take_token(spelled)
        return LINE % (token_id, spelled, shown := number(logprob), shown)

    def done(self, done: Finished) -> Sequence[bytes]:  # noqa: ARG002 the last line has gone with the last delta
        """Nothing more."""
        return ()

    def fail(self, error: Error) -> bytes:
        """LMI's documented error line, with the text so far and the reason."""
        state = next((state for state in self._states if state.finish is None), self._states[0])
        line: GenerationErrorLine = {
            "token": ERROR_TOKEN,
            "generated_text": state.text,
            "details": {"finish_reason": "error", "generated_tokens": state.count},
            **error_body(error),
        }
        return dump(tgi.typed(line, error, is_tgi=self._is_tgi))


class Whole:
    """A whole answer to one prompt: the fold of the same deltas; of several sequences the likeliest comes first."""

    def __init__(
        self,
        job: Job,
        *,
        details: bool,
        return_full_text: bool,
        returned: int = 1,
        prompt_logprobs: int | None = None,
        is_tgi: bool = False,
    ) -> None:
        """Remember what the document is to carry, how many sequences, and how many alternatives per prompt token."""
        self._is_tgi = is_tgi
        self.job, self._has_details, self._returned = job, details, returned
        self._prompt_logprobs = prompt_logprobs
        self._states = [_begin(job, return_full_text=return_full_text) for _ in range(job.width)]
        self._tokens = {state: Array() for state in self._states}
        self._top_tokens = {state: Array() for state in self._states}
        self.held_bytes = 0

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Keep the delta, its tokens as they will be shown; nothing is sent yet."""
        state = self._states[delta.index]
        state.take(delta)
        self.held_bytes += len(delta.text)
        if self._has_details:
            spelled = state.spell(delta)
            self.held_bytes += self._tokens[state].add([_token(token, text) for token, text in spelled])
            self.held_bytes += self._top_tokens[state].add([_top(token) for token, _ in spelled if token.top])
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:
        """The one document."""
        return (self.document(done),)

    def document(self, done: Finished) -> bytes:
        """The document of this prompt."""
        states = self._states[: self._returned] if self.job.beams else likeliest(self._states, self._returned)
        answer: Generation = {"generated_text": states[0].text}
        if not self._has_details:
            return dump(answer)
        answer["details"] = self._details(states, done)
        text = fill(dump(answer), NO_TOKENS, [self._tokens[state].written() for state in states])
        tops = [self._top_tokens[state].written() for state in states if self._top_tokens[state].has_any]
        return fill(text, NO_TOP_TOKENS, tops) if tops else text

    def _sequence(self, state: SequenceState, prefill: list[PrefillToken]) -> SequenceDetails:
        ranked: TopTokens = {"top_tokens": []} if self._top_tokens[state].has_any else {}
        return {**_ending(state, is_tgi=self._is_tgi), "tokens": [], "prefill": prefill, **ranked}

    def _details(self, states: Sequence[SequenceState], done: Finished) -> GenerationDetails:
        prefill = [_prefill(token) for token in done.prompt_logprobs if token is not None]
        best, *rest = states
        others: OtherSequences = {}
        if rest:
            others["best_of_sequences"] = [{"generated_text": one.text, **self._sequence(one, prefill)} for one in rest]
        ranked: PromptScores = {}
        if self._prompt_logprobs is not None:
            ranked["prompt_logprobs"] = of_prompt(done.prompt_logprobs, self._prompt_logprobs)
        media: MediaCounts = {"multimodal_tokens": dict(done.media_tokens)} if done.media_tokens else {}
        return {
            **self._sequence(best, prefill),
            **ranked,
            "inputs": self.job.prompt_text,
            "usage": {**counts(done), "cached_tokens": done.cached_tokens, **media},
            **others,
        }

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(error_body(error))


class WholeList:
    """Whole answers to a list of prompts: a list of documents, in order."""

    def __init__(self, wholes: Sequence[Whole]) -> None:
        """One render per prompt."""
        self._wholes = wholes
        self._places = [(whole, index) for whole in wholes for index in range(whole.job.width)]
        self.held_bytes = 0

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Hand the delta to its prompt's render."""
        whole, index = self._places[delta.index]
        before = whole.held_bytes
        whole.delta(replace(delta, index=index))
        self.held_bytes += whole.held_bytes - before
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:
        """All documents as one array."""
        parts = done.parts or (done,)
        documents = (whole.document(part) for whole, part in zip(self._wholes, parts, strict=True))
        return (b"[%b]" % b",".join(documents),)

    def fail(self, error: Error) -> bytes:
        """The error in place of the documents."""
        return dump(error_body(error))
