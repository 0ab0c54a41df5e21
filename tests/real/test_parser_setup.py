"""Parsers that are chosen and named, built by vLLM with real tokenizers; one start shows what is said of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.engine.vllm import parser_setup
from lmi_chat.engine.vllm.parser_choice import KEYS, Kind, Pick, known
from lmi_chat.engine.vllm.parser_setup import BadParser, Parsers, ParserSettings, pick, side_by_side
from tests.real.conftest import Server, end, start
from tests.support.model_folders import thinking_folder

pytestmark = pytest.mark.timeout(300)  # the first import of vLLM
PLUGIN = """
from vllm.{folder} import {base}Parser, {base}ParserManager

@{base}ParserManager.register_module("{name}")
class Own({base}Parser):
    {body}
"""
REASONING = "is_reasoning_end = extract_content_ids = extract_reasoning = extract_reasoning_streaming = None"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return thinking_folder(tmp_path_factory.mktemp("thinking"))


def config_of(folder: Path, **more: Any) -> Any:
    """The parts of a VllmConfig that are read."""
    from types import SimpleNamespace

    from vllm.config import ModelConfig, StructuredOutputsConfig

    return SimpleNamespace(
        model_config=ModelConfig(model=str(folder), **more), structured_outputs_config=StructuredOutputsConfig()
    )


def test_the_model_chooses_and_guides_wait_for_the_reasoning(folder: Path) -> None:
    config = config_of(folder)
    assert parser_setup.set_up(config, ParserSettings()) == Parsers(
        "hermes",
        "qwen3",
        "tools: hermes (the chat template writes <tool_call> with JSON); "
        "reasoning: qwen3 (the chat template writes <think> and enable_thinking)",
    )
    assert config.structured_outputs_config.reasoning_parser == "qwen3"


def test_the_default_model_has_neither(model: Path) -> None:
    config = config_of(model)
    found = parser_setup.set_up(config, ParserSettings())
    assert (found.tool, found.reasoning) == ("", "")
    assert config.structured_outputs_config.reasoning_parser == ""


def test_a_configured_template_counts_like_the_models_own(folder: Path, model: Path) -> None:
    template = "{% if tools %}{{ tools }}{% endif %}[TOOL_CALLS]<function_calls>{{ messages[0].content }}"
    found = parser_setup.set_up(config_of(folder), ParserSettings(template=template))
    assert (found.tool, found.reasoning) == ("", "")
    assert "tools: none (the chat template writes [TOOL_CALLS], but the tokenizer has no token [TOOL_CALLS])" in (
        found.said
    )
    other = parser_setup.set_up(config_of(model), ParserSettings(template=template.replace("[TOOL_CALLS]", "")))
    assert other.tool == "olmo3"


def test_a_template_for_tools_alone_counts_for_tools(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    named = tmp_path / "additional_chat_templates"
    named.mkdir()
    (named / "tool_use.jinja").write_text((folder / "chat_template.jinja").read_text())
    found = parser_setup.set_up(config_of(tmp_path), ParserSettings())
    assert (found.tool, found.reasoning) == ("hermes", "")


@pytest.mark.parametrize(
    ("tool", "reasoning", "found"),
    [
        ("none", "none", ("", "")),
        ("olmo3", "", ("olmo3", "qwen3")),
        ("", "deepseek_r1", ("hermes", "deepseek_r1")),
        ("openai", "openai_gptoss", ("openai", "openai_gptoss")),
    ],
)
def test_names_overrule(folder: Path, tool: str, reasoning: str, found: tuple[str, str]) -> None:
    config = config_of(folder)
    parsers = parser_setup.set_up(config, ParserSettings(tool=tool, reasoning=reasoning))
    assert (parsers.tool, parsers.reasoning) == found
    assert "(configured)" in parsers.said
    assert config.structured_outputs_config.reasoning_parser == found[1]


def test_vllms_own_place_of_the_reasoning_parser_counts_too(folder: Path) -> None:
    config = config_of(folder)
    config.structured_outputs_config.reasoning_parser = "deepseek_r1"
    assert parser_setup.set_up(config, ParserSettings()).reasoning == "deepseek_r1"
    assert parser_setup.set_up(config, ParserSettings(reasoning="none")).reasoning == ""
    assert config.structured_outputs_config.reasoning_parser == ""


@pytest.mark.parametrize(
    ("tool", "reasoning", "says"),
    [
        ("deepseek_v3", "", "tool_call_parser = deepseek_v3 does not fit the model: DeepSeek-V3 Tool parser could not"),
        ("", "minimax_m3", "reasoning_parser = minimax_m3 does not fit the model: MiniMaxM3ReasoningParser reasoning"),
        ("hf", "", "tool_call_parser = hf does not fit the model: The hf parser requires `response_template`"),
    ],
)
def test_a_named_parser_that_does_not_fit_ends_the_start(folder: Path, tool: str, reasoning: str, says: str) -> None:
    with pytest.raises(BadParser) as raised:
        parser_setup.set_up(config_of(folder), ParserSettings(tool=tool, reasoning=reasoning))
    assert str(raised.value).startswith(says)
    assert len(str(raised.value).splitlines()) == 1


def test_a_chosen_parser_that_does_not_fit_is_left_out_with_the_reason() -> None:
    chosen = Pick("jamba", "the chat template writes <tool_calls>")
    found = pick("tool", "", lambda _: chosen, lambda *_: "no such token")
    assert found == Pick("", "the chat template writes <tool_calls>, but jamba does not fit: no such token")
    assert pick("tool", "", lambda _: chosen, lambda *_: "") == chosen


def test_the_parser_that_works_alone() -> None:
    chosen, hf = Pick("hermes", "the chat template writes it"), Pick("hf", parser_setup.CONFIGURED)
    assert side_by_side(chosen, hf) == (Pick("", "hf works with itself alone"), hf)
    assert side_by_side(hf, chosen) == (hf, Pick("", "hf works with itself alone"))
    assert side_by_side(hf, hf) == (hf, hf)
    assert side_by_side(hf, Pick("", "none")) == (hf, Pick("", "none"))
    with pytest.raises(BadParser, match="tool_call_parser = hf and reasoning_parser = qwen3 do not work together"):
        side_by_side(hf, Pick("qwen3", parser_setup.CONFIGURED))


def test_the_names_in_the_source_are_those_that_vllm_registers() -> None:
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    assert known("tool") == {*ToolParserManager.lazy_parsers}
    assert known("reasoning") == {*ReasoningParserManager.lazy_parsers}


@pytest.fixture
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What plugins register is gone after the test: others count the parsers."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for manager, kind in ((ToolParserManager, "tool_parsers"), (ReasoningParserManager, "reasoning_parsers")):
        for name in (kind, "lazy_parsers"):
            monkeypatch.setattr(manager, name, {**getattr(manager, name)})


@pytest.mark.usefixtures("_own_registry")
def test_plugins_register_parsers(folder: Path, tmp_path: Path) -> None:
    tool, reasoning = tmp_path / "own_tools.py", tmp_path / "own_reasoning.py"
    tool.write_text(PLUGIN.format(folder="tool_parsers", base="Tool", name="own_tools", body="pass"))
    reasoning.write_text(PLUGIN.format(folder="reasoning", base="Reasoning", name="own_thoughts", body=REASONING))
    settings = ParserSettings(
        tool="own_tools", reasoning="own_thoughts", tool_plugin=str(tool), reasoning_plugin=str(reasoning)
    )
    parser_setup.check_names(settings)
    parser_setup.load_plugins(settings)
    config = config_of(folder)
    found = parser_setup.set_up(config, settings)
    assert (found.tool, found.reasoning) == ("own_tools", "own_thoughts")
    assert config.structured_outputs_config.reasoning_parser_plugin == str(reasoning)
    with pytest.raises(
        BadParser, match=r"tool_call_parser must be auto, none .* got 'own_tool'; the nearest is own_tools$"
    ):
        parser_setup.load_plugins(ParserSettings(tool="own_tool", tool_plugin=str(tool)))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise KeyError('x\\ny')", "KeyError: "),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def", "SyntaxError: invalid syntax"),
    ],
)
def test_a_plugin_that_fails_ends_the_start_with_a_sentence(code: str, says: str, tmp_path: Path) -> None:
    for key, place in (("tool_parser_plugin", "tool_plugin"), ("reasoning_parser_plugin", "reasoning_plugin")):
        path = tmp_path / "broken.py"
        path.write_text(code)
        with pytest.raises(BadParser) as raised:
            parser_setup.load_plugins(ParserSettings(**{place: str(path)}))
        assert str(raised.value).startswith(f"{key} = {path} cannot be imported: {says}")
        assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(
        BadParser, match=r"^tool_parser_plugin = no\.such\.module cannot be imported: ModuleNotFoundError"
    ):
        parser_setup.load_plugins(ParserSettings(tool_plugin="no.such.module"))


@pytest.mark.parametrize("kind", KEYS)
def test_what_is_chosen_is_built_for_every_family_that_the_tokenizer_fits(kind: Kind, folder: Path) -> None:
    """Most parsers of the engine can be built with these tokens, so a choice is refused for its tokens alone."""
    from vllm.tokenizers.registry import cached_tokenizer_from_config

    tokenizer = cached_tokenizer_from_config(config_of(folder).model_config)
    failing = {
        name: why
        for name in known(kind)
        if (why := parser_setup._incompatibility(kind, name, tokenizer, is_harmony=False))
    }
    assert len(known(kind)) - len(failing) == {"tool": 42, "reasoning": 31}[kind]
    assert all("token" in why or "response_template" in why or "cohere_melody" in why for why in failing.values())


@pytest.fixture(scope="module")
def thinking(folder: Path) -> Iterator[Server]:
    running = start(
        folder / "log", "--model-id", str(folder), "--max-model-len", "512", "--enable-auto-tool-choice", "false"
    )
    yield running
    end(running)


def test_the_start_says_it_once(thinking: Server) -> None:
    [line] = [line for line in thinking.log.read_text().splitlines() if "hermes" in line]
    assert line == (
        "lmi-chat  tools: hermes (the chat template writes <tool_call> with JSON); "
        "reasoning: qwen3 (the chat template writes <think> and enable_thinking)"
    )
