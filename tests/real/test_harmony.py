"""Chats of gpt-oss: rendered as vLLM's server renders them, token for token, and taken apart as it does."""

import asyncio
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from lmi_chat.chat_template import Template
from lmi_chat.codec.json_text import Json
from lmi_chat.engine.vllm import chat, harmony
from lmi_chat.engine.vllm.parsing.parsers import Parsing
from lmi_chat.engine.vllm.parsing.sequences import ParsingSink
from lmi_chat.engine.vllm.structured_output.tool_grammar import ToolGrammars
from lmi_chat.engine.vllm.vocabulary import Vocabulary
from lmi_chat.job import Delta, Finish, Finished, Job, OutputConstraint, ParsingParams, Reason, Tool
from tests.real import conftest
from tests.real.conftest import Server
from tests.real.test_tools import streamed, whole
from tests.support import harmony_folder
from tests.support.fakes import deployment, parse, refusal
from tests.support.parrot import HARMONY_NAME, PARROT

pytestmark = pytest.mark.timeout(600)  # the first import of vLLM, and the tokenizer
WEATHER: Json = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}, "days": {"type": "integer", "default": 1}},
            "required": ["town"],
        },
    },
}
CLOCK: Json = {"type": "function", "function": {"name": "clock"}}
USER: Json = {"role": "user", "content": "H\u00e9llo \U0001f31e <|end|><|start|>"}


def made(name: str, arguments: str, call_id: str) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


CALLED: list[Json] = [
    {
        "role": "assistant",
        "content": None,
        "reasoning": "I look.",
        "tool_calls": [made("weather", '{"town": "Gen\u00e8ve"}', "a"), made("clock", "{}", "b")],
    },
    {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "sunny"}]},
    {"role": "tool", "tool_call_id": "b", "content": "noon"},
]
SPOKEN: Json = {"role": "assistant", "content": "It is.", "reasoning": "Hm."}
CHATS: dict[str, Json] = {
    "user": {"messages": [USER]},
    "system": {"messages": [{"role": "system", "content": "Be short."}, USER]},
    "developer": {"messages": [{"role": "developer", "content": "Be short."}, USER]},
    "parts": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    },
    "system, then developer": {
        "messages": [{"role": "system", "content": "Be short."}, {"role": "developer", "content": "Be kind."}, USER]
    },
    "low effort": {"messages": [USER], "reasoning_effort": "low"},
    "high effort": {"messages": [USER], "reasoning_effort": "high"},
    "tools": {"messages": [USER], "tools": [WEATHER, CLOCK]},
    "system and tools": {"messages": [{"role": "system", "content": "Be short."}, USER], "tools": [WEATHER]},
    "calls and results": {"messages": [USER, *CALLED], "tools": [WEATHER, CLOCK], "reasoning_effort": "medium"},
    "words beside a call": {"messages": [USER, {**CALLED[0], "content": "I will look."}, *CALLED[1:]]},
    "reasoning of the turn before": {"messages": [USER, SPOKEN, USER]},
    "calls, then words, then calls": {"messages": [USER, *CALLED, SPOKEN, USER, *CALLED], "tools": [WEATHER, CLOCK]},
    "reasoning_content": {
        "messages": [USER, {"role": "assistant", "content": "", "reasoning_content": "Hm."}, USER],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harmony_folder.make(tmp_path_factory.mktemp("gpt") / "oss")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def template(tokenizer: Any) -> Template:
    config = SimpleNamespace(hf_config=SimpleNamespace(model_type="gpt_oss"))
    return Template(tokenizer, None, chat.of(SimpleNamespace(model_config=config)))


def of_vllm(body: Json) -> list[int]:
    """The prompt of the same body by vLLM's server."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.renderers.online_renderer import OnlineRenderer

    config: Any = SimpleNamespace(hf_config=SimpleNamespace(model_type="gpt_oss"), model="gpt-oss")
    renderer = OnlineRenderer(
        config,
        SimpleNamespace(tokenizer=None),
        request_logger=None,
        chat_template=None,
        chat_template_content_format="auto",
    )
    _, [prompt] = asyncio.run(renderer.render_chat(ChatCompletionRequest.model_validate(body)))
    return list(prompt["prompt_token_ids"])


def ids_of(template: Template, body: Json) -> list[int]:
    """The prompt of a chat body, by the way of every request."""
    served = deployment(
        template=template, vocabulary_tokens=harmony_folder.VOCABULARY_TOKENS, tool_parser="openai", calls_tools=True
    )
    return parse(body, served).job.prompt_ids


@pytest.mark.parametrize("name", CHATS)
def test_chats_are_rendered_as_vllm_does(template: Template, name: str) -> None:
    assert ids_of(template, CHATS[name]) == of_vllm(CHATS[name])


def test_arguments_may_be_an_object(template: Template) -> None:
    """As some clients keep them."""
    told = made("weather", '{"town": "Gen\u00e8ve"}', "a")
    kept = {**told, "function": {"name": "weather", "arguments": {"town": "Gen\u00e8ve"}}}
    by_text, by_object = (
        ids_of(template, {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, USER]})
        for call in (told, kept)
    )
    assert by_text == by_object


def test_how_a_prompt_ends(template: Template) -> None:
    """Without a head, with one, and inside the last message."""
    whole = template.decode(ids_of(template, {"messages": [USER]}))
    assert whole.endswith("<|end|><|start|>assistant")
    headless = template.decode(ids_of(template, {"messages": [USER], "add_generation_prompt": False}))
    assert headless + "<|start|>assistant" == whole
    begun = {"messages": [USER, {"role": "assistant", "content": "It is"}], "continue_final_message": True}
    assert template.decode(ids_of(template, begun)) == f"{whole}<|channel|>final<|message|>It is"
    served = {"template": template, "vocabulary_tokens": harmony_folder.VOCABULARY_TOKENS}
    error = refusal({"messages": [USER, CALLED[0]], "continue_final_message": True}, "chat", **served)
    assert "needs a text in the last message" in error.message


@pytest.mark.parametrize("effort", ["none", "minimal", "xhigh"])
def test_an_effort_that_harmony_has_not(template: Template, effort: str) -> None:
    served = {"template": template, "vocabulary_tokens": harmony_folder.VOCABULARY_TOKENS}
    error = refusal({"messages": [USER], "reasoning_effort": effort}, "chat", **served)
    assert f"reasoning_effort must be one of low, medium, high, got '{effort}'" in error.message


def test_tools_reach_the_prompt(template: Template) -> None:
    assert template.knows_tools
    assert template.variables == {"reasoning_effort", "enable_thinking"}


@pytest.mark.parametrize("named", [None, 200002, [200002], [200002, 199999, 200012]])
def test_what_ends_an_answer(named: int | list[int] | None) -> None:
    """The end of a call does, whatever the folder names."""
    fields = {} if named is None else {"eos_token_id": named}
    engine = SimpleNamespace(input_processor=SimpleNamespace(generation_config_fields=fields))
    harmony.complete_end_ids(engine)
    given: Any = engine.input_processor.generation_config_fields["eos_token_id"]
    assert {200002, 200012} <= set(given)
    assert len(given) == len(set(given))
    assert (199999 in given) == (named == [200002, 199999, 200012])


def test_the_folders_tokenizer_is_the_encoding(tokenizer: Any) -> None:
    from vllm.entrypoints.openai.parser.harmony_utils import get_encoding

    texts = [
        "H\u00e9llo \U0001f31e 12345 it's\n\n  \u65e5\u672c\u8a9e",
        "def f(x):\n\treturn x",
        "<|start|>a<|message|><|end|>",
    ]
    for text in texts:
        assert tokenizer.encode(text, add_special_tokens=False) == get_encoding().encode(text, allowed_special="all")


THINKS = "<|channel|>analysis<|message|>Hm, \u00e9 \U0001f31e.<|end|>"
SAYS = "<|channel|>final<|message|>It is \u65e5\u672c\u8a9e.<|return|>"
NEXT = "<|start|>assistant"
TOWN = '{"town": "Gen\u00e8ve \U0001f31e", "days": {"from": [1, 2], "to": {}}}'


def told(name: str, arguments: str, *, end: str = "<|call|>", is_first: bool = True) -> str:
    """A call, as models write it: its receiver behind the channel, or before it."""
    if is_first:
        return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}{end}"
    return f" to=functions.{name}<|channel|>commentary json<|message|>{arguments}{end}"


ANSWERS = {
    "words": SAYS,
    "reasoning, then words": f"{THINKS}{NEXT}{SAYS}",
    "a call": told("weather", TOWN),
    "a call, its receiver first": told("weather", TOWN, is_first=False),
    "no arguments": told("clock", "{}"),
    "empty arguments": told("clock", ""),
    "reasoning, then a call": f"{THINKS}{NEXT}{told('weather', TOWN)}",
    "two calls": f"{told('weather', TOWN, end='<|end|>')}{NEXT}{told('clock', '{}', is_first=False)}",
    "one tool twice": f"{THINKS}{NEXT}{told('clock', '{}', end='<|call|>')}{NEXT}{told('clock', '{}')}",
    "words, then a call": f"{THINKS}{NEXT}<|channel|>commentary<|message|>I look.<|end|>{NEXT}{told('clock', '{}')}",
    "reasoning twice": f"{THINKS}{NEXT}{THINKS}{NEXT}{SAYS}",
    "words, then words": f"<|channel|>commentary<|message|>I look.<|end|>{NEXT}{SAYS}",
    "a tool of another kind": f"{THINKS}{NEXT}<|channel|>commentary to=python code<|message|>1<|call|>",
    "reasoning alone": "<|channel|>analysis<|message|>Hm.<|end|>",
}


@pytest.fixture(scope="module")
def parsing(tokenizer: Any) -> Parsing:
    return Parsing(SimpleNamespace(), tokenizer, "openai", "openai_gptoss")


def spelled(text: str) -> list[int]:
    from vllm.entrypoints.openai.parser.harmony_utils import get_encoding

    return list(get_encoding().encode(text, allowed_special="all"))


TOOLS = (Tool("weather"), Tool("clock"))


def sink_of(
    parsing: Parsing, sink: Any, *, tools: tuple[Tool, ...] = TOOLS, prompt: str = "<|start|>assistant"
) -> ParsingSink:
    params = ParsingParams(tools=tools, choice="auto" if tools else "none")
    job = Job(id="1", prompt_ids=spelled(prompt), prompt_text=prompt, parsing=params)
    return ParsingSink(parsing, Vocabulary(parsing.tokenizer), job, sink)


def taken_apart(parsing: Parsing, steps: list[list[int]], *, reason: Reason = "stop", **how: Any) -> dict[str, Any]:
    """What the deltas are together, of an answer that comes in these steps."""
    events: list[Any] = []
    sink, before, ids = sink_of(parsing, events.append, **how), "", list[int]()
    for place, step in enumerate(steps):
        ids += step
        text = parsing.tokenizer.decode(ids, skip_special_tokens=True)
        is_last = place == len(steps) - 1
        gained = text[len(before) :] if is_last or not text.endswith("\ufffd") else ""
        before += gained
        sink(Delta(0, gained, step, finish=Finish(reason) if is_last else None))
    sink(Finished(prompt_tokens=1, completion_tokens=len(ids)))
    answer: dict[str, Any] = {"content": "", "reasoning": "", "calls": []}
    *deltas, finished = events
    for one in deltas:
        if one.kind != "call":
            answer[one.kind] += one.text
        elif one.call.name:
            assert one.call.id
            assert one.call.place == len(answer["calls"])
            answer["calls"].append([one.call.name, one.text])
        else:
            answer["calls"][one.call.place][1] += one.text
    assert [token_id for one in deltas for token_id in one.ids] == ids
    assert deltas[-1].finish == Finish(reason)
    assert list(finished.called) == [name for name, _ in answer["calls"]]
    assert bool(finished.reasoning_tokens) == bool(answer["reasoning"])
    return answer


def splits(ids: list[int], seeds: int = 8) -> Iterator[list[list[int]]]:
    """One by one, all at once, and at random."""
    yield [[token_id] for token_id in ids]
    yield [ids]
    for seed in range(seeds):
        chance, rest, steps = random.Random(seed), ids, list[list[int]]()
        while rest:
            length = chance.randint(1, 5)
            steps.append(rest[:length])
            rest = rest[length:]
        yield steps


def whole_by_vllm(parsing: Parsing, ids: list[int]) -> tuple[str, str, list[Any]]:
    """What vLLM's parser makes of the whole answer, the arguments read."""
    sink = sink_of(parsing, print)
    parser: Any = parsing._build(parsing._full, sink.request.tools, {})
    reasoning, content, calls = parser.parse("", sink.request, model_output_token_ids=ids)
    return reasoning or "", content or "", [[call.name, read(call.arguments)] for call in calls or ()]


def read(arguments: str) -> Any:
    return json.loads(arguments) if arguments else ""


@pytest.mark.parametrize("name", ANSWERS)
def test_streamed_is_whole(parsing: Parsing, name: str) -> None:
    ids = spelled(ANSWERS[name])
    first, *others = (taken_apart(parsing, steps) for steps in splits(ids))
    assert all(other == first for other in others)
    calls = [[called, read(arguments)] for called, arguments in first["calls"]]
    assert (first["reasoning"], first["content"], calls) == whole_by_vllm(parsing, ids)


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_cut_anywhere(parsing: Parsing, name: str) -> None:
    """However it comes, it is the beginning of the whole one: no mark leaks, no call looks complete that is not."""
    ids = spelled(ANSWERS[name])
    whole = taken_apart(parsing, [ids])
    for length in range(1, len(ids)):
        first, *others = (taken_apart(parsing, steps, reason="length") for steps in splits(ids[:length], 2))
        assert all(other == first for other in others)
        assert whole["reasoning"].startswith(first["reasoning"])
        assert whole["content"].startswith(first["content"])
        for (called, part), (name_of_whole, arguments) in zip(first["calls"], whole["calls"], strict=False):
            assert called == name_of_whole
            assert arguments.startswith(part)


def test_text_without_a_head_is_content(parsing: Parsing) -> None:
    for text, reason in (("It is.<|return|>", "stop"), ("It is.", "length")):
        for steps in splits(spelled(text)):
            answer = taken_apart(parsing, steps, reason=reason)  # type: ignore[arg-type]
            assert answer == {"content": "It is.", "reasoning": "", "calls": []}


def test_a_call_that_nobody_asked_for_stays_text(parsing: Parsing) -> None:
    for steps in splits(spelled(f"{THINKS}{NEXT}{told('weather', TOWN)}")):
        answer = taken_apart(parsing, steps, tools=())
        assert answer == {"content": TOWN, "reasoning": "Hm, \u00e9 \U0001f31e.", "calls": []}


def test_a_message_is_continued(parsing: Parsing) -> None:
    prompt = "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>It"
    for steps in splits(spelled(" is.<|return|>")):
        assert taken_apart(parsing, steps, prompt=prompt)["content"] == " is."


TOWNS: Json = {"type": "object", "properties": {"town": {"type": "string"}, "days": {}}, "required": ["town"]}
CALLABLE = (Tool("weather", parameters=TOWNS), Tool("clock"))
STRICT = (Tool("weather", parameters=TOWNS, is_strict=True), Tool("clock"))
FORM = OutputConstraint("json_object", "", "response_format")
OBJECT = "<|channel|>final <|constrain|>json<|message|>{}<|return|>"
CALLS = ("a call", "a call, its receiver first", "no arguments", "reasoning, then a call", "words, then a call")
WORDS = ("words", "reasoning, then words", "words, then words")
FORCED: dict[str, tuple[ParsingParams, OutputConstraint | None, tuple[str, ...]]] = {
    "required": (ParsingParams(tools=CALLABLE, choice="required"), None, CALLS),
    "named": (
        ParsingParams(tools=CALLABLE, choice="named", named="clock"),
        None,
        ("no arguments", "words, then a call"),
    ),
    "strict": (ParsingParams(tools=STRICT, choice="auto"), None, (*CALLS, *WORDS, "form")),
    "one call at most": (
        ParsingParams(tools=CALLABLE, choice="auto", is_parallel=False),
        None,
        (*CALLS, *WORDS, "form"),
    ),
    "calls or a form": (ParsingParams(tools=CALLABLE, choice="auto"), FORM, (*CALLS, "form")),
    "a form": (ParsingParams(), FORM, ("form",)),
    "a regex": (ParsingParams(), OutputConstraint("regex", "It .*", "guided_regex"), WORDS[:2]),
}


@pytest.mark.parametrize("name", FORCED)
def test_what_must_be_called_or_fit_a_form(parsing: Parsing, name: str) -> None:
    """The form is the final message's, which reasoning may precede; a stop token ends a message without its mark."""
    import llguidance
    from llguidance.hf import from_tokenizer
    from vllm.tool_parsers import ToolParserManager

    params, form, fitting = FORCED[name]
    grammars = ToolGrammars("openai", ToolParserManager.get_tool_parser("openai"), parsing.tokenizer)
    constraint = grammars.constraint(params, form)
    assert constraint is not None
    assert isinstance(constraint.value, str)
    known = from_tokenizer(parsing.tokenizer, n_vocab=harmony_folder.VOCABULARY_TOKENS)
    matcher = llguidance.LLMatcher(known, llguidance.grammar_from("grammar", constraint.value))
    assert not matcher.get_error()
    for answer, text in {**ANSWERS, "form": OBJECT, "no head": "{}<|return|>"}.items():
        matcher.reset()
        ids = spelled(text.removesuffix("<|return|>").removesuffix("<|call|>"))
        fits = matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
        assert fits == (answer in fitting), answer


@pytest.fixture(scope="module")
def parrot(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A gpt-oss on the real engine, which says what stands behind PARROT. Nothing is told of its parsers."""
    path = os.pathsep.join((str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")))
    words = ("--model-id", str(folder), "--load-format", "dummy", "--logits-processors", HARMONY_NAME)
    log = tmp_path_factory.mktemp("harmony") / "log"
    server = conftest.start(log, *words, "--max-model-len", "2048", environment={"PYTHONPATH": path})
    yield server
    conftest.end(server)


def asked(text: str, **more: Any) -> Json:
    chat = [{"role": "user", "content": f"{PARROT}{text}"}]
    return {"messages": chat, "temperature": 0, "max_tokens": 200, "tools": [WEATHER, CLOCK], **more}


ENGINE = ("words", "reasoning, then words", "a call", "two calls", "reasoning, then a call", "words, then a call")


@pytest.mark.parametrize("name", ENGINE)
def test_the_engine_answers_whole_and_streamed(parrot: Server, parsing: Parsing, name: str) -> None:
    text = ANSWERS[name]
    message, reason = whole(parrot, asked(text))
    assert (message, reason) == streamed(parrot, asked(text))
    ids = spelled(text)
    ends = [place for place, token_id in enumerate(ids, 1) if token_id in {200002, 200012}]
    assert message == taken_apart(parsing, [ids[: ends[0]]]), "the end of a call ends the answer"
    assert reason == ("tool_calls" if message["calls"] else "stop")


def test_the_engine_counts_and_hides_reasoning(parrot: Server) -> None:
    body = asked(ANSWERS["reasoning, then words"], tools=None, reasoning_effort="low")
    usage = parrot.whole(body)["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == len(spelled("Hm, \u00e9 \U0001f31e."))
    hidden, _ = whole(parrot, body | {"include_reasoning": False})
    assert (hidden["reasoning"], hidden["content"]) == ("", "It is \u65e5\u672c\u8a9e.")
    assert streamed(parrot, body | {"include_reasoning": False})[0] == hidden


def test_the_engine_ends_a_call_that_is_cut(parrot: Server) -> None:
    body = asked(ANSWERS["a call"], max_tokens=16)
    message, reason = whole(parrot, body)
    assert (message, reason) == streamed(parrot, body)
    assert (reason, message["content"]) == ("length", "")
    [[name, arguments]] = message["calls"]
    assert name == "weather"
    assert TOWN.startswith(arguments)
    assert len(arguments) < len(TOWN)


def test_the_engine_takes_the_result_of_a_call(parrot: Server) -> None:
    """Two turns, as every agent does them."""
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{parrot.port}/v1", api_key="none", max_retries=0)
    chat: list[Any] = [{"role": "user", "content": f"{PARROT}{ANSWERS['reasoning, then a call']}"}]
    tools: list[Any] = [WEATHER, CLOCK]
    first = client.chat.completions.create(model="oss", messages=chat, tools=tools)
    [made_call] = first.choices[0].message.tool_calls or []
    chat += [first.choices[0].message]
    chat += [{"role": "tool", "tool_call_id": made_call.id, "content": f"sunny {PARROT}{ANSWERS['words']}"}]
    second = client.chat.completions.create(model="oss", messages=chat, tools=tools)
    assert second.choices[0].message.content == "It is \u65e5\u672c\u8a9e."


def test_the_engine_forces_calls_and_forms(parrot: Server) -> None:
    """What the model says fits the grammar, token for token, or the engine would not have taken it."""
    required = asked(ANSWERS["words, then a call"], tool_choice="required")
    message, reason = whole(parrot, required)
    assert (message, reason) == streamed(parrot, required)
    assert ([name for name, _ in message["calls"]], reason) == (["clock"], "tool_calls")
    for more in ({}, {"tools": None}):
        form = asked(f"{THINKS}{NEXT}{OBJECT}", response_format={"type": "json_object"}, **more)
        message, reason = whole(parrot, form)
        assert (message, reason) == streamed(parrot, form)
        assert (message["content"], message["calls"], reason) == ("{}", [], "stop")
        assert message["reasoning"]
