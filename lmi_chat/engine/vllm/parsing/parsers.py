"""Build vLLM's parsers for a job and decide whether an answer reasons; vLLM is imported in `Parsing` only."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from lmi_chat.engine.vllm.chat_request import chat_request
from lmi_chat.engine.vllm.parsing import call_steps, held_back
from lmi_chat.engine.vllm.parsing.forced import Named, Required
from lmi_chat.engine.vllm.parsing.harmony import Harmony
from lmi_chat.engine.vllm.parsing.pieces import Markers
from lmi_chat.engine.vllm.parsing.stages import Chain, Guarded, Marked, Plain, Stage, Streamed, Whole
from lmi_chat.job import Job, ParsingParams
from lmi_chat.text import one_line

UNIFIED = frozenset(
    {
        "cohere_command3",
        "cohere_command4",
        "hf",
        "inkling",
        "muse_glimmer",
        "openai",
        "openai_gptoss",
    }
)
"""Parsers of formats that say of each part what it is; they read every answer, thought or not."""
HARMONY = frozenset({"openai", "openai_gptoss"})
APPENDED = "minimax_m2_append_think"
"""The parser that calls nothing reasoning, and writes the mark that the prompt has."""
THINK = ("<think>", "</think>")
Marks = tuple[tuple[str, ...], tuple[str, ...]]
"""The texts that reasoning begins with, and those that it ends with; none where it is not looked for."""
Opened = tuple[str, ...]
TAIL_CHARACTERS = 200  # of a prompt whose last message is not found in it
TAIL_TOKENS = 64
MARKS_KEPT = 64
log = logging.getLogger(__name__)


class UnfitError(Exception):
    """A parser does not fit the model; the message is vLLM's own."""


def load(model_config: Any, tool_parser: str, reasoning_parser: str) -> "Parsing | None":
    """Build the parsers for vLLM's ModelConfig; None without names. Raises UnfitError."""
    if not tool_parser and not reasoning_parser:
        return None
    from vllm.tokenizers import cached_tokenizer_from_config

    try:
        return Parsing(model_config, cached_tokenizer_from_config(model_config), tool_parser, reasoning_parser)
    except Exception as error:  # whatever a parser's constructor raises
        raise UnfitError(str(error)) from error


class Parsing:
    """The parsers of one model: `tool_parser` and `reasoning_parser` are vLLM's names for them, "" for none."""

    def __init__(self, model_config: Any, tokenizer: Any, tool_parser: str, reasoning_parser: str) -> None:
        """Import and try them. Raises TypeError where a name is not known or the tokenizer lacks their tokens."""
        self.tool_parser, self.reasoning_parser = tool_parser, reasoning_parser
        self._model_config, self.tokenizer = model_config, tokenizer
        self.is_unified = not UNIFIED.isdisjoint((tool_parser, reasoning_parser))
        self._is_harmony = not HARMONY.isdisjoint((tool_parser, reasoning_parser))
        self._full = self._class(tool_parser, reasoning_parser)
        if self._full is None or self.is_unified:
            self._tools = self._reasoning = self._full
        else:
            self._tools = self._class(tool_parser, "")
            self._reasoning = self._class("", reasoning_parser)
        self._failed = set[str]()
        self._marks: dict[str, Marks] = {}  # by the template's variables
        self._special: dict[str, bool] = {}  # by the choice of tools: parsers look at nothing else

    def _class(self, tool_parser: str, reasoning_parser: str) -> Any:
        """Compose vLLM's class of parsers; None without a name."""
        from vllm.parser.parser_manager import ParserManager

        return ParserManager.get_parser(
            tool_parser_name=tool_parser or None,
            reasoning_parser_name=reasoning_parser or None,
            enable_auto_tools=bool(tool_parser),
            is_harmony=self._is_harmony,
            tokenizer=self.tokenizer,
        )

    @cached_property
    def markers(self) -> Markers:
        """The tokenizer's added tokens."""
        return Markers(getattr(self.tokenizer, "get_added_vocab", dict)())

    def marks(self, params: ParsingParams) -> Marks:
        """Return the texts that reasoning begins and ends with."""
        if not self.reasoning_parser or self.is_unified or self.reasoning_parser == APPENDED:
            return (), ()
        if self.reasoning_parser in held_back.REASONING_MARKS:
            return held_back.REASONING_MARKS[self.reasoning_parser][:2]
        key = repr(sorted(params.variables.items()))
        if key not in self._marks:
            reads = self._build(self._reasoning, None, _thinking(params.variables)).reasoning_parser
            if len(self._marks) >= MARKS_KEPT:
                self._marks.clear()
            self._marks[key] = (reads.reasoning_start_str or THINK[0],), (reads.reasoning_end_str or THINK[1],)
        return self._marks[key]

    def _known(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Name what parsers are built with beside tokenizer and tools; some change the variables."""
        return {"model_config": self._model_config, "chat_template_kwargs": dict(variables)}

    def opened(self, job: Job, marks: Marks) -> Opened | None:
        """Return what the prompt has of reasoning that it leaves open, the mark and what follows it.

        () where it closes it, None where it says nothing.
        """
        tail = _tail(job) or self.tokenizer.decode(job.prompt_ids[-TAIL_TOKENS:])
        begun, ended = (max((tail.rfind(mark) for mark in some), default=-1) for some in marks)
        if begun == ended == -1:
            return None
        if begun < ended:
            return ()
        start = next(mark for mark in marks[0] if tail.startswith(mark, begun))
        said = tail[begun + len(start) :]
        return (start, said) if said.strip() else (start,)

    def engine_arguments(self, job: Job) -> dict[str, Any]:
        """Name what tells the engine where the constraint of a job begins, if the model may reason before."""
        if not self.reasoning_parser:
            return {}
        variables = dict(job.parsing.variables) if job.parsing else {}
        known = {"chat_template_kwargs": variables}
        return {"reasoning_ended": self.reasoning_ended(job), "reasoning_parser_kwargs": known}

    def reasoning_ended(self, job: Job) -> bool:
        """Whether a constraint holds from the first token on; False: from the end of the reasoning on."""
        if job.parsing is None:
            return True
        opened = self.opened(job, self.marks(job.parsing))
        if opened is not None:
            return not opened
        parser = self._build(self._reasoning, None, job.parsing.variables)
        return bool(parser.is_reasoning_end(job.prompt_ids))

    def request(self, job: Job, params: ParsingParams) -> Any:
        """Build vLLM's request, which its parsers look at; what reasons is hidden here, not by them."""
        request = chat_request(replace(params, shows_reasoning=True))
        request.tool_choice = request.tool_choice or "none"
        request.skip_special_tokens = job.sampling.skip_special_tokens
        return request

    def shows_special(self, params: ParsingParams, request: Any) -> bool:
        """Whether the parsers must see special tokens."""
        key = params.choice if self._calls(request) else "none"
        if key not in self._special:
            self._special[key] = self._asks_for_special(request)
        return self._special[key]

    def _asks_for_special(self, request: Any) -> bool:
        calls = self._calls(request)
        kind = self._full if calls and self.reasoning_parser else self._tools if calls else self._reasoning
        if kind is None:
            return False
        copy = request.model_copy(update={"skip_special_tokens": True})
        parser = self._build(kind, request.tools, request.chat_template_kwargs or {})
        for part in (parser.reasoning_parser, parser.tool_parser if calls else None):
            if part is not None:
                part.adjust_request(copy)
        return not copy.skip_special_tokens

    def _calls(self, request: Any) -> bool:
        """Whether calls are looked for."""
        return bool(self.tool_parser and request.tools and request.tool_choice != "none")

    def stage(self, job: Job, params: ParsingParams, request: Any, *, is_thinking: bool, opened: Opened = ()) -> Stage:
        """Build what reads a sequence. `is_thinking`: it reasons; `opened`: what the prompt has of that."""
        variables = dict(params.variables)
        if self.is_unified:
            parser = self._build(self._full, request.tools, variables)
            if self._is_harmony:
                return self._guarded(Harmony(parser, request, job.prompt_ids))
            return self._streamed(parser, request, job.prompt_ids)
        calls = self._calls_stage(params, request)
        if calls is None and self._calls(request):
            if is_thinking and self.reasoning_parser not in held_back.REASONING_MARKS:
                return self._reads(self._full, request, variables, opened)
            parser = self._build(self._tools, request.tools, variables)
            calls = self._streamed(parser, request, job.prompt_ids)
        if is_thinking:
            return Chain(self._reads(self._reasoning, request, variables, opened), calls or Plain())
        if self.reasoning_parser == APPENDED:
            return Chain(Plain(THINK[0]), calls or Plain())
        if self.tool_parser == "kimi_k3" and calls is None:  # whose content is marked, too
            return self._streamed(self._build(self._tools, request.tools, variables), request, job.prompt_ids)
        return calls or Plain()

    def _reads(self, kind: Any, request: Any, variables: dict[str, Any], opened: Opened) -> Stage:
        """Build what reads reasoning, and all else that `kind` reads."""
        if self.reasoning_parser in held_back.REASONING_MARKS:
            return Marked(*held_back.REASONING_MARKS[self.reasoning_parser])
        stage = self._streamed(self._build(kind, request.tools, _thinking(variables)), request, None)
        for text in opened:
            known = self.markers.ids.get(text)
            list(stage.feed(text, [] if known is None else [known]))
        return stage

    def _streamed(self, parser: Any, request: Any, prompt_ids: list[int] | None) -> Stage:
        """Build what reads by the parser's stream, its calls in steps where it reads them again at each."""
        if self.tool_parser not in call_steps.READ_AGAIN or not self._calls(request):
            return self._guarded(Streamed(parser, request, prompt_ids))
        call_steps.join_chunks(parser)
        steps = call_steps.CallSteps(self.markers.known, call_steps.ENDS.get(self.tool_parser, ""))
        return self._guarded(Streamed(parser, request, prompt_ids, steps))

    def _calls_stage(self, params: ParsingParams, request: Any) -> Stage | None:
        """Build what reads the calls alone; None where there are none to read, or vLLM's stream is believed."""
        if not self._calls(request):
            return None
        if self._tools.tool_parser_cls.supports_required_and_named and params.choice in ("required", "named"):
            return Named(params.named) if params.choice == "named" else Required()
        markers = held_back.TOOL_PARSERS.get(self.tool_parser)
        if markers is None:
            return None
        parser = self._build(self._tools, request.tools, dict(params.variables))
        return self._guarded(Whole(parser, request, markers, held_back.CALL_ENDS.get(self.tool_parser)))

    def _build(self, kind: Any, tools: Any, variables: Mapping[str, Any]) -> Any:
        """Build a parser; variables that it refuses have no say."""
        try:
            return kind(self.tokenizer, tools, **self._known(variables))
        except Exception as error:  # noqa: BLE001 foreign code; without variables it was built at the start
            log.warning("a parser refuses the request's variables: %s", one_line(str(error), 200))
            return kind(self.tokenizer, tools, **self._known({}))

    def _guarded(self, stage: Stage) -> Stage:
        return Guarded(stage, self._note_failure)

    def _note_failure(self, error: Exception) -> None:
        """Log an exception, the first of all answers."""
        names = f"{self.tool_parser or 'no'} tool parser, {self.reasoning_parser or 'no'} reasoning parser"
        if names not in self._failed:
            self._failed.add(names)
            what = "an answer could not be parsed (%s); what is left of its text is given as content"
            log.error(what, names, exc_info=error)


def _thinking(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Set what tells parsers that the model reasons: some would pass it over by the variables alone."""
    effort = variables.get("reasoning_effort")
    said = {"reasoning_effort": "high"} if effort in (None, "none", "no_think") else {}
    return {**variables, **said, "thinking": True, "enable_thinking": True, "thinking_mode": "enabled"}


def _tail(job: Job) -> str:
    """Return what the chat template wrote after the last message, with an assistant's message that is continued."""
    messages = job.parsing.messages if job.parsing else ()
    said = messages[-1].get("content") if messages else None
    if isinstance(said, str) and said.strip():
        place = job.prompt_text.rfind(said.strip())
        if place >= 0:
            return job.prompt_text[place if messages[-1].get("role") == "assistant" else place + len(said.strip()) :]
    return job.prompt_text[-TAIL_CHARACTERS:]
