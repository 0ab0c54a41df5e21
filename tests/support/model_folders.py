"""Small model folders, whole and broken in one place, for what is checked before an engine starts."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel

TENSORS: Mapping[str, tuple[str, list[int]]] = {"embed.weight": ("F32", [4, 2]), "head.weight": ("BF16", [2, 4])}
# of one word: the library writes several in any order
TOKENIZER = Tokenizer(WordLevel({"a": 0}, unk_token="a")).to_str().encode()
BITS = {"F32": 32, "BF16": 16, "F4": 4}


def safetensors(tensors: Mapping[str, tuple[str, list[int]]] = TENSORS) -> bytes:
    """A safetensors file of zeros."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape) in tensors.items():
        count = 1
        for length in shape:
            count *= length
        begin, end = end, end + count * BITS[kind] // 8
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    return with_header(header, end)


def with_header(header: object, data_bytes: int = 0) -> bytes:
    """A file with this header, right or wrong."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def write_folder(folder: Path, shards: int = 0) -> Path:
    """A whole folder: one file of weights, or as many shards with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "generation_config.json").write_text('{"eos_token_id": 1}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (folder / "tokenizer.json").write_bytes(TOKENIZER)
    if not shards:
        (folder / "model.safetensors").write_bytes(safetensors())
        return folder
    places = {}
    for number in range(1, shards + 1):
        name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        (folder / name).write_bytes(safetensors({f"layer.{number}": ("F32", [4])}))
        places[f"layer.{number}"] = name
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
