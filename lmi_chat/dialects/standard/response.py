"""The standard dialect's answers: a line per token, or one document. Parsing is standard.py's."""

import codecs
from collections.abc import Sequence
from dataclasses import replace

from lmi_chat.codec.json_text import Json, dump, unescape
from lmi_chat.dialects.desk import TokenRenderer
from lmi_chat.dialects.logprobs import of_prompt
from lmi_chat.errors import CutOff, Error, TimedOut
from lmi_chat.job import Delta, Finish, Finished, Job, Token

FINISH = {"stop": "eos_token", "length": "length", "abort": "abort", "time_limit": "time_limit"}
CLOSING_TOKEN = {"id": -1, "text": "", "log_prob": 0.0, "logprob": 0.0, "special": True}
LINE = (
    b'{"index":0,"token":{"id":%d,"text":"%b","log_prob":%b,"logprob":%b,"special":false},'
    b'"generated_text":null,"details":null}'
)
ERROR_TOKEN = {"id": -1, "text": "", "log_prob": -1, "special_token": True}


def error_body(error: Exception) -> Json:
    """An Error as LMI has it, with the field's path beside it."""
    if not isinstance(error, Error):
        error = Error("internal error")
    return {"error": error.message, "code": error.status, "type": error.kind, "param": error.param}


def tgi_type(error: Exception) -> str:
    """What TGI calls an Error, in `error_type`: its clients choose the exception that they raise by it."""
    if not isinstance(error, Error):
        return "generation"
    if error.status < Error.status and error.kind != Error.kind:
        return "validation"
    if error.is_retry_free:
        return "overloaded"
    return "incomplete_generation" if error.code in {TimedOut.code, CutOff.code} else "generation"


def _finish(finish: Finish | None) -> str:
    if finish is None:
        return "abort"
    return "stop_sequence" if isinstance(finish.stop, str) else FINISH[finish.reason]


def _token(token: Token, text: str) -> Json:
    choice = token.choice
    shown: Json = {"id": choice.id, "text": text, "log_prob": choice.logprob, "logprob": choice.logprob}
    return shown | {"special": choice.is_special}


def _top(token: Token) -> list[Json]:
    return [
        {"id": top.id, "text": top.bytes.decode("utf-8", "replace"), "logprob": top.logprob, "special": top.is_special}
        for top in token.top
    ]


def _prefill(token: Token) -> Json:
    choice = token.choice
    text = choice.bytes.decode("utf-8", "replace")
    return {"id": choice.id, "text": text, "log_prob": choice.logprob, "logprob": choice.logprob}


class Growth:
    """What one sequence has become so far; gives each token its own share of the text."""

    def __init__(self, prompt: str) -> None:
        """Start with `prompt` when the full text is wanted, else with ""."""
        self._spelled = [dump(prompt)[1:-1]] if prompt else []  # as JSON writes it, without quotes
        self.count = 0
        self.logprob = 0.0
        self.finish: Finish | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    @property
    def text(self) -> str:
        """All of it."""
        return unescape(b"".join(self._spelled))

    @property
    def likelihood(self) -> float:
        """Mean log-probability of its tokens, by which sequences are ranked."""
        return self.logprob / max(self.count, 1)

    def take(self, piece: Delta) -> list[Json]:
        """Add a piece; give its tokens, whose texts joined are the piece's text."""
        self._spelled.append(dump(piece.text)[1:-1])
        self.count += len(piece.ids)
        self.logprob += sum(token.choice.logprob for token in piece.tokens)
        self.finish = piece.finish or self.finish
        return [_token(token, text) for token, text in zip(piece.tokens, self._share(piece), strict=True)]

    def take_token(self, spelled: bytes, logprob: float) -> None:
        """Add one token of whole characters, whose text is spelled as in JSON."""
        self._spelled.append(spelled)
        self.count += 1
        self.logprob += logprob

    def _share(self, piece: Delta) -> list[str]:
        """The piece's text cut along its tokens: each gets as many characters as its own bytes complete."""
        shares, start = [], 0
        for token in piece.tokens:
            end = start + (0 if token.choice.is_special else len(self._decoder.decode(token.choice.bytes)))
            shares.append(piece.text[start:end])
            start = min(end, len(piece.text))
        if shares:
            shares[-1] += piece.text[start:]
        return shares

    def details(self, job: Job) -> Json:
        """What is said about the sequence besides its text."""
        return {
            "finish_reason": _finish(self.finish),
            "generated_tokens": self.count,
            "seed": job.sampling.seed,
        }


class Lines(TokenRenderer):
    """A streamed answer: one line per token, the last of each sequence with its whole text.

    `index` counts prompts and sequences, prompt by prompt.
    """

    def __init__(self, jobs: Sequence[Job], *, details: bool, return_full_text: bool, is_tgi: bool = False) -> None:
        """Remember what the last lines are to carry."""
        self._is_tgi = is_tgi
        self._jobs = [job for job in jobs for _ in range(job.width)]
        self._has_details = details
        self._growths = [Growth(job.prompt_text if return_full_text else "") for job in self._jobs]
        self.is_quick = len(self._jobs) == 1

    def piece(self, piece: Delta) -> Sequence[bytes]:
        """A line per token; the one that ends the sequence closes it, an end without a token has a line of its own."""
        growth = self._growths[piece.index]
        tokens = growth.take(piece)
        if piece.finish is not None and not tokens:
            tokens = [CLOSING_TOKEN | {"text": piece.text}]
        lines: list[Json] = [
            {"index": piece.index, "token": token, "generated_text": None, "details": None} for token in tokens
        ]
        for line, token in zip(lines, piece.tokens, strict=False):
            if token.top:
                line["top_tokens"] = _top(token)
        if piece.finish is not None:
            lines[-1]["generated_text"] = growth.text
            lines[-1]["details"] = self._details(piece.index) if self._has_details else None
        return [dump(line) for line in lines]

    def token(self, token_id: int, spelled: bytes, logprob: float) -> bytes:
        """The line of one token that is shown and does not end the sequence."""
        self._growths[0].take_token(spelled, logprob)
        return LINE % (token_id, spelled, number := dump(logprob), number)

    def _details(self, index: int) -> Json:
        job = self._jobs[index]
        return self._growths[index].details(job) | {"input_length": len(job.prompt_ids)}

    def done(self, done: Finished) -> Sequence[bytes]:  # noqa: ARG002 the last line has gone with the last piece
        """Nothing more."""
        return ()

    def fail(self, error: Error) -> bytes:
        """LMI's documented error line, with the text so far and the reason."""
        growth = next((growth for growth in self._growths if growth.finish is None), self._growths[0])
        return dump(
            {
                "token": ERROR_TOKEN,
                "generated_text": growth.text,
                "details": {"finish_reason": "error", "generated_tokens": growth.count},
            }
            | error_body(error)
            | ({"error_type": tgi_type(error)} if self._is_tgi else {})
        )


class Whole:
    """A whole answer to one prompt: the fold of the same pieces; of several sequences the likeliest comes first."""

    def __init__(
        self,
        job: Job,
        *,
        details: bool,
        return_full_text: bool,
        returned: int = 1,
        prompt_logprobs: int | None = None,
    ) -> None:
        """Remember what the document is to carry, how many sequences, and how many alternatives per prompt token."""
        self.job, self._has_details, self._returned = job, details, returned
        self._prompt_logprobs = prompt_logprobs
        width = job.width
        self._growths = [Growth(job.prompt_text if return_full_text else "") for _ in range(width)]
        self._tokens: list[list[Json]] = [[] for _ in range(width)]
        self._tops: list[list[list[Json]]] = [[] for _ in range(width)]

    def piece(self, piece: Delta) -> Sequence[bytes]:
        """Keep the piece; nothing is sent yet."""
        self._tokens[piece.index] += self._growths[piece.index].take(piece)
        self._tops[piece.index] += [_top(token) for token in piece.tokens if token.top]
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:
        """The one document."""
        return (dump(self.document(done)),)

    def document(self, done: Finished) -> Json:
        """The document before it is bytes."""
        order = list(range(len(self._growths)))
        if not self.job.beams:
            order.sort(key=lambda index: -self._growths[index].likelihood)
        best, *others = order[: self._returned]
        answer: Json = {"generated_text": self._growths[best].text}
        if self._has_details:
            answer["details"] = self._details(best, done)
            if others:
                answer["details"]["best_of_sequences"] = [self._other(index) for index in others]
        return answer

    def _sequence(self, index: int) -> Json:
        details = self._growths[index].details(self.job) | {"tokens": self._tokens[index]}
        return details | ({"top_tokens": self._tops[index]} if self._tops[index] else {})

    def _other(self, index: int) -> Json:
        return {"generated_text": self._growths[index].text} | self._sequence(index)

    def _details(self, index: int, done: Finished) -> Json:
        prefill = [token for token in done.prompt_logprobs if token is not None]
        ranked: Json = {}
        if self._prompt_logprobs is not None:
            ranked["prompt_logprobs"] = of_prompt(done.prompt_logprobs, self._prompt_logprobs)
        return (
            self._sequence(index)
            | ranked
            | {
                "inputs": self.job.prompt_text,
                "prefill": [_prefill(token) for token in prefill],
                "usage": {
                    "prompt_tokens": done.prompt_tokens,
                    "completion_tokens": done.completion_tokens,
                    "total_tokens": done.prompt_tokens + done.completion_tokens,
                    "cached_tokens": done.cached_tokens,
                },
            }
        )

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(error_body(error))


class WholeList:
    """Whole answers to a list of prompts: a list of documents, in order."""

    def __init__(self, wholes: Sequence[Whole]) -> None:
        """One render per prompt."""
        self._wholes = wholes
        self._places = [(whole, index) for whole in wholes for index in range(whole.job.width)]

    def piece(self, piece: Delta) -> Sequence[bytes]:
        """Hand the piece to its prompt's render."""
        whole, index = self._places[piece.index]
        return whole.piece(replace(piece, index=index))

    def done(self, done: Finished) -> Sequence[bytes]:
        """All documents as one array."""
        parts = done.parts or (done,)
        return (dump([whole.document(part) for whole, part in zip(self._wholes, parts, strict=True)]),)

    def fail(self, error: Error) -> bytes:
        """The error in place of the documents."""
        return dump(error_body(error))
