"""Keys from every source become one Settings, each value with its origin; what is unknown stops the start."""

import re
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.settings import (
    DJL_OWN,
    OWN,
    PROPERTIES,
    TYPES,
    BadSetting,
    Settings,
    explain,
    find_properties,
    read,
    table,
)

ENGINE = frozenset(
    {"model", "max_model_len", "dtype", "tensor_parallel_size", "max_num_seqs", "quantization", "hf_token"}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def load(
    folder: Path,
    properties: str | None = None,
    arguments: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
    engine: frozenset[str] = ENGINE,
) -> Settings:
    path = None
    if properties is not None:
        path = folder / PROPERTIES
        path.write_text(properties, encoding="utf-8")
    return read(arguments or {}, environment or {}, path, engine)


def refusal(folder: Path, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(BadSetting) as caught:
        load(folder, *args, **kwargs)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def test_defaults(folder: Path) -> None:
    settings = load(folder)
    assert settings == Settings()
    assert (settings.port, settings.max_request_size, settings.max_messages) == (8080, 25 * 2**20, 2048)
    assert not settings.origins


def test_precedence(folder: Path) -> None:
    properties = "option.port=4\nhost=h\noption.max_n=7\noption.max_stop=5"
    environment = {"OPTION_PORT": "2", "SERVING_MAX_N": "3", "HF_MODEL_ID": "hub/m"}
    settings = load(folder, properties, {"port": "1"}, environment)
    assert (settings.port, settings.max_n, settings.host, settings.max_stop) == (1, 3, "h", 5)
    assert settings.model_id == "hub/m"
    assert dict(settings.origins) == {
        "port": "command line",
        "max_n": "environment SERVING_MAX_N",
        "host": "serving.properties",
        "max_stop": "serving.properties",
        "model_id": "environment HF_MODEL_ID",
    }


def test_names_of_other_servers_stand_below_the_properties(folder: Path) -> None:
    environment = {"HF_MODEL_ID": "hub/b", "SAGEMAKER_BIND_TO_PORT": "9000", "SAGEMAKER_MAX_REQUEST_SIZE": "2048"}
    settings = load(folder, "option.model_id=hub/a\noption.port=1", {}, environment)
    assert (settings.model_id, settings.port, settings.max_request_size) == ("hub/a", 1, 2048)
    settings = load(folder, None, {}, environment | {"OPTION_MODEL_ID": "hub/c", "SERVING_PORT": "7"})
    assert (settings.model_id, settings.port) == ("hub/c", 7)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("option.tensor_parallel_degree=2", "tensor_parallel_size", "2"),
        ("option.max_rolling_batch_size=64", "max_num_seqs", "64"),
        ("option.quantize=awq", "quantization", "awq"),
        ("option.max-model-len=2048", "max_model_len", "2048"),
        ("max_model_len=2048", "max_model_len", "2048"),
        ("option.dtype=bf16", "dtype", "bfloat16"),
        ("option.dtype=fp16", "dtype", "float16"),
        ("option.dtype=fp32", "dtype", "float32"),
        ("option.dtype=auto", "dtype", "auto"),
    ],
)
def test_names_for_the_engine(folder: Path, line: str, name: str, value: str) -> None:
    settings = load(folder, line)
    assert dict(settings.engine) == {name: value}
    assert settings.origins[name] == "serving.properties"


def test_the_environment_names_engine_arguments_too(folder: Path) -> None:
    environment = {"OPTION_MAX_MODEL_LEN": "4096", "OPTION_TENSOR_PARALLEL_DEGREE": "2", "PATH": "/bin"}
    settings = load(folder, None, {}, environment)
    assert dict(settings.engine) == {"max_model_len": "4096", "tensor_parallel_size": "2"}


def test_defaults_of_the_engine_give_way() -> None:
    chosen = {"dtype": ("float32", "default on this CPU"), "max_num_seqs": ("8", "default here")}
    settings = read({"dtype": "bf16"}, {}, None, ENGINE, chosen)
    assert dict(settings.engine) == {"dtype": "bfloat16", "max_num_seqs": "8"}
    assert (settings.origins["dtype"], settings.origins["max_num_seqs"]) == ("command line", "default here")


@pytest.mark.parametrize(
    ("properties", "environment"),
    [
        ("option.tensor_parallel_degree=2\noption.tensor_parallel_size=4", {}),
        ("option.max_rolling_batch_size=2\nmax_num_seqs=4", {}),
        ("option.port=1\nport=2", {}),
        (None, {"OPTION_PORT": "1", "SERVING_PORT": "2"}),
        (None, {"OPTION_TENSOR_PARALLEL_DEGREE": "1", "OPTION_TENSOR_PARALLEL_SIZE": "2"}),
    ],
)
def test_two_names_with_different_values_are_refused(
    folder: Path, properties: str | None, environment: dict[str, str]
) -> None:
    text = refusal(folder, properties, {}, environment)
    assert "keep one of them" in text
    assert all(value in text for value in ("1", "2") if properties is None)


def test_two_names_with_one_value_are_one_setting(folder: Path) -> None:
    settings = load(folder, "option.tensor_parallel_degree=2\noption.tensor_parallel_size=2\noption.dtype=fp16")
    assert settings.engine["tensor_parallel_size"] == "2"
    settings = load(folder, "option.tensor_parallel_degree=2", {}, {"OPTION_TENSOR_PARALLEL_SIZE": "4"})
    assert settings.engine["tensor_parallel_size"] == "4"


@pytest.mark.parametrize("key", sorted(DJL_OWN))
def test_djls_own_keys_say_nothing_to_us(folder: Path, key: str) -> None:
    upper = "".join("_" + letter if letter.isupper() else letter.upper() for letter in key)
    for source in (f"{key}=x", f"option.{key}=x"):
        assert load(folder, source) == Settings()
    for name in (f"OPTION_{key.upper()}", f"SERVING_{upper}"):
        assert load(folder, None, {}, {name: "x"}) == Settings()


def test_the_default_deployment_starts(folder: Path) -> None:
    own = (Path(__file__).parents[1] / PROPERTIES).read_text(encoding="utf-8")
    assert load(folder, own) == Settings()


@pytest.mark.parametrize(
    ("properties", "arguments", "environment", "words"),
    [
        (
            "option.max_model_length=1",
            {},
            {},
            "serving.properties: max_model_length is no key .* known key is max_model_len$",
        ),
        (None, {"prot": "1"}, {}, "command line: prot is no key .* nearest known key is port$"),
        (None, {}, {"OPTION_TENSOR_PARALEL_DEGREE": "1"}, "environment .*: .* known key is tensor_parallel_degree$"),
        (None, {"zzz": "1"}, {}, "command line: zzz is no key of lmi-chat or of the engine$"),
        ("option.x\\n" + "y" * 1000 + "=1", {}, {}, "is no key"),
    ],
)
def test_an_unknown_key_names_the_nearest(
    folder: Path, properties: str | None, arguments: dict[str, str], environment: dict[str, str], words: str
) -> None:
    text = refusal(folder, properties, arguments, environment)
    assert re.search(words, text)
    assert len(text) < 300


def test_without_an_engine_every_other_key_may_be_its(folder: Path) -> None:
    assert dict(load(folder, "option.zzz=1", engine=frozenset()).engine) == {"zzz": "1"}


@pytest.mark.parametrize("name", [name for name in OWN if OWN[name].metadata["low"] is not None])
def test_numbers_have_bounds(folder: Path, name: str) -> None:
    low, high = OWN[name].metadata["low"], OWN[name].metadata["high"]
    for value in (low, high):
        assert getattr(load(folder, None, {name: str(value)}), name) == value
    for value in (low - 1, high + 1):
        assert refusal(folder, None, {name: str(value)}).endswith(f"at least {low} and at most {high}, got '{value}'")
    kind = "a whole number" if TYPES[name] is int else "a number"
    for text in ("many", "", "1e", *(["1.5", "nan", "9" * 5000] if TYPES[name] is int else [])):
        assert f"command line: {name} must be {kind}, got" in refusal(folder, None, {name: text})
    if TYPES[name] is float:
        for text in ("nan", "inf", "9" * 5000):
            assert f"{name} must be at least {low}" in refusal(folder, None, {name: text})


@pytest.mark.parametrize("name", [name for name in OWN if TYPES[name] is bool])
def test_booleans(folder: Path, name: str) -> None:
    assert getattr(load(folder, None, {name: "True"}), name) is True
    assert getattr(load(folder, None, {name: "false"}), name) is False
    assert "one of true, false, got 'yes'" in refusal(folder, None, {name: "yes"})


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [("output_formatter", "SSE", "xml"), ("finish_reason", "lmi", "tgi"), ("log_level", "DEBUG", "loud")],
)
def test_choices(folder: Path, name: str, good: str, bad: str) -> None:
    assert getattr(load(folder, None, {name: good}), name) == good.lower()
    text = refusal(folder, None, {name: bad})
    assert f"{name} must be one of" in text
    assert f"got '{bad}'" in text


def test_text_is_kept_as_it_is(folder: Path) -> None:
    assert load(folder, "option.served_model_name = A, b \noption.chat_template=Ä").served_model_name == "A, b"
    assert load(folder, None, {"chat_template": "{{ x }}\n"}).chat_template == "{{ x }}\n"


@pytest.mark.parametrize("data", [b"option.port=\\u12", b"option.host=\xff"])
def test_a_file_that_is_not_properties_stops_the_start(folder: Path, data: bytes) -> None:
    (folder / PROPERTIES).write_bytes(data)
    with pytest.raises(BadSetting, match=r"serving\.properties"):
        read({}, {}, folder / PROPERTIES, ENGINE)


def test_which_file_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, model = folder / "here", folder / "model"
    for place in (here, model):
        place.mkdir()
    monkeypatch.chdir(here)
    assert find_properties("", "") is None
    (here / PROPERTIES).write_text("")
    assert find_properties("", "hub/name") == Path(PROPERTIES)
    (model / PROPERTIES).write_text("")
    assert find_properties("", str(model)) == model / PROPERTIES
    assert find_properties(str(here / PROPERTIES), str(model)) == here / PROPERTIES
    with pytest.raises(BadSetting, match="there is no file /nowhere"):
        find_properties("/nowhere", "")


def test_explain_shows_every_value_and_its_origin(folder: Path) -> None:
    settings = load(folder, "option.max_model_len=2048", {"port": "1"}, {"OPTION_STRICT_REQUESTS": "true"})
    rows = {line.split()[0]: line for line in explain(settings).splitlines()}
    assert rows.keys() == {*OWN, "engine.max_model_len"}
    assert rows["port"].split(maxsplit=2) == ["port", "1", "command line"]
    assert rows["strict_requests"].split(maxsplit=2)[1:] == ["true", "environment OPTION_STRICT_REQUESTS"]
    assert rows["max_n"].split() == ["max_n", "16", "default"]
    assert rows["model_id"].split() == ["model_id", "-", "default"]
    assert rows["engine.max_model_len"].split() == ["engine.max_model_len", "2048", "serving.properties"]


def test_explain_keeps_secrets(folder: Path) -> None:
    assert "hf_abc" not in explain(load(folder, None, {"hf_token": "hf_abc"}))


def test_the_table_has_every_key() -> None:
    head, rule, *rows = table().splitlines()
    assert (head, rule) == ("| key | type | default | meaning |", "|---|---|---|---|")
    assert [row.split("`")[1] for row in rows] == [*OWN]
    assert all(row.count(" | ") == 3 for row in rows)
    assert "| `port` | integer | 8080 | port to listen on (also `SAGEMAKER_BIND_TO_PORT`) |" in rows
    assert any(row.startswith("| `strict_requests` | boolean | false |") for row in rows)
    assert any(row.startswith("| `model_id` | string |  |") for row in rows)
