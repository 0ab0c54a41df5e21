"""Compute the memory that the KV cache can use: room for every sequence that may run, each as long as the context.

The engine takes the whole of what it is allowed, and on a CPU it writes zeros into all of it at the start.
"""

from typing import Any

PLAIN_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def fit(config: Any) -> None:
    """Lower the cache size of `config`, a VllmConfig, to the size that it can use; where that is unknown it stays."""
    needed = bytes_needed(config)
    if needed is not None:
        config.cache_config.kv_cache_memory_bytes = min(config.cache_config.kv_cache_memory_bytes, needed)


def bytes_needed(config: Any) -> int | None:
    """Count the bytes in each worker for max_num_seqs × max_model_len tokens, in whole blocks, by a VllmConfig.

    None where a layer may hold something else than one key and one value for each of its heads and tokens: the engine
    then lays the cache out in groups of layers, by rules of its own.
    """
    model, cache, parallel = config.model_config, config.cache_config, config.parallel_config
    item_bytes = model.dtype.itemsize if cache.cache_dtype == "auto" else PLAIN_BYTES.get(cache.cache_dtype)
    if item_bytes is None or config.speculative_config or parallel.pipeline_parallel_size > 1 or not _is_even(model):
        return None
    head_bytes = model.get_num_kv_heads(parallel) * model.get_head_size() * item_bytes
    token_bytes = 2 * model.get_num_layers(parallel) * head_bytes
    blocks = config.scheduler_config.max_num_seqs * -(-model.max_model_len // cache.block_size)
    return int((blocks + 1) * cache.block_size * token_bytes)  # the engine keeps one block for itself


def _is_even(model: Any) -> bool:
    """Whether all layers are attention of one kind and size."""
    kinds = getattr(model.hf_text_config, "layer_types", None) or ()
    others = model.use_mla or model.is_hybrid or model.is_attention_free or model.is_encoder_decoder or model.has_noops
    return len(set(kinds)) <= 1 and not others and model.model_arch_config.per_layer_overrides is None
