"""Where the model and the other settings come from: a command line, a model directory, DJL's merged properties."""

import os
from pathlib import Path

import pytest

from lmi_chat.engine.vllm import arguments
from lmi_chat.server.configuration import configure, configure_merged


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"OPTION_MAX_N": "9", "MAX_TOTAL_TOKENS": "64"})
    monkeypatch.setattr(arguments, "kinds", lambda: {"max_model_len": "int", "tensor_parallel_size": "int"})
    monkeypatch.setattr(arguments, "defaults", lambda: {"dtype": ("float32", "default here")})
    monkeypatch.setattr(arguments, "gpus", lambda: 4)


def test_the_engines_names_defaults_and_gpus_are_read_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "serving.properties"
    file.write_text("option.tensor_parallel_degree=max\noption.max_n=2\n")
    told = configure({"port": "1"}, file)
    merged = configure_merged({"port": "1", "tensor_parallel_degree": "max", "nobodys": "1", "n": 5}, "DJL")
    for settings in (told, merged):
        assert settings.engine == {"max_model_len": "64", "tensor_parallel_size": "4", "dtype": "float32"}
    assert (told.limits.max_n, merged.limits.max_n) == (9, 16)  # what DJL has merged, stands in its properties
    assert (told.origins["port"], merged.origins["port"]) == ("command line", "DJL")


def test_a_pipeline_is_compiled_where_nothing_is_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, whose default is not to; vLLM's buffers between its stages would be missing there."""
    kinds = dict.fromkeys(("max_model_len", "tensor_parallel_size", "pipeline_parallel_size"), "int")
    monkeypatch.setattr(arguments, "kinds", lambda: {**kinds, "enforce_eager": "bool"})
    monkeypatch.setattr(arguments, "defaults", lambda: {"enforce_eager": ("true", "default"), "dtype": ("float32", "")})
    for given, eager in (
        ({}, "true"),
        ({"pipeline_parallel_degree": "1"}, "true"),
        ({"pipeline_parallel_degree": "2"}, None),
        ({"pipeline_parallel_size": "2", "enforce_eager": "true"}, "true"),
    ):
        engine = configure(given, None).engine
        assert engine.get("enforce_eager") == eager, given
        assert engine["dtype"] == "float32"


def test_a_model_directorys_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(**given: str) -> tuple[str, str]:
        merged = configure_merged({"model_dir": str(tmp_path), **given}, "DJL")
        return configure(given, None, folder=tmp_path).model_id, merged.model_id

    assert chosen() == ("", "")
    (tmp_path / "config.json").touch()
    assert chosen() == (str(tmp_path), str(tmp_path))
    assert chosen(model_id="hub/a") == ("hub/a", "hub/a")
    monkeypatch.setitem(os.environ, "HF_MODEL_ID", "hub/b")
    assert chosen() == ("hub/b", str(tmp_path))  # DJL would have made a property of it
    assert configure({}, None).model_id == "hub/b"
