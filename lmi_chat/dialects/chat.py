"""The chat dialect: OpenAI-style chat completions. Parse and render stand together; wire names live only here.

Shapes: OpenAI API reference, "Chat completions" (completion object, chunk object, streaming usage chunk).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lmi_chat.bounds import SAMPLING, Field
from lmi_chat.dialects import desk as common
from lmi_chat.dialects.desk import Desk, Form, Task
from lmi_chat.dialects.messages import check_messages
from lmi_chat.errors import Error, echo
from lmi_chat.job import Choice, Done, Finish, Job, Piece, Token
from lmi_chat.wire import Json, dump

BOOLEAN = Field(kind="boolean", default=False, meaning="")
FIELDS: Mapping[str, Field] = {
    name: SAMPLING[name]
    for name in (
        *("n", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
        *("repetition_penalty", "seed", "max_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos"),
        *("include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens", "logit_bias"),
        *(
            "allowed_token_ids",
            "bad_words",
            "top_logprobs",
            "truncate_prompt_tokens",
            "priority",
            "best_of",
            "length_penalty",
        ),
    )
} | {"max_completion_tokens": SAMPLING["max_tokens"]}
OWN = frozenset(
    {"messages", "model", "stream", "stream_options", "logprobs", "user", "metadata", "cache_salt"}
    | {
        "use_beam_search",
        "add_generation_prompt",
        "continue_final_message",
        "service_tier",
        "store",
        "modalities",
        "parallel_tool_calls",
    }
)
HARMLESS: Mapping[str, tuple[object, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "reasoning_effort": (None,),
    "prompt_logprobs": (None,),
    "structured_outputs": (None, {}),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "chat_template_kwargs": (None, {}),
    "echo": (None, False),
    "return_token_ids": (None, False),
    "audio": (None,),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "chat_template": (None,),
}
KNOWN = {name: name for name in (*FIELDS, *OWN, *HARMLESS)}
USAGE = ("include_usage", "continuous_usage_stats")
LMI_FINISH = {"stop": "eos_token", "length": "length", "abort": "abort", "stop_sequence": "stop_sequence"}


def parse(body: Json, desk: Desk, request_id: str) -> Task:
    """A chat body → Task. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    common.check_model(body.get("model"), desk)
    form = Form(desk)
    form.read(body, FIELDS, KNOWN)
    _check_unserved(body, form)
    chat = check_messages(body.get("messages"), form)
    is_stream = form.value(body, "stream", replace(BOOLEAN, default=desk.streams_by_default))
    usage = _check_usage(body, form, is_stream=is_stream)
    logprobs = _check_logprobs(body, form)
    returned, width, beams = _check_sequences(body, form, is_stream=is_stream)
    common.check_vocabulary(form)
    flags = _check_ending(body, form)
    user, salt = (form.value(body, name, Field(kind="string", meaning="")) for name in ("user", "cache_salt"))
    unknown = form.close()

    text = desk.template.render(chat, **flags)
    common.check_length(text, desk, "messages")
    ids = desk.template.encode(text, add_special_tokens=False)[-form.extra.get("truncate_prompt_tokens", 0) :]
    values = common.sampling(form, {}, logprobs=0 if logprobs is None and width > returned else logprobs)
    copies = common.spread(values, width, beams=beams)
    job = Job(
        id=request_id,
        prompt_ids=ids,
        prompt_text=text,
        sampling=common.seat(ids, values, form, path="messages"),
        priority=form.extra.get("priority", 0),
        cache_salt=salt,
        copies=copies,
        beams=beams,
        length_penalty=form.extra.get("length_penalty", 1.0),
    )
    shown = logprobs is not None
    render = (
        Chunks(job, desk, usage, has_logprobs=shown)
        if is_stream
        else Whole(job, desk, returned=returned, has_logprobs=shown)
    )
    return Task(
        dialect="chat", jobs=(job,), is_stream=is_stream, render=render, has_end=True, unknown=unknown, user=user or ""
    )


def _check_unserved(body: Json, form: Form) -> None:
    for name, harmless in HARMLESS.items():
        if name not in body or any(body[name] == value and type(body[name]) is type(value) for value in harmless):
            continue
        if name == "chat_template":
            form.wrong(name, "is never taken from a request; it is configuration (option.chat_template)")
        else:
            form.wrong(name, f"is not served by this version, got {echo(body[name])}")
    if (modalities := body.get("modalities")) not in (None, ["text"]):
        form.wrong("modalities", f'must be ["text"], the served model gives text only; got {echo(modalities)}')


def _check_sequences(body: Json, form: Form, *, is_stream: bool) -> tuple[int, int, int]:
    """Sequences that come back, that run, and the width of a beam search (0: none)."""
    count, best_of = form.given.get("n", 1), form.extra.get("best_of", 1)
    is_search = form.value(body, "use_beam_search", BOOLEAN)
    if best_of > 1 and best_of < count:
        form.wrong("best_of", f"must be at least n = {count}, got {best_of}")
    if best_of > 1 and (is_stream or is_search):
        form.wrong("best_of", f"must be 1 with stream or use_beam_search true, got {best_of}")
    if is_search and is_stream:
        form.wrong("use_beam_search", "must be false with stream true, got true")
    return count, max(count, best_of), count if is_search else 0


def _check_usage(body: Json, form: Form, *, is_stream: bool) -> Mapping[str, bool]:
    options = body.get("stream_options")
    if options is None:
        return {}
    if not isinstance(options, dict) or not is_stream:
        form.wrong("stream_options", f"must be an object, and only with stream true; got {echo(options)}")
        return {}
    inner = Form(form.desk, prefix="stream_options.", problems=form.problems, unknown=form.unknown)
    inner.read(options, {}, {name: f"stream_options.{name}" for name in USAGE})
    return {name: inner.value(options, name, BOOLEAN) for name in USAGE}


def _check_ending(body: Json, form: Form) -> Mapping[str, bool]:
    """How the prompt ends: with the head of a new turn, or inside the last one."""
    is_continued = form.value(body, "continue_final_message", BOOLEAN)
    has_head = form.value(body, "add_generation_prompt", replace(BOOLEAN, default=not is_continued))
    if is_continued and has_head:
        form.wrong("continue_final_message", "must be false with add_generation_prompt true, got true")
    return {"continue_final_message": is_continued, "add_generation_prompt": has_head}


def _check_logprobs(body: Json, form: Form) -> int | None:
    wanted = form.value(body, "logprobs", BOOLEAN)
    top = form.extra.get("top_logprobs")
    if top and not wanted:
        form.wrong("top_logprobs", f"needs logprobs to be true, got {top}")
    return (top or 0) if wanted else None


def error_body(error: Exception) -> Json:
    """An Error as OpenAI's API has it."""
    if not isinstance(error, Error):
        error = Error("internal error")
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def _usage(done: Done) -> Json:
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _finish(finish: Finish | None, desk: Desk) -> str | None:
    if finish is None:
        return None
    if desk.finish_words is None:
        return finish.reason
    return desk.finish_words["stop_sequence" if isinstance(finish.stop, str) else finish.reason]


def _choice(choice: Choice) -> Json:
    text = choice.bytes.decode("utf-8", "replace")
    return {"token": text, "logprob": choice.logprob, "bytes": list(choice.bytes)}


def _logprobs(tokens: Sequence[Token]) -> Json:
    return {
        "content": [_choice(token.choice) | {"top_logprobs": [_choice(top) for top in token.top]} for token in tokens]
    }


def _head(job: Job, desk: Desk, kind: str) -> Json:
    return {
        "id": f"chatcmpl-{job.id}",
        "object": kind,
        "created": int(time.time()),
        "model": desk.model,
        "system_fingerprint": desk.fingerprint or None,
    }


class Chunks:
    """A streamed answer: one chat.completion.chunk per piece."""

    def __init__(self, job: Job, desk: Desk, usage: Mapping[str, bool], *, has_logprobs: bool) -> None:
        """Render what is the same in every chunk once."""
        self._desk = desk
        self._head = dump(_head(job, desk, "chat.completion.chunk"))[:-1]
        self._has_usage = usage.get("include_usage", False)
        self._is_continuous = usage.get("continuous_usage_stats", False)
        self._has_logprobs = has_logprobs
        self._started: set[int] = set()
        self._prompt_tokens = len(job.prompt_ids)
        self._completion_tokens = 0
        self._plain_head = self._head + b',"choices":[{"index":0,"delta":{"content":'
        self._plain_tail = b'},"logprobs":null,"finish_reason":null}]' + (
            b',"usage":null}' if self._has_usage else b"}"
        )

    def piece(self, piece: Piece) -> Sequence[bytes]:
        """One chunk; the plain ones, which are nearly all, are prefix + text + suffix."""
        self._completion_tokens += len(piece.ids)
        is_plain = piece.index == 0 and 0 in self._started and piece.finish is None
        if is_plain and not self._has_logprobs and not self._is_continuous:
            return (self._plain_head + dump(piece.text) + self._plain_tail,) if piece.text else ()
        if not (piece.text or piece.tokens or piece.finish):
            return ()
        return (self._chunk(piece),)

    def _chunk(self, piece: Piece) -> bytes:
        delta: Json = {"content": piece.text}
        if piece.index not in self._started:
            self._started.add(piece.index)
            delta = {"role": "assistant", "content": piece.text}
        choice = {
            "index": piece.index,
            "delta": delta,
            "logprobs": _logprobs(piece.tokens) if self._has_logprobs else None,
            "finish_reason": _finish(piece.finish, self._desk),
        }
        usage: Json | None = None
        if self._is_continuous:
            usage = _usage(Done(prompt_tokens=self._prompt_tokens, completion_tokens=self._completion_tokens))
        return self._close([choice], usage)

    def _close(self, choices: list[Json], usage: Json | None) -> bytes:
        tail = b',"choices":' + dump(choices)
        if self._has_usage or self._is_continuous:
            tail += b',"usage":' + dump(usage)
        return self._head + tail + b"}"

    def done(self, done: Done) -> Sequence[bytes]:
        """The usage chunk, if it was asked for."""
        return (self._close([], _usage(done)),) if self._has_usage else ()

    def fail(self, error: Error) -> bytes:
        """The error in place of the rest."""
        return dump(error_body(error))


class Whole:
    """A whole answer: the fold of the same pieces."""

    def __init__(self, job: Job, desk: Desk, *, returned: int, has_logprobs: bool) -> None:
        """Start with as many empty sequences as run; the `returned` likeliest are shown."""
        self._job, self._desk, self._returned, self._has_logprobs = job, desk, returned, has_logprobs
        self._texts: list[list[str]] = [[] for _ in range(job.width)]
        self._tokens: list[list[Token]] = [[] for _ in range(job.width)]
        self._finishes: list[Finish | None] = [None] * job.width

    def piece(self, piece: Piece) -> Sequence[bytes]:
        """Keep the piece; nothing is sent yet."""
        self._texts[piece.index].append(piece.text)
        self._tokens[piece.index] += piece.tokens
        self._finishes[piece.index] = piece.finish or self._finishes[piece.index]
        return ()

    def done(self, done: Done) -> Sequence[bytes]:
        """The one document."""
        order = list(range(self._job.width))
        if self._returned < self._job.width:
            order.sort(key=lambda index: -self._likelihood(index))
        choices = [self._choice(index, place) for place, index in enumerate(order[: self._returned])]
        head = _head(self._job, self._desk, "chat.completion")
        return (dump(head | {"choices": choices, "usage": _usage(done), "service_tier": None}),)

    def _likelihood(self, index: int) -> float:
        tokens = self._tokens[index]
        return sum(token.choice.logprob for token in tokens) / max(len(tokens), 1)

    def _choice(self, index: int, place: int) -> Json:
        return {
            "index": place,
            "message": {"role": "assistant", "content": "".join(self._texts[index]), "refusal": None},
            "logprobs": _logprobs(self._tokens[index]) if self._has_logprobs else None,
            "finish_reason": _finish(self._finishes[index], self._desk),
        }

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(error_body(error))
