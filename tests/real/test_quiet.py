"""Importing the engine beside a thread that answers `/ping`."""

import subprocess
import sys

SCRIPT = """
import gc, importlib.util, pathlib
from lmi_chat.engine.vllm import preload
def loaded():
    return sorted({line.split("/")[-1].strip() for line in open("/proc/self/maps") if "torch/lib/libtorch_cpu" in line})
with preload.importing():
    print(gc.isenabled(), loaded(), gc.get_freeze_count())
    import torch
print(gc.isenabled(), gc.get_freeze_count() > 10_000, torch.ones(2).sum().item())
"""


def test_the_collector_rests_and_the_libraries_are_there_before_the_import() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False ['libtorch_cpu.so'] 0", "True True 2.0"]
