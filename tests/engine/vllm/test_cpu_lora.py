"""On a CPU, rows without an adapter get nothing of any: by vLLM's own operations, in a process that may be changed."""

import importlib.util
import subprocess
import sys

import pytest

from lmi_chat.engine.vllm import arguments
from lmi_chat.engine.vllm.engine import StartFailed, _keep_separate

pytestmark = pytest.mark.processes

SCRIPT = """
import torch
from lmi_chat.engine.vllm import cpu_lora
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu

torch.manual_seed(1)
places, inputs = torch.tensor([-1, 0, 1, -1]), torch.randn(4, 6)
weights = torch.randn(2, 1, 3, 6)
expected = torch.stack([torch.zeros(3), weights[0, 0] @ inputs[1], weights[1, 0] @ inputs[2], torch.zeros(3)])
whole = torch.full((4, 3), 7.0)
punica_cpu.bgmv_shrink(inputs, weights, whole, places, 0.5)
assert torch.allclose(whole, expected / 2), whole
parts = torch.full((4, 3), 7.0)
ones = torch.ones(4, dtype=torch.long)
lora_ops.sgmv_shrink(inputs, weights, parts, None, ones, places, 4, 1, 4, 0.5)
assert torch.allclose(parts, expected / 2), parts
alone = torch.full((2, 3), 7.0)
lora_ops.sgmv_shrink(inputs[:2], weights, alone, None, torch.tensor([2]), torch.tensor([-1]), 1, 2, 2, 0.5)
assert not alone.any()

# what an embedding adds: its lower rows are looked up, for a row without an adapter in the first place's
upper = torch.randn(2, 1, 6, 3)
added = torch.stack([torch.zeros(6), upper[0, 0] @ expected[1], upper[1, 0] @ inputs[2, :3], torch.zeros(6)])
found = torch.stack([inputs[0, :3], expected[1], inputs[2, :3], inputs[3, :3]])
for write in (
    lambda output: punica_cpu.bgmv_expand(found, upper, output, places, True),
    lambda output: lora_ops.sgmv_expand(found, upper, output, None, ones, places, 4, 1, 4, True),
):
    output = torch.ones(4, 6)
    write(output)
    assert torch.allclose(output, 1 + added), output
"""


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="it is vLLM's operations that are changed")
def test_rows_without_an_adapter_get_nothing_of_any() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=55)


def test_it_is_there_for_lora_on_a_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_cpu in (True, False):
        monkeypatch.setattr(arguments, "is_cpu", lambda is_cpu=is_cpu: is_cpu)
        for given in ({}, {"enable_lora": "false"}):
            assert _keep_separate(given) == given
        for given in ({"enable_lora": "true"}, {"enable_lora": "true", "worker_extension_cls": arguments.SMALL_QUEUES}):
            expected = {"enable_lora": "true", "worker_extension_cls": arguments.SEPARATE} if is_cpu else given
            assert _keep_separate(given) == expected
    monkeypatch.setattr(arguments, "is_cpu", lambda: True)
    with pytest.raises(StartFailed, match="worker_extension_cls must be unset with enable_lora on a CPU"):
        _keep_separate({"enable_lora": "true", "worker_extension_cls": "mine.Own"})
