"""The chat dialect: OpenAI-style chat completions. Parse and render stand together; wire names live only here.

Shapes: OpenAI API reference, "Chat completions" (completion object, chunk object, streaming usage chunk).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lmi_chat.bounds import SAMPLING, Field
from lmi_chat.dialects import account, guide, openai, stored
from lmi_chat.dialects import desk as common
from lmi_chat.dialects.desk import Desk, Form, Render, Task
from lmi_chat.dialects.messages import check_messages, text_of
from lmi_chat.dialects.openai import BOOLEAN, error_body
from lmi_chat.errors import Error, echo, one_line
from lmi_chat.job import Choice, Done, Finish, Job, Piece, Token
from lmi_chat.wire import Json, dump

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
OWN = (
    account.NAMES
    | guide.NAMES
    | {
        *("messages", "model", "stream", "stream_options", "logprobs", "cache_salt", "use_beam_search"),
        *("add_generation_prompt", "continue_final_message", "parallel_tool_calls"),
        *("chat_template_kwargs", "echo", "return_token_ids"),
    }
)
HARMLESS: Mapping[str, tuple[object, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "reasoning_effort": (None,),
    "prompt_logprobs": (None,),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
}
KNOWN = {name: name for name in (*FIELDS, *OWN, *HARMLESS, "chat_template")}
VARIABLE_CHARS = 1024


def parse(body: Json, desk: Desk, request_id: str) -> Task:
    """A chat body → Task. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    common.check_model(body.get("model"), desk)
    form = Form(desk)
    form.read(body, FIELDS, KNOWN)
    _check_unserved(body, form)
    chat = check_messages(body.get("messages"), form)
    is_stream = form.value(body, "stream", replace(BOOLEAN, default=desk.streams_by_default))
    usage = openai.check_usage(body, form, is_stream=is_stream)
    logprobs = _check_logprobs(body, form)
    returned, width, beams = openai.check_sequences(body, form, is_stream=is_stream)
    guide.read(body, form)
    guide.check_beams(form, "use_beam_search", beams)
    common.check_vocabulary(form)
    flags = _check_ending(body, form)
    variables = _check_variables(body, form)
    has_echo, has_ids = (form.value(body, name, BOOLEAN) for name in ("echo", "return_token_ids"))
    asked = account.check_account(body, form)
    salt = form.value(body, "cache_salt", Field(kind="string", meaning=""))
    unknown = [*form.close(), *asked.warnings]

    text = desk.template.render(chat, variables=variables, **flags)
    common.check_length(text, desk, "messages")
    ids = desk.template.encode(text, add_special_tokens=False)[-form.extra.get("truncate_prompt_tokens", 0) :]
    values = common.sampling(form, {}, logprobs=0 if logprobs is None and width > returned else logprobs)
    copies = common.spread(values, width, beams=beams)
    job = Job(
        id=request_id,
        prompt_ids=ids,
        prompt_text=text,
        sampling=common.seat(ids, values, form, path="messages"),
        priority=asked.priority,
        cache_salt=salt,
        copies=copies,
        beams=beams,
        length_penalty=form.extra.get("length_penalty", 1.0),
    )
    begun = text_of(chat[-1]) if has_echo and flags["continue_final_message"] else ""
    shown = Shown(returned, logprobs is not None, asked.tier, begun, has_ids)
    fold = partial(Whole, job, desk, shown)
    render: Render = Chunks(job, desk, usage, shown) if is_stream else fold()
    render = stored.keep(render, fold if is_stream else None, chat, job, desk, asked)
    task = Task(dialect="chat", jobs=(job,), is_stream=is_stream, render=render, has_end=True, unknown=unknown)
    task.user, task.metadata = asked.user, asked.metadata
    return task


def _check_unserved(body: Json, form: Form) -> None:
    common.check_unserved(body, form, HARMLESS)
    if body.get("chat_template") is not None:
        form.wrong("chat_template", "is never taken from a request; it is configuration (option.chat_template)")


def _check_ending(body: Json, form: Form) -> Mapping[str, bool]:
    """How the prompt ends: with the head of a new turn, or inside the last one."""
    is_continued = form.value(body, "continue_final_message", BOOLEAN)
    has_head = form.value(body, "add_generation_prompt", replace(BOOLEAN, default=not is_continued))
    if is_continued and has_head:
        form.wrong("continue_final_message", "must be false with add_generation_prompt true, got true")
    return {"continue_final_message": is_continued, "add_generation_prompt": has_head}


def _check_variables(body: Json, form: Form) -> Mapping[str, Any]:
    """Variables for the template: only names that the deployment allows, only plain values."""
    given = form.value(body, "chat_template_kwargs", Field(kind="object", default={}, meaning=""))
    allowed = form.desk.template_variables
    for name, value in given.items():
        path = f"chat_template_kwargs.{one_line(name, 40)}"
        if name not in allowed:
            form.wrong(
                path, f"is not allowed; option.chat_template_kwargs allows {', '.join(sorted(allowed)) or 'none'}"
            )
        elif not isinstance(value, str | int | float | None) or (
            isinstance(value, str) and len(value) > VARIABLE_CHARS
        ):
            form.wrong(path, f"must be a plain value of at most {VARIABLE_CHARS} characters, got {echo(value)}")
    return given  # type: ignore[no-any-return]


def _check_logprobs(body: Json, form: Form) -> int | None:
    wanted = form.value(body, "logprobs", BOOLEAN)
    top = form.extra.get("top_logprobs")
    if top and not wanted:
        form.wrong("top_logprobs", f"needs logprobs to be true, got {top}")
    return (top or 0) if wanted else None


def _choice(choice: Choice) -> Json:
    text = choice.bytes.decode("utf-8", "replace")
    return {"token": text, "logprob": choice.logprob, "bytes": list(choice.bytes)}


def _logprobs(tokens: Sequence[Token]) -> Json:
    return {
        "content": [_choice(token.choice) | {"top_logprobs": [_choice(top) for top in token.top]} for token in tokens]
    }


@dataclass(frozen=True, slots=True)
class Shown:
    """What an answer carries: sequences that come back, log-probabilities, tier, the turn it continues, token ids."""

    returned: int
    has_logprobs: bool
    tier: str | None
    begun: str = ""
    has_ids: bool = False


class Chunks:
    """A streamed answer: one chat.completion.chunk per piece."""

    def __init__(self, job: Job, desk: Desk, usage: Mapping[str, bool], shown: Shown) -> None:
        """Render what is the same in every chunk once; the tier stands in each if one was asked for."""
        self._job, self._desk, self._shown, tier = job, desk, shown, shown.tier
        head = openai.head(f"chatcmpl-{job.id}", desk, "chat.completion.chunk")
        self._head = dump(head | ({"service_tier": tier} if tier else {}))[:-1]
        self._has_usage = usage.get("include_usage", False)
        self._is_continuous = usage.get("continuous_usage_stats", False)
        self._is_plain = not (shown.has_logprobs or shown.has_ids or self._is_continuous)
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
        if is_plain and self._is_plain:
            return (self._plain_head + dump(piece.text) + self._plain_tail,) if piece.text else ()
        if not (piece.text or piece.tokens or piece.finish or (self._shown.has_ids and piece.ids)):
            return ()
        return (self._chunk(piece),)

    def _chunk(self, piece: Piece) -> bytes:
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
        if self._shown.has_ids:
            choice["token_ids"] = piece.ids
            choice |= {"prompt_token_ids": self._job.prompt_ids} if is_first else {}
        usage: Json | None = None
        if self._is_continuous:
            usage = openai.usage(Done(prompt_tokens=self._prompt_tokens, completion_tokens=self._completion_tokens))
        return self._close([choice], usage)

    def _close(self, choices: list[Json], usage: Json | None) -> bytes:
        tail = b',"choices":' + dump(choices)
        if self._has_usage or self._is_continuous:
            tail += b',"usage":' + dump(usage)
        return self._head + tail + b"}"

    def done(self, done: Done) -> Sequence[bytes]:
        """The usage chunk, if it was asked for."""
        return (self._close([], openai.usage(done)),) if self._has_usage else ()

    def fail(self, error: Error) -> bytes:
        """The error in place of the rest."""
        return dump(error_body(error))


class Whole:
    """A whole answer: the fold of the same pieces."""

    def __init__(self, job: Job, desk: Desk, shown: Shown) -> None:
        """Start with as many empty sequences as run; the likeliest that are to be shown are."""
        self._job, self._desk, self._shown = job, desk, shown
        self._head = openai.head(f"chatcmpl-{job.id}", desk, "chat.completion") | {"service_tier": shown.tier}
        self._texts: list[list[str]] = [[shown.begun] for _ in range(job.width)]
        self._ids: list[list[int]] = [[] for _ in range(job.width)]
        self._tokens: list[list[Token]] = [[] for _ in range(job.width)]
        self._finishes: list[Finish | None] = [None] * job.width

    def piece(self, piece: Piece) -> Sequence[bytes]:
        """Keep the piece; nothing is sent yet."""
        self._texts[piece.index].append(piece.text)
        self._tokens[piece.index] += piece.tokens
        self._ids[piece.index] += piece.ids
        self._finishes[piece.index] = piece.finish or self._finishes[piece.index]
        return ()

    def done(self, done: Done) -> Sequence[bytes]:
        """The one document."""
        order = list(range(self._job.width))
        if self._shown.returned < self._job.width:
            order.sort(key=lambda index: -openai.likelihood(self._tokens[index]))
        choices = [self._choice(index, place) for place, index in enumerate(order[: self._shown.returned])]
        return (dump(self._head | {"choices": choices, "usage": openai.usage(done)}),)

    def _choice(self, index: int, place: int) -> Json:
        choice: Json = {
            "index": place,
            "message": {"role": "assistant", "content": "".join(self._texts[index]), "refusal": None},
            "logprobs": _logprobs(self._tokens[index]) if self._shown.has_logprobs else None,
            "finish_reason": openai.finish_word(self._finishes[index], self._desk),
        }
        ids = {"token_ids": self._ids[index], "prompt_token_ids": self._job.prompt_ids}
        return choice | (ids if self._shown.has_ids else {})

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(error_body(error))


__all__ = ["error_body", "parse"]
