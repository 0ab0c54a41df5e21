"""Adapters on the engine: what does not fit the model is refused before and after the engine has looked at it."""

import contextlib
import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lmi_chat.engine.vllm import adapters
from lmi_chat.errors import BadAdapter, EngineDown, Error, NotFound
from lmi_chat.job import Adapter
from tests.support import lora_weights

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="the engine's own types are needed"),
]
FAILED = "Call to add_lora method failed: Worker failed with error '{}', please check the stack trace above"
CONFIG = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}


class Core:
    """An engine that fails by `error`, if there is one, and notes what it is asked."""

    def __init__(self, model: Path, error: Exception | None = None) -> None:
        self.model_config, self._error = SimpleNamespace(model=str(model), revision=None), error
        self.asked: list[tuple[str, int]] = []

    async def add_lora(self, request: Any) -> bool:
        self.asked.append((request.lora_name, request.lora_int_id))
        if self._error:
            raise self._error
        return True

    async def remove_lora(self, number: int) -> bool:
        self.asked.append(("remove", number))
        return True


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of two layers whose weights are stored plainly."""
    from safetensors.numpy import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shapes = {"q_proj": (8, 8), "v_proj": (4, 8)}
    tensors = {
        f"model.layers.{layer}.self_attn.{name}.weight": np.zeros(shape, np.float32)
        for layer in range(2)
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


async def test_an_adapter_of_the_model_is_loaded_under_a_name_of_its_version(model: Path, tmp_path: Path) -> None:
    core = Core(model)
    folder = lora_weights.write(tmp_path / "a", model, 1)
    for number in (7, 8):  # a batch tells adapters apart by their names
        await adapters.add(core, Adapter("a", number, str(folder)))
    assert core.asked == [("a:7", 7), ("a:8", 8)]


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ({"hidden": 6}, "model.layers.0.self_attn.q_proj has 8 inputs here, 6 there"),
        ({"hidden": 16}, "model.layers.0.self_attn.q_proj has 8 inputs here, 16 there"),
        ({"layers": 3}, "this one has no model.layers.2.self_attn.q_proj"),
    ],
)
async def test_an_adapter_of_another_model_is_not_shown_to_the_engine(
    model: Path, tmp_path: Path, made: dict[str, int], sentence: str
) -> None:
    core = Core(model)
    folder = lora_weights.write(tmp_path / "a", model, 1, **made)
    with pytest.raises(BadAdapter, match=sentence) as caught:
        await adapters.add(core, Adapter("a", 1, str(folder)))
    assert caught.value.message.startswith("adapter a is of another model: ")
    assert not core.asked


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
async def test_what_pytorch_has_stored_is_checked_too(model: Path, tmp_path: Path, name: str) -> None:
    import torch
    from safetensors.torch import load_file

    for hidden, sentence in ((8, ""), (6, "has 8 inputs here, 6 there")):
        core, folder = Core(model), lora_weights.write(tmp_path / f"a{hidden}", model, 1, hidden=hidden)
        torch.save(load_file(folder / "adapter_model.safetensors"), folder / name)
        (folder / "adapter_model.safetensors").unlink()
        with pytest.raises(BadAdapter, match=sentence) if sentence else contextlib.nullcontext():
            await adapters.add(core, Adapter("a", 1, str(folder)))
        assert bool(core.asked) != bool(sentence)
        (folder / name).write_bytes(b"broken")
        await adapters.add(core, Adapter("a", 2, str(folder)))
        assert core.asked[-1] == ("a:2", 2), "the engine says what is wrong"


async def test_a_model_of_the_hub_is_looked_into_where_its_cache_is(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "cache" / "models--me--model"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("c" * 40)
    shutil.copytree(model, home / "snapshots" / ("c" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = lora_weights.write(tmp_path / "a", model, 1, hidden=6)
    for named, is_checked in (("me/model", True), ("me/other", False), ("no/name/at/all", False)):
        adapters._shapes_of_model.cache_clear()
        core = Core(model)
        core.model_config.model = named
        with pytest.raises(BadAdapter) if is_checked else contextlib.nullcontext():
            await adapters.add(core, Adapter("a", 1, str(folder)))
        assert bool(core.asked) != is_checked


async def test_a_model_that_is_stored_in_another_way_is_left_to_the_engine(model: Path, tmp_path: Path) -> None:
    folder = lora_weights.write(tmp_path / "a", model, 1, layers=9)
    (model / "model.safetensors").unlink()
    adapters._shapes_of_model.cache_clear()
    core = Core(model)
    await adapters.add(core, Adapter("a", 1, str(folder)))
    assert core.asked == [("a:1", 1)]


@pytest.mark.parametrize(
    ("text", "expected", "said"),
    [
        (
            "LoRA rank 64 is greater than max_lora_rank 8.",
            BadAdapter,
            "adapter a does not fit this model: LoRA rank 64",
        ),
        ("{} doesn't contain tensors", BadAdapter, "adapter a does not fit this model: it doesn't contain tensors"),
        ("", BadAdapter, "adapter a does not fit this model: its weights cannot be read"),
        ("Loading lora a failed: No adapter found for {}", NotFound, "adapter a: its folder has no adapter"),
    ],
)
async def test_what_the_engine_refuses_is_one_sentence(
    model: Path, tmp_path: Path, text: str, expected: type[Error], said: str
) -> None:
    folder = lora_weights.write(tmp_path / "a", model, 1)
    core = Core(model, Exception(FAILED.format(text.format(folder))))
    with pytest.raises(expected) as caught:
        await adapters.add(core, Adapter("a", 1, str(folder)))
    assert caught.value.message.startswith(said)
    assert str(folder) not in caught.value.message
    assert core.asked[1:] == ([("remove", 1)] if expected is BadAdapter else [])  # what is there in part


async def test_the_engines_end_is_no_fault_of_the_adapter(model: Path, tmp_path: Path) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    core = Core(model, EngineDeadError())
    with pytest.raises(EngineDown):
        await adapters.add(core, Adapter("a", 1, str(lora_weights.write(tmp_path / "a", model, 1))))
