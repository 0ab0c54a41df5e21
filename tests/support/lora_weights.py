"""Random LoRA weights for a Llama model, strong enough that each adapter answers in its own way."""

import json
from pathlib import Path

import numpy as np

RANK = 4


def write(folder: Path, model: Path, seed: int, *, rank: int = RANK, hidden: int = 0, layers: int = 0) -> Path:
    """Write an adapter of the attention's q_proj and v_proj for the model in a folder; sizes that are 0 are its own."""
    from safetensors.numpy import save_file

    config = json.loads((model / "config.json").read_text())
    width = hidden or config["hidden_size"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    rng, tensors = np.random.default_rng(seed), dict[str, np.ndarray]()
    for layer in range(layers or config["num_hidden_layers"]):
        for module, out in (("q_proj", heads * head), ("v_proj", groups * head)):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{stem}.lora_A.weight"] = rng.normal(0, 0.05, (rank, width)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = rng.normal(0, 0.05, (out, rank)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": rank, "lora_alpha": 8 * rank, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(told | {"bias": "none", "task_type": "CAUSAL_LM"}))
    return folder
