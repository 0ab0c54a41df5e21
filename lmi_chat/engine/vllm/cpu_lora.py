"""Keep adapters' weights out of the model's own answers on a CPU.

A request without an adapter has −1 for its place among the batch's adapters. vLLM's kernels for a GPU pass over it;
those for a CPU take −1 for the last place, and beside any adapter the model answers as if that one were asked for. vLLM
imports this file in each worker when `worker_extension_cls` names the class below, as it does shm.py, which it stands
for too.
"""

from typing import Any

from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu

from lmi_chat.engine.vllm import shm


class Separate(shm.Small):
    """A class for vLLM to mix into the worker's; it adds nothing."""


_shrink, _expand = lora_ops.bgmv_shrink, lora_ops.bgmv_expand


def _shrink_separately(inputs: Any, weights: Any, output: Any, places: Any, scaling: float = 1.0) -> None:
    """Compute the lower product as vLLM does, and 0 for rows without an adapter: then the upper one adds nothing."""
    _shrink(inputs, weights, output, places, scaling)
    output.mul_((places >= 0).to(output.dtype).unsqueeze(1))


def _expand_separately(inputs: Any, weights: Any, output: Any, places: Any, add_inputs: bool = True) -> None:  # noqa: FBT001, FBT002 vLLM's own form
    """Compute the upper product as vLLM does, of 0 for rows without an adapter: embeddings have no lower product."""
    _expand(inputs * (places >= 0).to(inputs.dtype).unsqueeze(1), weights, output, places, add_inputs)


lora_ops.bgmv_shrink = punica_cpu.bgmv_shrink = _shrink_separately
lora_ops.bgmv_expand = punica_cpu.bgmv_expand = _expand_separately
