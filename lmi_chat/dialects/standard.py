"""The standard dialect: LMI's `inputs` and `parameters`, which TGI's clients speak too. Wire names live only here.

Shapes: DJL Serving's "LMI handlers inference API schema"; the streamed line is what LMI and TGI send.
"""

import codecs
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from lmi_chat.bounds import SAMPLING, Field
from lmi_chat.dialects import desk as common
from lmi_chat.dialects.desk import Desk, Form, Task
from lmi_chat.errors import BadField, Error, Problem, echo
from lmi_chat.job import Done, Finish, Job, Piece, Token
from lmi_chat.wire import Json, dump

DEFAULT_NEW_TOKENS = 30
BOOLEAN = Field(kind="boolean", default=False, meaning="")
RENAMED = {
    "max_new_tokens": "max_tokens",
    "stop_sequences": "stop",
    "ignore_eos_token": "ignore_eos",
    "bad_sequences": "bad_words",
    "min_length": "min_tokens",
    "top_n_tokens": "top_logprobs",
    "truncate": "truncate_prompt_tokens",
}
FIELDS: Mapping[str, Field] = {
    name: SAMPLING[name]
    for name in (
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
        *("seed", "stop", "stop_token_ids", "include_stop_str_in_output", "skip_special_tokens", "min_tokens"),
        *("spaces_between_special_tokens", "logit_bias", "ignore_eos", "prompt_logprobs"),
    )
} | {wire: SAMPLING[name] for wire, name in RENAMED.items()}
OWN = frozenset({"do_sample", "details", "decoder_input_details", "return_full_text", "stream", "logprobs"})
BODY_OWN = frozenset({"inputs", "parameters", "stream", "model"})
HARMLESS: Mapping[str, tuple[object, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "num_beams": (None, 1),
    "early_stopping": (None, False),
    "length_penalty": (None, 1, 1.0),
    "typical_p": (None, 1, 1.0),
    "watermark": (None, False),
    "grammar": (None,),
    "response_format": (None, {"type": "text"}),
    "structured_outputs": (None, {}),
}
KNOWN = {name: f"parameters.{name}" for name in (*FIELDS, *OWN, *HARMLESS)}
ANYWHERE = KNOWN | {name: name for name in BODY_OWN}
SAMPLES = ("temperature", "top_p", "top_k", "min_p")
FINISH = {"stop": "eos_token", "length": "length", "abort": "abort"}
CLOSING_TOKEN = {"id": -1, "text": "", "log_prob": 0.0, "logprob": 0.0, "special": True}
ERROR_TOKEN = {"id": -1, "text": "", "log_prob": -1, "special_token": True}


def parse(body: Json, desk: Desk, request_id: str) -> Task:
    """A standard body → Task. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    common.check_model(body.get("model"), desk)
    parameters = _check_shape(body)
    form = Form(desk, prefix="parameters.")
    form.ignore((name for name in body if name not in BODY_OWN), ANYWHERE, "")
    form.read(parameters, FIELDS, KNOWN)
    _check_unserved(parameters, form)
    prompt = _check_inputs(body.get("inputs"), form)
    is_stream = _check_stream(body, parameters, form)
    flags = {name: form.value(parameters, name, BOOLEAN) for name in ("details", "return_full_text")}
    fixed = _check_sampling(parameters, form, has_tokens=is_stream or flags["details"], has_details=flags["details"])
    fixed |= _check_prefill(parameters, form, is_stream=is_stream)
    common.check_vocabulary(form)
    unknown = form.close()

    common.check_length(prompt, desk, "inputs")
    ids = desk.template.encode(prompt, add_special_tokens=True)[-form.extra.get("truncate", 0) :]
    if not ids:
        raise BadField([Problem("inputs", f"inputs must have at least 1 token, got {echo(prompt)}")])
    values = common.sampling(form, {"max_tokens": DEFAULT_NEW_TOKENS}, **fixed)
    chosen = common.seat(ids, values, form, path="inputs")
    job = Job(id=request_id, prompt_ids=ids, prompt_text=prompt, sampling=chosen)
    render: common.Render = Lines(job, **flags) if is_stream else Whole(job, **flags)
    return Task(dialect="standard", job=job, is_stream=is_stream, render=render, has_end=False, unknown=unknown)


def _check_shape(body: Json) -> Json:
    parameters = body.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadField([Problem("parameters", f"parameters must be an object, got {echo(parameters)}")])
    return parameters


def _check_unserved(parameters: Json, form: Form) -> None:
    for name, harmless in HARMLESS.items():
        if name in parameters and not any(
            parameters[name] == value and type(parameters[name]) is type(value) for value in harmless
        ):
            form.wrong(f"parameters.{name}", f"is not served by this version, got {echo(parameters[name])}")


def _check_inputs(inputs: object, form: Form) -> str:
    if isinstance(inputs, list) and len(inputs) == 1:
        inputs = inputs[0]
    if isinstance(inputs, list):
        form.wrong("inputs", f"must be one string in this version, got {echo(inputs)}")
    elif not isinstance(inputs, str):
        form.wrong("inputs", f"must be a string, got {echo(inputs)}")
    elif not inputs:
        form.wrong("inputs", "must not be empty")
    return inputs if isinstance(inputs, str) else ""


def _check_stream(body: Json, parameters: Json, form: Form) -> bool:
    for place, prefix in ((body, ""), (parameters, "parameters.")):
        if place.get("stream") is not None:
            return bool(Form(form.desk, prefix=prefix, problems=form.problems).value(place, "stream", BOOLEAN))
    return form.desk.streams_by_default


def _check_sampling(parameters: Json, form: Form, *, has_tokens: bool, has_details: bool) -> dict[str, Any]:
    """`do_sample` decides; where it is absent, asking for a way of sampling does."""
    do_sample = form.value(parameters, "do_sample", Field(kind="boolean", meaning=""))
    if do_sample is None:
        do_sample = any(name in form.given for name in SAMPLES)
    top = form.value(parameters, "logprobs", SAMPLING["top_logprobs"]) if "logprobs" in parameters else 0
    top = max(top, form.extra.get("top_n_tokens") or 0)
    fixed: dict[str, Any] = {"logprobs": top if has_tokens or top else None}
    if not do_sample:
        return fixed | {"temperature": 0.0}
    if has_details and "seed" not in form.given:
        fixed["seed"] = secrets.randbits(53)
    return fixed


def _check_prefill(parameters: Json, form: Form, *, is_stream: bool) -> dict[str, Any]:
    wanted = form.value(parameters, "decoder_input_details", BOOLEAN)
    if wanted and is_stream:
        form.wrong("parameters.decoder_input_details", "must be false with stream true, got true")
    return {"prompt_logprobs": 0} if wanted and "prompt_logprobs" not in form.given else {}


def error_body(error: Exception) -> Json:
    """An Error as LMI has it, with the field's path beside it."""
    if not isinstance(error, Error):
        error = Error("internal error")
    return {"error": error.message, "code": error.status, "type": error.kind, "param": error.param}


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


class Growth:
    """What one sequence has become so far; gives each token its own share of the text."""

    def __init__(self, prompt: str) -> None:
        """Start with `prompt` when the full text is wanted, else with ""."""
        self.texts = [prompt] if prompt else []
        self.count = 0
        self.finish: Finish | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def take(self, piece: Piece) -> list[Json]:
        """Add a piece; give its tokens, whose texts joined are the piece's text."""
        self.texts.append(piece.text)
        self.count += len(piece.ids)
        self.finish = piece.finish or self.finish
        return [_token(token, text) for token, text in zip(piece.tokens, self._share(piece), strict=True)]

    def _share(self, piece: Piece) -> list[str]:
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


class Lines:
    """A streamed answer: one line per token, the last of them with the whole text."""

    def __init__(self, job: Job, *, details: bool, return_full_text: bool) -> None:
        """Remember what the last line is to carry."""
        self._job, self._has_details = job, details
        self._sequence = Growth(job.prompt_text if return_full_text else "")

    def piece(self, piece: Piece) -> Sequence[bytes]:
        """A line per token; the one that ends the sequence closes it, an end without a token has a line of its own."""
        tokens = self._sequence.take(piece)
        if piece.finish is not None and not tokens:
            tokens = [CLOSING_TOKEN | {"text": piece.text}]
        lines: list[Json] = [
            {"index": piece.index, "token": token, "generated_text": None, "details": None} for token in tokens
        ]
        for line, token in zip(lines, piece.tokens, strict=False):
            if token.top:
                line["top_tokens"] = _top(token)
        if piece.finish is not None:
            lines[-1]["generated_text"] = "".join(self._sequence.texts)
            lines[-1]["details"] = self._details() if self._has_details else None
        return [dump(line) for line in lines]

    def _details(self) -> Json:
        return self._sequence.details(self._job) | {"input_length": len(self._job.prompt_ids)}

    def done(self, done: Done) -> Sequence[bytes]:  # noqa: ARG002 the last line has gone with the last piece
        """Nothing more."""
        return ()

    def fail(self, error: Error) -> bytes:
        """LMI's documented error line, with the text so far and the reason."""
        return dump(
            {
                "token": ERROR_TOKEN,
                "generated_text": "".join(self._sequence.texts),
                "details": {"finish_reason": "error", "generated_tokens": self._sequence.count},
            }
            | error_body(error)
        )


class Whole:
    """A whole answer: the fold of the same pieces."""

    def __init__(self, job: Job, *, details: bool, return_full_text: bool) -> None:
        """Remember what the document is to carry."""
        self._job, self._has_details = job, details
        self._sequence = Growth(job.prompt_text if return_full_text else "")
        self._tokens: list[Json] = []
        self._top: list[list[Json]] = []

    def piece(self, piece: Piece) -> Sequence[bytes]:
        """Keep the piece; nothing is sent yet."""
        self._tokens += self._sequence.take(piece)
        self._top += [_top(token) for token in piece.tokens if token.top]
        return ()

    def done(self, done: Done) -> Sequence[bytes]:
        """The one document."""
        answer: Json = {"generated_text": "".join(self._sequence.texts)}
        if self._has_details:
            answer["details"] = self._details(done)
        return (dump(answer),)

    def _details(self, done: Done) -> Json:
        details = self._sequence.details(self._job) | {"inputs": self._job.prompt_text}
        details["tokens"] = self._tokens
        if self._top:
            details["top_tokens"] = self._top
        prefill = [token for token in done.prompt_logprobs if token is not None]
        details["prefill"] = [_prefill(token) for token in prefill]
        details["usage"] = {
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.completion_tokens,
            "total_tokens": done.prompt_tokens + done.completion_tokens,
            "cached_tokens": done.cached_tokens,
        }
        return details

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(error_body(error))


def _prefill(token: Token) -> Json:
    choice = token.choice
    text = choice.bytes.decode("utf-8", "replace")
    return {"id": choice.id, "text": text, "log_prob": choice.logprob, "logprob": choice.logprob}
