"""Put LoRA weights into vLLM and take them off again; translate its refusals.

Leans on: a request's adapter being known to the engine by its number, to a batch by its name (two versions of one
adapter stand in a batch side by side, so that each has a name of its own), and to the prefix cache by name and path.
"""

import asyncio
import contextlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmi_chat.engine import AdapterLimits
from lmi_chat.engine.vllm.errors import translate
from lmi_chat.errors import BadAdapter, Error, NotFound
from lmi_chat.job import Adapter
from lmi_chat.text import one_line

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

REASON = re.compile(r"Worker failed with error ['\"](?P<text>.*)['\"], please check", re.DOTALL)
SAFE, PICKLED = "adapter_model.safetensors", ("adapter_model.bin", "adapter_model.pt")
"""The file that the engine reads an adapter's weights from; without it, the first of others that is there."""
Shape = tuple[int, ...]
MATRIX = 2
PLAIN_DTYPES = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""Of matrices that are stored number by number; quantised ones have other shapes."""
MISSING = re.compile(r"No adapter found for|No such file or directory")


def limits(config: Any) -> AdapterLimits | None:
    """Read the engine's bounds on adapters; None: it takes none."""
    lora = config.lora_config
    if lora is None:
        return None
    return AdapterLimits(max_loras=lora.max_loras, max_cpu_loras=lora.max_cpu_loras, max_rank=lora.max_lora_rank)


def request(adapter: Adapter) -> "LoRARequest":
    """Build vLLM's own form of `adapter`."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(f"{adapter.name}:{adapter.id}", adapter.id, adapter.path)


async def add(engine: Any, adapter: Adapter) -> None:
    """See Engine.add_adapter. What was loaded in part is unloaded."""
    config = engine.model_config
    await asyncio.to_thread(_check_shapes, adapter, config.model, config.revision)
    try:
        await engine.add_lora(request(adapter))
    except Exception as error:
        refusal = _refusal(error, adapter)
        if isinstance(refusal, BadAdapter):
            await remove(engine, adapter)
        raise refusal from error


async def remove(engine: Any, adapter: Adapter) -> None:
    """See Engine.remove_adapter."""
    try:
        await engine.remove_lora(adapter.id)
    except Exception as error:
        raise translate(error) from error


async def pin(engine: Any, adapter: Adapter) -> None:
    """See Engine.pin_adapter."""
    try:
        await engine.pin_lora(adapter.id)
    except Exception as error:
        raise _refusal(error, adapter) from error


async def ids(engine: Any) -> set[int]:
    """See Engine.list_adapters."""
    try:
        return {*await engine.list_loras()}
    except Exception as error:
        raise translate(error) from error


def _check_shapes(adapter: Adapter, model: str, revision: str | None) -> None:
    """Check that each of an adapter's matrices fits the model's: the engine takes narrower ones, and more layers.

    As far as the model is a folder, or in the hub's cache, with weights under the names that the adapter knows. Raises
    BadAdapter.
    """
    own, base = _shapes_of_adapter(Path(adapter.path)), _shapes_of_model(model, revision)
    known = {name: found for name in own if (found := base.get(f"{_module(name)}.weight")) is not None}
    for name in own if known else ():
        module, place = _module(name), 1 if ".lora_A." in name else 0
        if name not in known:
            raise BadAdapter(f"adapter {adapter.name} is of another model: this one has no {module}", param="src")
        if len(own[name]) == MATRIX == len(known[name]) and own[name][place] != known[name][place]:
            sizes = f"{module} has {known[name][place]} {'outputs' if place == 0 else 'inputs'} here"
            raise BadAdapter(
                f"adapter {adapter.name} is of another model: {sizes}, {own[name][place]} there", param="src"
            )


def _module(name: str) -> str:
    return name.removeprefix("base_model.model.").partition(".lora_")[0]


def _shapes_of_adapter(folder: Path) -> Mapping[str, Shape]:
    """Read the shapes of an adapter's matrices; none where the engine will say what is wrong with its file."""
    from safetensors import SafetensorError

    with contextlib.suppress(OSError, SafetensorError):
        is_safe = (folder / SAFE).is_file()
        shapes = _shapes(folder / SAFE) if is_safe else _pickled_shapes(folder)
        return {name: shape for name, shape in shapes.items() if name.endswith((".lora_A.weight", ".lora_B.weight"))}
    return {}


def _pickled_shapes(folder: Path) -> dict[str, Shape]:
    """Read the shapes of tensors that PyTorch has stored, in the file that the engine would read."""
    import torch

    path = next((folder / name for name in PICKLED if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        found = torch.load(path, map_location="meta", weights_only=True)
        return {name: tuple(tensor.shape) for name, tensor in found.items()}
    except Exception:  # noqa: BLE001 whatever such a file brings about; the engine says it
        return {}


@cache
def _shapes_of_model(model: str, revision: str | None) -> Mapping[str, Shape]:
    """Read the shapes of a model's matrices that are stored as they are; none where they are not on this machine."""
    from safetensors import SafetensorError

    shapes: dict[str, Shape] = {}
    with contextlib.suppress(OSError, SafetensorError):
        for path in sorted(_folder(model, revision).glob("*.safetensors")):
            shapes |= _shapes(path)
    return shapes


def _folder(model: str, revision: str | None) -> Path:
    """Find the folder of a model: its own, or that of the hub's cache. Raises OSError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except HFValidationError as error:
        raise FileNotFoundError(model) from error


def _shapes(path: Path) -> dict[str, Shape]:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 it is no dict
        return {name: tuple(part.get_shape()) for name, part in found.items() if part.get_dtype() in PLAIN_DTYPES}


def _refusal(error: Exception, adapter: Adapter) -> Error:
    """Say why an adapter is not loaded; the engine tells it as the text of an exception of no type of its own."""
    from vllm.v1.engine.exceptions import EngineDeadError

    if isinstance(error, EngineDeadError):
        return translate(error)
    found = REASON.search(str(error))
    text = found["text"] if found else str(error)
    if MISSING.search(text):
        return NotFound(f"adapter {adapter.name}: its folder has no adapter that can be read", param="src")
    said = one_line(text.replace(adapter.path, "it"), 300) or "its weights cannot be read"
    return BadAdapter(f"adapter {adapter.name} does not fit this model: {said}", param="src")
