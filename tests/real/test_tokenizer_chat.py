"""Tokenizers whose own code renders chats, by vLLM's renderers: Mistral's and DeepSeek's. No engine starts here."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lmi_chat.chat_template import BadTemplate, Template
from lmi_chat.codec.json_text import Json
from lmi_chat.engine.vllm import chat
from lmi_chat.engine.vllm.fast_path import detokenizer
from lmi_chat.engine.vllm.structured_output import trials
from lmi_chat.engine.vllm.structured_output.trials import TrialLimits
from lmi_chat.engine.vllm.vocabulary import Vocabulary
from lmi_chat.errors import BadField, PromptTooLong
from lmi_chat.job import OutputConstraint
from tests.support import mistral_folder
from tests.support.fakes import deployment, parse, refusal

pytestmark = pytest.mark.timeout(300)  # the first import of vLLM
USER: Json = {"role": "user", "content": "hello w\u00e9\U0001f31frld [INST]<s>"}
CALL = {"id": "call_abcdefghi", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TURNS: list[Json] = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_abcdefghi", "content": [{"type": "text", "text": "7"}]},
]
DEEPSEEK = (
    *("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
    *("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>", "</think>", "\uff5cDSML\uff5c"),
)
BEGIN, END, ASKS, ANSWERS = DEEPSEEK[:4]


def template_of(tokenizer: Any, mode: str) -> Template:
    """As the engine describes it: vLLM's renderer of the mode around the tokenizer."""
    from vllm.renderers.registry import RENDERER_REGISTRY

    config = SimpleNamespace(
        tokenizer=str(tokenizer.name_or_path if mode != "mistral" else "mistral"),
        tokenizer_mode=mode,
        tokenizer_revision=None,
        trust_remote_code=False,
        runner_type="generate",
        renderer_num_workers=1,
        supports_multimodal_inputs=False,
        is_multimodal_model=False,
        multimodal_config=None,
        enable_prompt_embeds=False,
        hf_config=SimpleNamespace(model_type=mode),
    )
    whole: Any = SimpleNamespace(model_config=config, parallel_config=SimpleNamespace(_api_process_rank=0))
    renderer = RENDERER_REGISTRY.load_renderer(mode, whole, tokenizer)
    return Template(tokenizer, None, chat.of(SimpleNamespace(renderer=renderer, model_config=config)))


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from vllm.tokenizers.mistral import MistralTokenizer

    return MistralTokenizer.from_pretrained(mistral_folder.tekken(tmp_path_factory.mktemp("mistral")).parent)


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepseek")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in DEEPSEEK])
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BEGIN, eos_token=END).save_pretrained(folder)
    return folder


def rendered(template: Template, messages: list[Json], **fields: Any) -> str:
    """The prompt of a chat body, by the way of every request; its token ids spell it."""
    job = parse({"messages": messages, **fields}, deployment(template=template, vocabulary_tokens=2**20)).job
    assert template.decode(job.prompt_ids) == job.prompt_text
    return job.prompt_text


def test_mistrals_tokenizer_renders_its_chats(mistral: Any) -> None:
    template = template_of(mistral, "mistral")
    said = USER["content"]
    assert rendered(template, [USER]) == f"<s>[INST]{said}[/INST]"
    job = parse({"messages": [USER]}, deployment(template=template)).job
    inner = mistral.mistral.instruct_tokenizer.tokenizer
    assert job.prompt_ids == [1, 3, *inner.encode(said, bos=False, eos=False), 4], "what spells a token is none"
    system = [{"role": "system", "content": "Be short."}, USER]
    assert rendered(template, system) == f"<s>[SYSTEM_PROMPT]Be short.[/SYSTEM_PROMPT][INST]{said}[/INST]"
    developer = [{"role": "developer", "content": "Be short."}, USER]
    assert rendered(template, developer) == rendered(template, system)
    told = '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]</s>'
    assert rendered(template, TURNS) == (
        f"<s>[INST]{said}[/INST]{told}[TOOL_RESULTS]abcdefghi[TOOL_CONTENT]7[/TOOL_RESULTS]"
    )
    begun = [USER, {"role": "assistant", "content": "It is"}]
    assert rendered(template, begun, continue_final_message=True) == f"<s>[INST]{said}[/INST]It is"
    standard = parse({"inputs": [USER]}, deployment(template=template)).job
    assert standard.prompt_ids == job.prompt_ids


WEATHER: Json = {"name": "get_weather", "description": "The weather.", "parameters": {"type": "object"}}
TOOLS: list[Json] = [{"type": "function", "function": WEATHER}, {"type": "function", "function": {"name": "get_time"}}]


def test_mistrals_tokenizer_shows_tools(mistral: Any) -> None:
    """A function without parameters takes none; ids are shortened as in vLLM's server."""
    template = template_of(mistral, "mistral")
    assert template.knows_tools
    here = deployment(template=template, tool_parser="mistral", context_tokens=2**14, vocabulary_tokens=2**20)
    job = parse({"messages": TURNS, "tools": TOOLS}, here).job
    none = {"type": "object", "properties": {}}
    whole = [TOOLS[0], {"type": "function", "function": {"name": "get_time", "parameters": none}}]
    calls = {**CALL, "id": "abcdefghi"}
    turns = [TURNS[0], {**TURNS[1], "tool_calls": [calls]}, {**TURNS[2], "tool_call_id": "abcdefghi"}]
    assert job.prompt_ids == mistral.apply_chat_template(turns, tools=whole, add_generation_prompt=True)
    assert "get_weather" in job.prompt_text
    assert "get_time" in job.prompt_text
    assert job.parsing is not None
    assert "get_time" not in parse({"messages": TURNS, "tools": TOOLS, "tool_choice": "none"}, here).job.prompt_text


def test_what_mistrals_tokenizer_refuses(mistral: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A refusal is the caller's, in the words of the code; nothing of it floods the log."""
    template = template_of(mistral, "mistral")
    error = refusal({"messages": [USER, {"role": "assistant", "content": "x"}]}, "chat", template=template)
    assert (error.status, error.param) == (400, "messages")
    assert "last message is from the assistant" in error.message
    assert not caplog.records
    many = {"messages": [{"role": "user", "content": "a" * 100_000}]}
    error = refusal(many, "chat", template=template)
    assert isinstance(error, PromptTooLong)
    for name in ("tools", "tokenize", "return_dict", "effort"):
        error = refusal({"messages": [USER], "chat_template_kwargs": {name: "x"}}, "chat", template=template)
        assert "is not allowed" in error.message
    assert rendered(template, [USER], chat_template_kwargs={"enable_thinking": False}) == rendered(template, [USER])


def test_a_chat_template_beside_such_code_stops_the_start(mistral: Any) -> None:
    own = template_of(mistral, "mistral")._own
    with pytest.raises(BadTemplate, match="renders chats by its own code"):
        Template(mistral, "{{ messages[0].content }}", own)


def test_tekkens_tokens_become_text_as_in_vllm(mistral: Any) -> None:
    """Token by token, for any tokens: text by the table, and vLLM's own text for the same."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.detokenizer import SlowIncrementalDetokenizer

    spelled = detokenizer.of(mistral)
    assert spelled
    count, by_table, left_out = len(mistral), 0, 0
    for seed in range(300):
        chance = random.Random(seed)
        weights = [8 if token_id < 20 else 1 if token_id < 276 else 60 for token_id in range(count)]
        prompt = chance.choices(range(count), weights, k=chance.randint(1, 12))
        ids = chance.choices(range(count), weights, k=chance.randint(1, 24))
        if not spelled.fits(prompt):
            left_out += 1
            continue
        request: Any = SimpleNamespace(sampling_params=SamplingParams(), prompt_token_ids=prompt, prompt_embeds=None)
        own, text, before = SlowIncrementalDetokenizer(mistral, request), spelled.begin(prompt), ""
        for token_id in ids:
            by_table += text.is_clean and spelled.table[token_id] is not None
            own.update([token_id], stop_terminated=False)
            assert text.take([token_id]) == own.output_text[len(before) :], (seed, prompt, ids)
            before = own.output_text
    assert by_table > 1000
    assert 0 < left_out < 100


def test_the_bytes_of_tekkens_tokens(mistral: Any) -> None:
    vocabulary = Vocabulary(mistral)
    assert vocabulary.spell(1) == b"<s>"
    assert vocabulary.choice(1, -0.5).is_special
    assert vocabulary.spell(20 + 0xE2) == b"\xe2", "a part of a character is just that part"
    assert [vocabulary.spell(276), vocabulary.spell(len(mistral) + 1)] == [b"\xf0\x9f", b""]
    ids = mistral.encode("hello \u20ac\U0001f31f", add_special_tokens=False)
    assert b"".join(map(vocabulary.spell, ids)).decode() == "hello \u20ac\U0001f31f"


async def test_a_form_of_the_text_is_tried_with_tekkens_tokens(mistral: Any) -> None:
    config = SimpleNamespace(structured_outputs_config=SimpleNamespace(disable_any_whitespace=False))
    tried = trials.load(SimpleNamespace(get_tokenizer=lambda: mistral, vllm_config=config), TrialLimits(10.0, 64))
    try:
        for kind, value in (("choice", ("hello", "w\u00e9")), ("regex", "[a-z]+ \u20ac"), ("json_object", "")):
            await tried.check(OutputConstraint(kind=kind, value=value, path="guided"))  # type: ignore[arg-type]
        with pytest.raises(BadField, match="guided is refused"):
            await tried.check(OutputConstraint(kind="regex", value="(", path="guided"))
    finally:
        process: Any = tried._process
        tried.stop()
        await process.wait()
        process.stdin.close()


@pytest.mark.parametrize("name", ["mistral_instruct_tokenizer_240323.model.v3", "tokenizer.model.v1"])
def test_sentencepiece_of_mistrals_takes_the_general_path(name: str, tmp_path: Path) -> None:
    import mistral_common
    from vllm.tokenizers.mistral import MistralTokenizer

    data = Path(mistral_common.__file__).parent / "data" / name
    (tmp_path / f"tokenizer.model.{data.suffix[1:]}").write_bytes(data.read_bytes())
    tokenizer: Any = MistralTokenizer.from_pretrained(tmp_path)
    template = template_of(tokenizer, "mistral")
    assert "hello" in rendered(template, [{"role": "user", "content": "hello"}])
    assert detokenizer.of(tokenizer) is None
    vocabulary = Vocabulary(tokenizer)
    ids = tokenizer.encode("hello \u20ac\U0001f31f", add_special_tokens=False)
    assert b"".join(map(vocabulary.spell, ids)).decode().strip() == "hello \u20ac\U0001f31f"


MODES = {
    "deepseek_v32": (BEGIN, f"{ANSWERS}</think>"),
    "deepseek_v4": (BEGIN, f"{ANSWERS}<think>"),
}


@pytest.mark.parametrize("mode", MODES)
def test_deepseeks_tokenizers_render_their_chats(mode: str, deepseek: Path) -> None:
    from vllm.tokenizers.registry import TokenizerRegistry

    tokenizer = TokenizerRegistry.load_tokenizer(mode, deepseek)
    template = template_of(tokenizer, mode)
    begin, answers = MODES[mode]
    ask = {"role": "user", "content": "Hi"}
    assert rendered(template, [ask]).startswith(begin)
    assert rendered(template, [ask]).endswith(f"{ASKS}Hi{answers}")
    system = rendered(template, [{"role": "system", "content": "Be short."}, ask])
    assert system.startswith(BEGIN)
    assert f"Be short.{ASKS}Hi{answers}" in system
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert "a" in rendered(template, [{"role": "user", "content": parts}])
    assert rendered(template, [ask], chat_template_kwargs={"enable_thinking": True}).endswith("<think>")
    assert rendered(template, [ask], chat_template_kwargs={"thinking": False}).endswith("</think>")
    calls = rendered(template, [ask, *TURNS[1:]])
    assert '<\uff5cDSML\uff5cinvoke name="f">' in calls
    assert "None" not in calls
    begun = rendered(template, [ask, {"role": "assistant", "content": "It is"}], continue_final_message=True)
    assert begun.endswith("It is")
    assert refusal({"messages": [ask], "chat_template_kwargs": {"tools": "x"}}, "chat", template=template).param == (
        "chat_template_kwargs.tools"
    )


@pytest.mark.parametrize("mode", MODES)
def test_deepseeks_tokenizers_show_tools(mode: str, deepseek: Path) -> None:
    from vllm.tokenizers.registry import TokenizerRegistry

    tokenizer: Any = TokenizerRegistry.load_tokenizer(mode, deepseek)
    template = template_of(tokenizer, mode)
    assert template.knows_tools
    here = deployment(template=template, tool_parser="any", context_tokens=2**16, vocabulary_tokens=2**20)
    turns = [{"role": "user", "content": "Hi"}, *TURNS[1:]]
    text = parse({"messages": turns, "tools": TOOLS}, here).job.prompt_text
    assert '"name": "get_weather"' in text
    assert text.index("get_weather") < text.index('invoke name="f"')
    plain = parse({"messages": turns}, here).job.prompt_text
    assert "get_weather" not in plain
    assert parse({"messages": turns, "tools": TOOLS, "tool_choice": "none"}, here).job.prompt_text == plain
    for effort, ends in (("none", "</think>"), ("high", "<think>")):
        asked = {"messages": turns[:1], "tools": TOOLS, "reasoning_effort": effort}
        assert parse(asked, here).job.prompt_text.endswith(ends)


def test_a_plain_tokenizer_has_no_such_code(deepseek: Path) -> None:
    from vllm.tokenizers.registry import TokenizerRegistry

    template = template_of(TokenizerRegistry.load_tokenizer("hf", deepseek), "hf")
    assert not template.has_own_code
    with pytest.raises(BadField, match="no chat template"):
        template.render([USER])
