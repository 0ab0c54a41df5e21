"""What the binding leans on in vLLM: an upgrade that changes it fails here, with its name."""

import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.config.settings import read
from lmi_chat.engine.vllm import arguments, kv_cache
from lmi_chat.engine.vllm import engine as vllm
from lmi_chat.engine.vllm.structured_output.trials import Trials
from lmi_chat.pipeline.pipeline import Pipeline, PipelineConfig
from lmi_chat.server import bootstrap, default_model
from tests.support.recipes import RECIPES, Recipe


def test_add_request_gives_a_collector_whose_put_is_called() -> None:
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector

    assert list(inspect.signature(AsyncLLM.add_request).parameters)[:4] == ["self", "request_id", "prompt", "params"]
    assert "priority" in inspect.signature(AsyncLLM.add_request).parameters
    assert "internal" in inspect.signature(AsyncLLM.abort).parameters
    assert "timeout" in inspect.signature(AsyncLLM.shutdown).parameters
    assert list(inspect.signature(RequestOutputCollector.put).parameters) == ["self", "output"]
    assert "queue.put(" in inspect.getsource(OutputProcessor.process_outputs)
    assert not hasattr(RequestOutputCollector, "__slots__"), "put is replaced on the object"


def test_names_read_from_the_source_are_the_engines_own() -> None:
    from dataclasses import fields

    from vllm.engine.arg_utils import AsyncEngineArgs

    assert arguments.kinds().keys() == {row.name for row in fields(AsyncEngineArgs) if not row.name.startswith("_")}
    assert arguments.kinds()["max_model_len"] == "int"


def test_a_type_that_is_only_true_or_false_is_a_switch_of_the_parser() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    dests = {action.dest for action in parser._actions}
    switches = {action.dest for action in parser._actions if action.nargs == 0} - {"help"}
    kinds = {name: {*kind.split(" | ")} for name, kind in arguments.kinds().items() if name in dests}
    assert switches == {name for name, kind in kinds.items() if kind <= {"bool", "None"}}
    with pytest.raises(vllm.StartFailed, match="the engine takes no tokens_only from a configuration"):
        vllm._parse({"tokens_only": "true"})
    with pytest.raises(vllm.StartFailed, match=r"bad value: argument --max-model-len: .*'many'"):
        vllm._parse({"max_model_len": "many"})
    assert vllm._parse({"served_model_name": '["a name, of words"]'}).served_model_name == ["a name, of words"]
    assert vllm._parse({"disable_log_stats": "false"}).disable_log_stats is False


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_engine_takes_the_arguments_of_published_deployments(recipe: Recipe) -> None:
    """Through its own parser: each value arrives under its name, with its type."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    engine = read({}, recipe.environment, None, arguments.kinds(), gpus=4).engine
    args = AsyncEngineArgs.from_cli_args(vllm._parse(engine))
    for name, text in engine.items():
        value = getattr(args, name)
        if isinstance(value, bool | int | float):
            assert value == json.loads(text.lower()), name
        elif isinstance(value, list | dict):
            assert value == json.loads(text), name
        else:
            assert value == text, name


def test_the_classes_of_refusals_are_there() -> None:
    from vllm.exceptions import VLLMClientError, VLLMValidationError
    from vllm.v1.engine.exceptions import EngineDeadError

    assert issubclass(VLLMValidationError, VLLMClientError | ValueError)
    assert issubclass(EngineDeadError, Exception)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("max_model_len", "many", "an engine setting has a bad value: argument --max-model-len: "),
        (
            "limit_mm_per_prompt",
            "four",
            "an engine setting has a bad value: limit_mm_per_prompt must be JSON such as {\"image\": 4}, got 'four' (",
        ),
        ("pooler_config", "first", "an engine setting has a bad value: pooler_config must be JSON, got 'first' ("),
        (
            "load_format",
            "sagemaker_fast_model_loader",
            r"load_format must be one of auto, .*safetensors, .*, got 'sagemaker_fast_model_loader' (",
        ),
    ],
)
async def test_a_bad_value_of_the_engine_says_where_it_stood(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, said: str
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    given = {"HF_MODEL_ID": "hub/m", f"OPTION_{name.upper()}": text}
    settings = read({}, given, None, arguments.kinds())
    with pytest.raises(bootstrap.StartFailed) as caught:
        await bootstrap.load(settings, Pipeline(PipelineConfig()), print)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert re.match(re.escape(said).replace(r"\.\*", ".*"), text)
    assert text.endswith(f"({name}: environment OPTION_{name.upper()})")


TEXT = {"num_hidden_layers": 3, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 1000, **TEXT}
NESTED = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "text_config": LLAMA,
    "vision_config": {"model_type": "clip_vision_model", "num_hidden_layers": 7, "num_attention_heads": 8},
}
WINDOWS = {"layer_types": ["sliding_attention", "full_attention", "full_attention"], "sliding_window": 64}
GEMMA = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "head_dim": 64, **TEXT, **WINDOWS}


@pytest.mark.parametrize(
    ("model", "given", "is_known"),
    [
        (LLAMA, {"dtype": "float32"}, True),
        (LLAMA, {"dtype": "bfloat16", "max_model_len": "300"}, True),
        (LLAMA | {"head_dim": 32}, {"dtype": "float32"}, True),
        (NESTED, {"dtype": "bfloat16"}, True),
        (GEMMA, {"dtype": "bfloat16"}, False),
    ],
)
def test_the_cache_holds_what_the_engine_says_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: dict[str, Any], given: dict[str, str], *, is_known: bool
) -> None:
    """For max_num_seqs whole contexts, by the engine's own description of a layer; beside them, one block."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    (tmp_path / "config.json").write_text(json.dumps(model))
    given = {**given, "model": str(tmp_path), "tokenizer": str(default_model.folder()), "max_num_seqs": "5"}
    parsed = vllm._parse({**given, "kv_cache_memory_bytes": str(1 << 40), "enforce_eager": "true"})
    config = AsyncEngineArgs.from_cli_args(parsed).create_engine_config()
    assert config.cache_config.kv_cache_memory_bytes == 1 << 40
    kv_cache.fit(config)
    if not is_known:
        assert config.cache_config.kv_cache_memory_bytes == 1 << 40
        return
    layer = FullAttentionSpec(
        block_size=config.cache_config.block_size,
        num_kv_heads=3,
        head_size=model.get("head_dim", 64),
        dtype=config.model_config.dtype,
    )
    whole = 5 * layer.max_memory_usage_bytes(config)
    assert config.cache_config.kv_cache_memory_bytes == 3 * (whole + layer.page_size_bytes)


def test_every_value_of_sampling_reaches_the_engine() -> None:
    """Each in vLLM's name for it, which is ours."""
    from dataclasses import fields

    from lmi_chat.engine.vllm.sampling import params
    from lmi_chat.job import OutputConstraint, SamplingParams

    values: dict[str, Any] = {
        "n": 2,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.1,
        "seed": 7,
        "max_tokens": 9,
        "min_tokens": 3,
        "stop": ("a",),
        "stop_token_ids": (1, 2),
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "logprobs": 4,
        "prompt_logprobs": 3,
        "logit_bias": {7: -1.0},
        "allowed_token_ids": (3, 4),
        "bad_words": ("no",),
        "thinking_token_budget": 5,
    }
    assert values.keys() | {"constraint"} == {row.name for row in fields(SamplingParams)}
    given = params(SamplingParams(**values))
    for name, value in values.items():
        expected = list(value) if isinstance(value, tuple) else value
        assert getattr(given, name) == expected, name
        assert getattr(params(SamplingParams()), name) != expected, name
    guide = OutputConstraint("regex", "a+")
    constraint = Trials(1.0, None).params(guide)
    assert params(SamplingParams(constraint=guide), constraint).structured_outputs is constraint
    assert params(SamplingParams()).structured_outputs is None


@pytest.mark.parametrize("switch", ["disable_any_whitespace", "disable_additional_properties"])
def test_switches_that_need_a_backend_are_taken_without_its_name(switch: str) -> None:
    given = {"structured_outputs_config": json.dumps({switch: True})}
    config = vllm._parse(vllm._choose_backend(given)).structured_outputs_config
    assert (config.backend, getattr(config, switch)) == ("guidance", True)


def test_a_pooling_request_says_its_task_and_has_one_tensor() -> None:
    from dataclasses import fields

    from vllm.config import ModelConfig
    from vllm.outputs import PoolingOutput, PoolingRequestOutput
    from vllm.pooling_params import PoolingParams as VllmPoolingParams
    from vllm.v1.engine.async_llm import AsyncLLM

    assert {"task", "dimensions", "use_activation"} <= set(VllmPoolingParams.__struct_fields__)
    assert "data" in {row.name for row in fields(PoolingOutput)}
    assert {"prompt_token_ids", "num_cached_tokens"} <= set(inspect.signature(PoolingRequestOutput).parameters)
    assert all(hasattr(ModelConfig, name) for name in ("embedding_size", "is_matryoshka", "matryoshka_dimensions"))
    assert hasattr(AsyncLLM, "get_supported_tasks")
