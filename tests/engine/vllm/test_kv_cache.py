"""How much memory the KV cache can use; tests/real/test_seam.py compares it with the engine's own count."""

from types import SimpleNamespace
from typing import Any

import pytest

from lmi_chat.engine.vllm import kv_cache


def config(
    *, size: int = 3 << 30, cache_dtype: str = "auto", pipeline: int = 1, speculative: object = None, **model: Any
) -> Any:
    """A VllmConfig of a model with two layers of 3 key heads, 9 query heads, 64 numbers a head, in float32."""
    plain = {"use_mla": False, "is_hybrid": False, "is_attention_free": False, "is_encoder_decoder": False}
    text = SimpleNamespace(layer_types=model.pop("layer_types", None))
    given = plain | {"has_noops": False, "max_model_len": 1000, "per_layer": None} | model
    return SimpleNamespace(
        model_config=SimpleNamespace(
            **given,
            dtype=SimpleNamespace(itemsize=4),
            hf_text_config=text,
            model_arch_config=SimpleNamespace(per_layer_overrides=given["per_layer"]),
            get_num_layers=lambda _: 2,
            get_num_kv_heads=lambda parallel: max(1, 3 // parallel.tensor_parallel_size),
            get_head_size=lambda: 64,
        ),
        cache_config=SimpleNamespace(cache_dtype=cache_dtype, block_size=128, kv_cache_memory_bytes=size),
        parallel_config=SimpleNamespace(pipeline_parallel_size=pipeline, tensor_parallel_size=1),
        scheduler_config=SimpleNamespace(max_num_seqs=4),
        speculative_config=speculative,
    )


TOKEN = 2 * 2 * 3 * 64 * 4
BLOCKS = 4 * 8 + 1


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, BLOCKS * 128 * TOKEN),
        ({"layer_types": ["full_attention"] * 2}, BLOCKS * 128 * TOKEN),
        ({"cache_dtype": "bfloat16"}, BLOCKS * 128 * TOKEN // 2),
        ({"max_model_len": 1024}, BLOCKS * 128 * TOKEN),
        ({"max_model_len": 1025}, (4 * 9 + 1) * 128 * TOKEN),
    ],
)
def test_keys_and_values_of_every_layer_for_whole_contexts(changes: dict[str, Any], size: int) -> None:
    assert kv_cache.bytes_needed(config(**changes)) == size


@pytest.mark.parametrize(
    "changes",
    [
        {"use_mla": True},
        {"is_hybrid": True},
        {"is_attention_free": True},
        {"is_encoder_decoder": True},
        {"has_noops": True},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"per_layer": [{}, {"head_size": 128}]},
        {"cache_dtype": "fp8"},
        {"pipeline": 2},
        {"speculative": object()},
    ],
)
def test_what_is_not_plain_attention_is_left_to_the_engine(changes: dict[str, Any]) -> None:
    given = config(size=1 << 40, **changes)
    assert kv_cache.bytes_needed(given) is None
    kv_cache.fit(given)
    assert given.cache_config.kv_cache_memory_bytes == 1 << 40


@pytest.mark.parametrize("size", [1 << 20, BLOCKS * 128 * TOKEN, 1 << 40])
def test_the_cache_is_the_smaller_of_its_share_and_what_it_can_use(size: int) -> None:
    given = config(size=size)
    kv_cache.fit(given)
    assert given.cache_config.kv_cache_memory_bytes == min(size, BLOCKS * 128 * TOKEN)
