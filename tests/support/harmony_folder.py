"""A tiny gpt-oss of random weights, with a tokenizer made from the harmony encoding that vLLM brings; no network."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

FIRST_SPECIAL, VOCABULARY_TOKENS = 199_998, 201_088
CONFIG = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "vocab_size": VOCABULARY_TOKENS,
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 64,
    "head_dim": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 128,
    "max_position_embeddings": 4096,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 150000.0,
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "tie_word_embeddings": True,
    "bos_token_id": 199998,
    "eos_token_id": 200002,
    "pad_token_id": 199999,
}


def tokenizer() -> Any:
    """The encoding as a tokenizer of the `tokenizers` library; special tokens are the encoding's own."""
    from openai_harmony import HarmonyEncodingName, load_harmony_encoding
    from tiktoken_ext import openai_public
    from transformers.convert_slow_tokenizer import TikTokenConverter

    inner = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)._inner
    spelled = [bytes(inner.decode_bytes([token_id])) for token_id in range(VOCABULARY_TOKENS)]
    ranks = {token: rank for rank, token in enumerate(spelled[:FIRST_SPECIAL])}
    with patch.object(openai_public, "load_tiktoken_bpe", lambda *_, **__: {}):
        pattern = openai_public.o200k_base()["pat_str"]
    names = [token.decode() for token in spelled[FIRST_SPECIAL:]]
    with patch.object(TikTokenConverter, "load_tiktoken_bpe", lambda *_: ranks):
        return TikTokenConverter(pattern=pattern, extra_special_tokens=names).converted()


def make(folder: Path, *, end_ids: int | list[int] = 200_002) -> Path:
    """A whole folder but for weights, so for load_format dummy. `end_ids`: as generation_config.json has them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|return|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    for name, content in (
        ("config", CONFIG),
        ("generation_config", {"eos_token_id": end_ids, "bos_token_id": 199998}),
        ("tokenizer_config", settings),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder
