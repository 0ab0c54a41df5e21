"""Write a tiny model with random weights in Mistral AI's own format: params.json, tekken.json, consolidated weights."""

import base64
import json
from pathlib import Path

WORDS = [" a", " the", "he", " he", "ll", "llo", " hello", "or", "ld", " wor", " world", "é", "€", "🌟"]
"""Merged in this order: each but the first bytes of a character is made of two earlier tokens."""
SPECIAL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
DIM, LAYERS, HEADS, HIDDEN, CONTEXT = 64, 1, 4, 128, 512


def tekken(folder: Path, *, version: str = "v7") -> Path:
    """Write tekken.json into `folder`: a token for each byte, and WORDS."""
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [b"\xf0\x9f", *(word.encode() for word in WORDS)]
    vocabulary = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": token.decode("utf-8", "replace")}
        for rank, token in enumerate(tokens)
    ]
    config = {
        "pattern": r"\p{L}+| \p{L}+|[^\p{L}]",
        "num_vocab_tokens": len(tokens),
        "default_vocab_size": len(tokens) + len(SPECIAL),
        "default_num_special_tokens": len(SPECIAL),
        "version": version,
    }
    special = [{"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(SPECIAL)]
    path = folder / "tekken.json"
    path.write_text(json.dumps({"config": config, "vocab": vocabulary, "special_tokens": special, "type": "Tekken"}))
    return path


def encoded(text: str) -> list[int]:
    """The tokens of a text, by tiktoken as the file asks for it."""
    from tempfile import TemporaryDirectory

    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    with TemporaryDirectory() as folder:
        return list(Tekkenizer.from_file(tekken(Path(folder))).encode(text, bos=False, eos=False))


def model(folder: Path) -> Path:
    """Write the whole model into `folder`."""
    import torch
    from safetensors.torch import save_file

    count = len(json.loads(tekken(folder).read_text())["vocab"]) + len(SPECIAL)
    head = DIM // HEADS
    params = {
        "dim": DIM,
        "n_layers": LAYERS,
        "head_dim": head,
        "hidden_dim": HIDDEN,
        "n_heads": HEADS,
        "n_kv_heads": HEADS,
        "norm_eps": 1e-5,
        "vocab_size": count,
        "rope_theta": 10000.0,
        "max_seq_len": CONTEXT,
        "max_position_embeddings": CONTEXT,
    }
    (folder / "params.json").write_text(json.dumps(params))
    torch.manual_seed(0)
    shapes = {"tok_embeddings": (count, DIM), "output": (count, DIM)}
    for layer in range(LAYERS):
        shapes |= {f"layers.{layer}.attention.{name}": (DIM, DIM) for name in ("wq", "wk", "wv", "wo")}
        shapes |= {f"layers.{layer}.feed_forward.{name}": (HIDDEN, DIM) for name in ("w1", "w3")}
        shapes |= {f"layers.{layer}.feed_forward.w2": (DIM, HIDDEN)}
    weights = {f"{name}.weight": torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    norms = ["norm", *(f"layers.{layer}.{name}" for layer in range(LAYERS) for name in ("attention_norm", "ffn_norm"))]
    weights |= {f"{name}.weight": torch.ones(DIM) for name in norms}
    save_file(weights, folder / "consolidated.safetensors")
    return folder
