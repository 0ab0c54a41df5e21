"""Build the parsers of tool calls and of reasoning for one model: the named ones, else those that fit it.

A parser is used only after it was built with the model's tokenizer, which may lack tokens that it needs.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmi_chat.chat_template import jinja_text
from lmi_chat.engine.vllm import harmony, parser_choice
from lmi_chat.engine.vllm.parser_choice import KEYS, Kind, Pick
from lmi_chat.text import one_line

NONE = "none"
CONFIGURED = "configured"
ALONE = "hf"


class BadParser(Exception):
    """A named parser or a plugin cannot be used; the message is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParserSettings:
    """What a deployment says of its parsers: "" leaves one to the model, "none" is none, else its name.

    The plugins are files, or modules, that register parsers; `template` is the configured chat template's source.
    """

    tool: str = ""
    reasoning: str = ""
    tool_plugin: str = ""
    reasoning_plugin: str = ""
    template: str | None = None


@dataclass(frozen=True, slots=True)
class Parsers:
    """The parsers of a served model, "" for none, and how they were chosen, in one line ("" where nothing is said)."""

    tool: str = ""
    reasoning: str = ""
    said: str = ""


BY_MODEL = ParserSettings()


def check_names(settings: ParserSettings) -> None:
    """Check named parsers against those of the engine, without importing it. Raises BadParser.

    A plugin may register any name: with one, `load_plugins` does the same later.
    """
    if not settings.tool_plugin and not settings.reasoning_plugin:
        _check("tool", settings.tool, parser_choice.known("tool"))
        _check("reasoning", settings.reasoning, parser_choice.known("reasoning"))


def load_plugins(settings: ParserSettings) -> None:
    """Import the plugins, and check the named parsers against all that there are then. Raises BadParser."""
    if not settings.tool_plugin and not settings.reasoning_plugin:
        return
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    _import("tool_parser_plugin", settings.tool_plugin)
    _import("reasoning_parser_plugin", settings.reasoning_plugin)
    _check("tool", settings.tool, frozenset(ToolParserManager.list_registered()))
    _check("reasoning", settings.reasoning, frozenset(ReasoningParserManager.list_registered()))


def _check(kind: Kind, name: str, names: frozenset[str]) -> None:
    if name and name != NONE and names and name not in names:
        raise BadParser(parser_choice.wrong_name(KEYS[kind], name, names))


def _import(key: str, plugin: str) -> None:
    if not plugin:
        return
    try:
        _run(plugin)
    except Exception as error:
        why = one_line(f"{type(error).__name__}: {error}", 300)
        raise BadParser(f"{key} = {one_line(plugin, 200)} cannot be imported: {why}") from error


def _run(plugin: str) -> None:
    """Import a file, or an installed module by its name."""
    if not Path(plugin).is_file():
        importlib.import_module(plugin)
        return
    name = Path(plugin).stem
    spec = importlib.util.spec_from_file_location(name, plugin)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def set_up(config: Any, settings: ParserSettings) -> Parsers:
    """Choose the parsers of the model of a VllmConfig, and have its guides begin after the reasoning.

    Raises BadParser for a named one that does not fit the model.
    """
    from vllm.tokenizers.registry import cached_tokenizer_from_config, tokenizer_args_from_config

    model = config.model_config
    if model.runner_type != "generate" or model.skip_tokenizer_init:
        return Parsers()
    tokenizer = cached_tokenizer_from_config(model)
    mode, *_ = tokenizer_args_from_config(model)
    guided = config.structured_outputs_config
    named: dict[Kind, str] = {"tool": settings.tool, "reasoning": settings.reasoning or guided.reasoning_parser}

    def choose(kind: Kind) -> Pick:
        text = jinja_text(tokenizer, settings.template, has_tools=kind == "tool")
        own = harmony.MODEL_TYPE if harmony.is_spoken(model) else "" if mode == "hf" else mode
        return parser_choice.choose(kind, model.hf_config.to_dict(), text, tokenizer.get_vocab(), own)

    def fails(kind: Kind, name: str) -> str:
        return _incompatibility(kind, name, tokenizer, is_harmony=harmony.is_spoken(model))

    tool, reasoning = side_by_side(*(pick(kind, named[kind], choose, fails) for kind in KEYS))
    guided.reasoning_parser = reasoning.parser
    if reasoning.parser:
        guided.reasoning_parser_plugin = settings.reasoning_plugin or guided.reasoning_parser_plugin
    return Parsers(tool.parser, reasoning.parser, f"tools: {_said(tool)}; reasoning: {_said(reasoning)}")


def pick(kind: Kind, named: str, choose: Callable[[Kind], Pick], fails: Callable[[Kind, str], str]) -> Pick:
    """Pick the named parser, or the one that `choose` gives if it fits; `fails` says why one does not ("": it does).

    Raises BadParser for a named one that does not.
    """
    if named == NONE:
        return Pick("", CONFIGURED)
    chosen = Pick(named, CONFIGURED) if named else choose(kind)
    why = fails(kind, chosen.parser) if chosen.parser else ""
    if why and named:
        raise BadParser(f"{KEYS[kind]} = {named} does not fit the model: {why}")
    return Pick("", f"{chosen.why}, but {chosen.parser} does not fit: {why}") if why else chosen


def side_by_side(tool: Pick, reasoning: Pick) -> tuple[Pick, Pick]:
    """Drop what was chosen beside a named parser that works with no other. Raises BadParser where both are named."""
    if not tool.parser or not reasoning.parser or ALONE not in {tool.parser, reasoning.parser}:
        return tool, reasoning
    if tool.parser == reasoning.parser:
        return tool, reasoning
    if tool.why == reasoning.why:
        both = f"tool_call_parser = {tool.parser} and reasoning_parser = {reasoning.parser}"
        raise BadParser(f"{both} do not work together: {ALONE} works with itself alone")
    none = Pick("", f"{ALONE} works with itself alone")
    return (tool, none) if tool.parser == ALONE else (none, reasoning)


def _said(picked: Pick) -> str:
    return f"{picked.parser or NONE} ({picked.why})"


def _incompatibility(kind: Kind, name: str, tokenizer: Any, *, is_harmony: bool) -> str:
    """Build a parser with the tokenizer, and say why that fails; "" where it does not."""
    from vllm.parser.parser_manager import ParserManager

    names = {"tool_parser_name" if kind == "tool" else "reasoning_parser_name": name}
    try:
        ParserManager.get_parser(**names, enable_auto_tools=True, is_harmony=is_harmony, tokenizer=tokenizer)
    except Exception as error:  # noqa: BLE001 parsers raise whatever they like
        return one_line(str(error.__cause__ or error), 300)
    return ""
