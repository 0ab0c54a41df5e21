"""A model so small that the engine is quick and the API process shows."""

import json
import shutil
from pathlib import Path

from lmi_chat.server import default_model

WEIGHTS = "*.safetensors"


def one_layer(folder: Path) -> Path:
    """The default model's configuration and tokenizer with one layer; weights are made up at the load (dummy)."""
    target = folder / "one-layer"
    shutil.copytree(
        default_model.fetch(default_model.folder()), target, ignore=shutil.ignore_patterns(WEIGHTS, "*.index.json")
    )
    config = json.loads((target / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "head_dim": 64}
    config |= {"num_attention_heads": 1, "num_key_value_heads": 1}
    config.pop("layer_types", None)
    (target / "config.json").write_text(json.dumps(config))
    return target
