"""Keys from every source become one Settings, each value with its origin; what is unknown stops the start."""

import ast
import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_chat.config.aliases import ELSEWHERE, FAMILIES, NOT_YET, REFUSED, RENAMED, TOLD, UNASKED, WITHOUT_EFFECT
from lmi_chat.config.describe import as_json, as_text
from lmi_chat.config.settings import OWN, Settings, read
from lmi_chat.config.sources import PROPERTIES, BadSetting, IgnoredSetting
from tests.support.fakes import brief

ENGINE = {
    "model": "str",
    "max_model_len": "int",
    "dtype": "str",
    "tensor_parallel_size": "int",
    "max_num_seqs": "int | None",
    "quantization": "str | None",
    "hf_token": "bool | str | None",
    "enforce_eager": "bool",
    "async_scheduling": "bool | None",
    "revision": "str | None",
    "hf_overrides": "HfOverrides",
    "kv_cache_dtype_skip_layers": "list[str]",
    "structured_outputs_config": "StructuredOutputsConfig",
    "max_num_batched_tokens": "int | None",
    "limit_mm_per_prompt": "dict[str, int | dict[str, int]]",
    "pooler_config": "PoolerConfig | None",
    "block_size": "int",
    "attention_config": "AttentionConfig",
    "optimization_level": "OptimizationLevel",
}
KINDS = {"integer": "a whole number", "number": "a number"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def load(
    folder: Path,
    properties: str | None = None,
    arguments: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
    engine: Mapping[str, str] = ENGINE,
) -> Settings:
    path = None
    if properties is not None:
        path = folder / PROPERTIES
        path.write_text(properties, encoding="utf-8")
    return read(arguments or {}, environment or {}, path, engine, gpus=4)


def refusal(folder: Path, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(BadSetting) as caught:
        load(folder, *args, **kwargs)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def test_defaults(folder: Path) -> None:
    settings = load(folder)
    assert settings == Settings()
    assert (settings.port, settings.max_request_size, settings.limits.max_messages) == (8080, 25 * 2**20, 2048)
    assert not settings.origins


def test_precedence(folder: Path) -> None:
    properties = "option.port=4\nhost=h\noption.max_n=7\noption.max_stop=5"
    environment = {"OPTION_PORT": "2", "SERVING_MAX_N": "3", "HF_MODEL_ID": "hub/m"}
    settings = load(folder, properties, {"port": "1"}, environment)
    limits = settings.limits
    assert (settings.port, limits.max_n, settings.host, limits.max_stop) == (1, 3, "h", 5)
    assert settings.model_id == "hub/m"
    assert dict(settings.origins) == {
        "port": "command line",
        "max_n": "environment SERVING_MAX_N",
        "host": f"{folder}/serving.properties:2",
        "max_stop": f"{folder}/serving.properties:4",
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
        (
            "option.guided_decoding_disable_any_whitespace=true",
            "structured_outputs_config",
            '{"disable_any_whitespace":true}',
        ),
        (
            "option.structured_outputs_config.disable_any_whitespace=True",
            "structured_outputs_config",
            '{"disable_any_whitespace":true}',
        ),
    ],
)
def test_names_for_the_engine(folder: Path, line: str, name: str, value: str) -> None:
    settings = load(folder, line)
    assert dict(settings.engine) == {name: value}
    given = line.partition("=")[2]
    translated = "" if given == value else f" ({given})"
    assert settings.origins[name] == f"{folder}/serving.properties:1{translated}"


def test_the_environment_names_engine_arguments_too(folder: Path) -> None:
    environment = {"OPTION_MAX_MODEL_LEN": "4096", "OPTION_TENSOR_PARALLEL_DEGREE": "2", "PATH": "/bin"}
    settings = load(folder, None, {}, environment)
    assert dict(settings.engine) == {"max_model_len": "4096", "tensor_parallel_size": "2"}


def test_defaults_of_the_engine_give_way() -> None:
    chosen = {"dtype": ("float32", "default on this CPU"), "max_num_seqs": ("8", "default here")}
    settings = read({"dtype": "bf16"}, {}, None, ENGINE, chosen)
    assert dict(settings.engine) == {"dtype": "bfloat16", "max_num_seqs": "8"}
    assert (settings.origins["dtype"], settings.origins["max_num_seqs"]) == ("command line (bf16)", "default here")


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


@pytest.mark.parametrize(
    ("keys", "is_warning"), [(WITHOUT_EFFECT, False), (TOLD, True), (NOT_YET, True), (ELSEWHERE, True)]
)
def test_keys_that_set_nothing_are_accepted_and_noted(
    folder: Path, keys: Mapping[str, str], *, is_warning: bool
) -> None:
    for key in keys:
        upper = "".join("_" + letter if letter.isupper() else letter.upper() for letter in key)
        properties = [load(folder, source) for source in (f"{key}=x", f"option.{key}=x")]
        environment = [load(folder, None, {}, {name: "x"}) for name in (f"OPTION_{key.upper()}", f"SERVING_{upper}")]
        for settings in [*properties, *environment, load(folder, None, {key: "x"})]:
            [note] = settings.notes
            assert (note.given.name, note.given.text, note.is_warning) == (key, "x", is_warning)
            assert keys[key] in note.why
            assert settings == Settings(notes=settings.notes)
    assert not any(note.is_warning for key in keys for note in load(folder, None, {key: "false"}).notes)


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_keys_that_would_only_seem_to_protect_stop_the_start(folder: Path, key: str) -> None:
    text = refusal(folder, None, {}, {f"OPTION_{key.upper()}": "x"})
    assert text.startswith(f"environment OPTION_{key.upper()}: {key} is not possible, got ")
    assert text.endswith(REFUSED[key])


@pytest.mark.parametrize("source", ["command line", "OPTION_", "SERVING_", "SM_VLLM_", "properties"])
@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("shutdown_timeout", "3", "drain_seconds", 3.0),
        ("shutdown-timeout", "0", "drain_seconds", 0.0),
        ("disable_uvicorn_access_log", "true", "access_log", "off"),
        ("disable_uvicorn_access_log", "False", "access_log", "stdout"),
        ("h11_max_incomplete_event_size", "4194304", "max_header_bytes", 4194304),
        ("h11-max-header-count", "256", "max_header_count", 256),
    ],
)
def test_what_vllm_serve_calls_otherwise_is_obeyed(
    folder: Path, source: str, name: str, text: str, key: str, value: object
) -> None:
    """The engine has `shutdown_timeout` too, for a process of its own: it is ours, as the front end is."""
    engine = {**ENGINE, "shutdown_timeout": "int"}
    variable = {source + name.upper().replace("-", "_"): text} if source.endswith("_") else {}
    properties = f"option.{name}={text}" if source == "properties" else None
    settings = load(folder, properties, {name: text} if source == "command line" else {}, variable, engine)
    assert settings.values()[key] == value
    assert (dict(settings.engine), settings.notes) == ({}, ())
    assert settings.origins[key] != "default"


def test_a_word_of_one_name_is_none_of_the_key_it_stands_for(folder: Path) -> None:
    assert "access_log must be one of stdout, stderr, off, got 'true'" in refusal(folder, None, {"access_log": "true"})


def test_each_argument_of_vllm_serve_is_obeyed_or_said() -> None:
    """None of its front end's is an unknown key; what has no effect here is said at the start or asks for nothing."""
    found = find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("no vLLM is installed to be asked")
    front_end = (Path(found.origin).parent / "entrypoints/launchers/cli_args.py").read_text(encoding="utf-8")
    tree = ast.parse(front_end)
    names = {
        item.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    names |= {word.replace("-", "_") for word in re.findall(r'^ +"--([a-z-]+)",$', front_end, re.MULTILINE)}
    assert len(names) > 50
    known = {*OWN, *RENAMED, *WITHOUT_EFFECT, *TOLD, *NOT_YET, *REFUSED}
    assert not names - known
    quiet = {
        *("enable_prompt_tokens_details", "enable_request_id_headers", "max_log_len", "enable_log_deltas"),
        *("log_error_stack", "uvicorn_log_level", "disable_access_log_for_endpoints"),
        *("enable_flash_late_interaction", "enable_server_load_tracking"),
    }
    assert names & WITHOUT_EFFECT.keys() == quiet


def test_a_default_of_vllm_serve_asks_for_nothing(folder: Path) -> None:
    assert UNASKED.keys() <= TOLD.keys()
    for name, text in UNASKED.items():
        [note] = load(folder, None, {name: text}).notes
        assert not note.is_warning


def test_a_key_has_one_meaning() -> None:
    tables = [set(OWN), set(RENAMED), set(WITHOUT_EFFECT), set(TOLD), set(NOT_YET), set(ELSEWHERE), set(REFUSED)]
    both = [one & other for index, one in enumerate(tables) for other in tables[index + 1 :]]
    assert not set().union(*both), "a key that is served now leaves the tables of families.py"
    folded = [name.lower().replace("_", "") for names in tables for name in names]
    assert len(folded) == len(set(folded))


def test_the_default_deployment_starts(folder: Path) -> None:
    own = (Path(__file__).parents[2] / PROPERTIES).read_text(encoding="utf-8")
    settings = load(folder, own)
    assert settings == Settings(notes=settings.notes)
    assert not any(note.is_warning for note in settings.notes)


@pytest.mark.parametrize(
    ("properties", "arguments", "environment", "words"),
    [
        (
            "option.max_model_length=1",
            {},
            {},
            r"/serving.properties:1: max_model_length is no key .*, got '1'; .* known key is max_model_len$",
        ),
        (None, {"prot": "1"}, {}, "command line: prot is no key .* nearest known key is port$"),
        (None, {}, {"OPTION_TENSOR_PARALEL_DEGREE": "1"}, "environment .*: .* known key is tensor_parallel_degree$"),
        (
            None,
            {},
            {"OPTION_MAX_MODEL_LENGHT": "4096"},
            "environment OPTION_MAX_MODEL_LENGHT: max_model_lenght is no key .*, got '4096'; .* is max_model_len$",
        ),
        (None, {}, {"SM_VLLM_MAX_MODEL_LENGHT": "1"}, "environment SM_VLLM_MAX_MODEL_LENGHT: .* is max_model_len$"),
        (None, {}, {"SERVING_JOB_QUEUE": "1"}, "environment SERVING_JOB_QUEUE: .* is job_queue_size$"),
        (None, {}, {"OPTION_HF_TOKN": "secret"}, r"got '\(hidden\)'; .* is hf_token$"),
        (
            None,
            {"zzz": "1"},
            {},
            r"command line: zzz is no key of lmi-chat or of the engine, got '1'; leave it out \(.*\)$",
        ),
        ("option.x\\n" + "y" * 1000 + "=1", {}, {}, "is no key"),
    ],
)
def test_an_unknown_key_names_the_nearest(
    folder: Path, properties: str | None, arguments: dict[str, str], environment: dict[str, str], words: str
) -> None:
    text = refusal(folder, properties, arguments, environment)
    assert re.search(words, text)
    assert len(text) < 300


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("max_rolling_batch", "max_rolling_batch_size"),
        ("max_rolling_batch_prefill_tokes", "max_rolling_batch_prefill_tokens"),
        ("tensor_parallelism", "tensor_parallel_size"),
        ("model_name", "served_model_name"),
        ("modelName", "served_model_name"),
        ("load_on_device", "load_on_devices"),
        ("entry_pont", "entryPoint"),
        ("chattemplate_kwarg", "chat_template_kwargs"),
        ("model_format", ""),
        ("max_output_limit", ""),
        ("awq_block_size", ""),
        ("awq_zero_point", ""),
        ("attention_layer", ""),
        ("optimize", ""),
        ("pretrained_model_name", ""),
        ("blockFactory", ""),
        ("pythonExecutioner", ""),
        ("name", ""),
        ("size", ""),
        ("use_block_size", ""),
    ],
)
def test_a_hint_fits_or_there_is_none(folder: Path, key: str, meant: str) -> None:
    text = refusal(folder, f"option.{key}=1")
    hint = f"the nearest known key is {meant}" if meant else "leave it out (a handler of your own gets its keys from"
    assert f"got '1'; {hint}" in text


def test_all_that_is_wrong_is_told_at_once(folder: Path) -> None:
    properties = (
        "option.zzz=1\noption.port=x\noption.max_n=9999\noption.max_num_seqs=1\nmax_rolling_batch_size=2\nyyy=2"
    )
    with pytest.raises(BadSetting) as caught:
        load(folder, properties, {"prot": "1"}, {"OPTION_KEYSTORE_PASS": "abc"})
    first, *lines = str(caught.value).splitlines()
    here = f"  {folder}/serving.properties"
    assert first == "7 settings stop the start:"
    beginnings = [
        "  command line: prot",
        "  environment OPTION_KEYSTORE_PASS: keystore_pass is not possible, got '(hidden)'",
    ]
    beginnings += [f"{here}:1: zzz is no", f"{here}:5: max_rolling_batch_size = 2 and max_num_seqs = 1"]
    beginnings += [
        f"{here}:6: yyy is no",
        f"{here}:2: port must be a whole number",
        f"{here}:3: max_n must be at least",
    ]
    assert len(lines) == len(beginnings)
    assert all(any(line.startswith(begin) for line in lines) for begin in beginnings)
    with pytest.raises(BadSetting) as caught:
        load(folder, "\n".join(f"key{n}=1" for n in range(100)))
    first, *lines = str(caught.value).splitlines()
    assert (first, len(lines), lines[-1]) == ("100 settings stop the start:", 21, "  and 80 more")


@pytest.mark.parametrize(
    ("line", "own", "engine"),
    [
        ("option.max_input_len=1024", {"max_input_tokens": 1024}, {}),
        ("option.max_output_len=512", {"max_output_tokens": 512}, {}),
        ("option.max_new_tokens=512", {"max_output_tokens": 512}, {}),
        ("option.max_num_tokens=50000", {}, {"max_num_batched_tokens": "50000"}),
        ("option.max_seq_len=8192", {}, {"max_model_len": "8192"}),
        ("option.n_positions=512", {}, {"max_model_len": "512"}),
        ("option.context_length=512", {}, {"max_model_len": "512"}),
        ("option.task=image-text-to-text", {"task": "text-generation"}, {}),
        ("option.task=Image-Text-to-Text", {"task": "text-generation"}, {}),
        ("option.task=sentence-similarity", {"task": "text-embedding"}, {}),
        ("pooling=cls", {}, {"pooler_config": '{"pooling_type": "CLS"}'}),
        ("option.limit_mm_per_prompt=image=4", {}, {"limit_mm_per_prompt": '{"image": 4}'}),
        ("option.limit_mm_per_prompt=image=2, video=0", {}, {"limit_mm_per_prompt": '{"image": 2, "video": 0}'}),
        ('option.limit_mm_per_prompt={"image": 4}', {}, {"limit_mm_per_prompt": '{"image": 4}'}),
    ],
)
def test_other_servers_words_are_read_and_explained(
    folder: Path, line: str, own: dict[str, object], engine: dict[str, str]
) -> None:
    settings = load(folder, line)
    assert settings.values().items() >= own.items()
    assert dict(settings.engine) == engine
    name, value = next(iter({**own, **engine}.items()))
    given = line.partition("=")[2]
    assert settings.origins[name] == f"{folder}/serving.properties:1" + ("" if given == str(value) else f" ({given})")
    assert not settings.notes


def test_a_map_of_devices_is_the_engines_business(folder: Path) -> None:
    [note] = load(folder, "option.device_map=auto").notes
    assert (note.why, note.is_warning) == ("the engine decides by itself", False)


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("auto # devices", "auto"),
        ("fp16   # memory", "fp16"),
        ("x #", "x"),
        ('"a b"', "a b"),
        ("'a'", "a"),
        ('"a" # b', "a"),
        ("A #1", "A #1"),
        ("a#b", "a#b"),
        ('{"a": "b # c"}', '{"a": "b # c"}'),
        ('["a"]', '["a"]'),
        ('"a" and "b"', '"a" and "b"'),
    ],
)
def test_comments_and_quotes_are_none_of_the_value(folder: Path, written: str, read_as: str) -> None:
    settings = load(folder, f"option.served_model_name={written}")
    assert settings.served_model_name == read_as
    assert [(note.given.text, note.why, note.is_warning) for note in settings.notes] == (
        [] if written == read_as else [(written, f"read as {read_as}", True)]
    )


def test_a_template_stays_as_it_is(folder: Path) -> None:
    text = "'{{ a }}' # b"
    assert load(folder, f"option.chat_template={text}").chat_template == text


@pytest.mark.parametrize("text", ["s3://", "s3:///m/", "s3://a b/", "S3://{bucket}/m", "s3://b\\u0000/m"])
def test_an_address_in_s3_has_a_bucket(folder: Path, text: str) -> None:
    assert "model_id must be an address in S3 such as s3://bucket/folder/ or" in refusal(folder, f"option.s3url={text}")


def test_without_an_engine_every_other_key_may_be_its(folder: Path) -> None:
    assert dict(load(folder, "option.zzz=1", engine={}).engine) == {"zzz": "1"}


@pytest.mark.parametrize("name", [name for name in OWN if OWN[name]["type"] in KINDS])
def test_numbers_have_bounds(folder: Path, name: str) -> None:
    kind, low, high = (OWN[name][word] for word in ("type", "minimum", "maximum"))
    for value in (low, high):
        assert load(folder, None, {name: str(value)}).values()[name] == value
    for value in (low - 1, high + 1):
        assert refusal(folder, None, {name: str(value)}).endswith(f"at least {low} and at most {high}, got '{value}'")
    for text in ("many", "", "1e", *(["1.5", "nan", "9" * 5000] if kind == "integer" else [])):
        assert f"command line: {name} must be {KINDS[kind]}, got" in refusal(folder, None, {name: text})
    if kind == "number":
        for text in ("nan", "inf", "9" * 5000):
            assert f"{name} must be at least {low}" in refusal(folder, None, {name: text})


def test_a_whole_number_may_have_a_point(folder: Path) -> None:
    assert load(folder, None, {"port": "81.0", "max_n": "2.0"}).values().items() >= {("port", 81), ("max_n", 2)}


def test_fields_that_are_no_keys_cannot_be_given(folder: Path) -> None:
    for name in ("linger_s", "receive_s", "pipeline", "limits", "origins"):
        assert "is no key of lmi-chat" in refusal(folder, None, {name: "1"})


def test_bytes_that_are_no_text(folder: Path) -> None:
    odd = "\udcff"  # as the environment gives them
    assert load(folder, None, {"store": odd}).store == odd
    for name, wanted in (
        ("port", "a whole number"),
        ("tgi_compat", "one of"),
        ("task", "one of"),
        ("max_n", "a whole"),
    ):
        assert f"{name} must be {wanted}" in refusal(folder, None, {name: odd})


@pytest.mark.parametrize("name", [name for name in OWN if OWN[name]["type"] == "boolean"])
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


def test_the_number_of_gpus_is_a_degree(folder: Path) -> None:
    for environment in ({"OPTION_TENSOR_PARALLEL_DEGREE": "MAX"}, {"TENSOR_PARALLEL_DEGREE": "max"}):
        settings = load(folder, None, {}, environment)
        assert settings.engine == {"tensor_parallel_size": "4"}
        assert settings.origins == {"tensor_parallel_size": f"environment {next(iter(environment))} (max)"}
    same = {"OPTION_TENSOR_PARALLEL_DEGREE": "max", "OPTION_TENSOR_PARALLEL_SIZE": "4"}
    assert load(folder, None, {}, same).engine == {"tensor_parallel_size": "4"}


@pytest.mark.parametrize("key", ["enforce_eager", "async_scheduling"])
def test_switches_of_the_engine(folder: Path, key: str) -> None:
    assert load(folder, None, {key: "True"}).engine == {key: "True"}
    assert load(folder, None, {f"no_{key}": "true"}).engine == {key: "false"}
    assert load(folder, None, {}, {f"SM_VLLM_{key.upper()}": ""}).engine == {key: "true"}
    text = refusal(folder, None, {}, {f"OPTION_{key.upper()}": "yes"})
    assert text == f"environment OPTION_{key.upper()}: {key} must be one of true, false, got 'yes'"


def test_an_empty_argument_of_the_engine_sets_nothing(folder: Path) -> None:
    settings = load(folder, "option.quantize=\noption.revision=", {}, {"HF_MODEL_ID": "", "DTYPE": " "})
    assert (settings.model_id, dict(settings.engine)) == ("", {})
    assert [note.why for note in settings.notes] == ["it is empty and sets nothing"] * 2


def test_families_by_strength(folder: Path) -> None:
    """Each family alone gives its value; together the strongest does, and each that is taken away uncovers the next."""
    environment = {
        "OPTION_TENSOR_PARALLEL_DEGREE": "1",
        "TENSOR_PARALLEL_DEGREE": "3",
        "SM_VLLM_TENSOR_PARALLEL_SIZE": "5",
        "SM_NUM_GPUS": "6",
    }
    properties: str | None = "option.tensor_parallel_size=2"
    for degree in "12356":
        assert load(folder, properties, {}, environment).engine == {"tensor_parallel_size": degree}
        environment = {name: text for name, text in environment.items() if text != degree}
        properties = None if degree == "2" else properties
    sizes = {"SAGEMAKER_MAX_REQUEST_SIZE": "2048", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "3", "PAYLOAD_LIMIT": "4096"}
    for size in (2048, 3 * 2**20, 4096):
        assert load(folder, None, {}, sizes).max_request_size == size
        sizes.pop(next(iter(sizes)))


def test_a_conflict_names_both_and_hides_secrets(folder: Path) -> None:
    text = refusal(folder, "a=1\noption.max_num_seqs=4\n\noption.max_rolling_batch_size=2".replace("a=1", "#"))
    here = f"{folder}/serving.properties"
    both = f"max_rolling_batch_size = 2 and max_num_seqs = 4 ({here}:2)"
    assert text == f"{here}:4: {both} are the same setting; keep one of them"
    text = refusal(folder, None, {}, {"SM_NUM_GPUS": "2", "NUM_SHARD": "4"})
    assert text.startswith("environment NUM_SHARD: ")
    assert "(environment SM_NUM_GPUS)" in text
    assert "abc" not in refusal(folder, None, {}, {"OPTION_HF_TOKEN": "abc1", "SERVING_HF_TOKEN": "abc2"})


def test_no_limit_on_a_jobs_payload_is_no_setting(folder: Path) -> None:
    assert load(folder, None, {}, {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"}) == Settings()
    text = refusal(folder, None, {}, {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "six"})
    assert text == "environment SAGEMAKER_MAX_PAYLOAD_IN_MB: max_request_size must be a whole number, got 'six'"


@pytest.mark.parametrize("text", ["9000", "9099-9000", "0-9", "1-65536", "a-b", "9000-9099-9100", "-1-5"])
def test_a_port_range_is_two_ports(folder: Path, text: str) -> None:
    said = refusal(folder, None, {}, {"SAGEMAKER_SAFE_PORT_RANGE": text})
    assert said.startswith("environment SAGEMAKER_SAFE_PORT_RANGE: safe_port_range must be two ports")


def test_other_peoples_variables_never_stop_the_start(folder: Path) -> None:
    """SageMaker and the hub add names as they like; a slip in one that is read gets a warning."""
    foreign = {
        "SAGEMAKER_SOMETHING_NEW": "1",
        "HF_HOME": "/x",
        "HF_HUB_OFFLINE": "1",
        "HF_MODEL_DIR": "/x",
        "SM_HOSTS": "[]",
    }
    assert load(folder, None, {}, foreign) == Settings()
    for slip, meant in (("SAGEMAKER_BIND_TO_PROT", "SAGEMAKER_BIND_TO_PORT"), ("HF_MODELID", "HF_MODEL_ID")):
        [note] = load(folder, None, {}, {slip: "1"}).notes
        assert note.is_warning
        assert note.why == f"not a name that is read here; {meant} is"


def test_a_key_that_stands_twice_in_the_file_is_the_last_one(folder: Path) -> None:
    settings = load(folder, "option.max_n=1\noption.max_n=1\noption.port=1\n\noption.port=2")
    assert (settings.limits.max_n, settings.port) == (1, 2)
    [note] = settings.notes
    assert isinstance(note, IgnoredSetting)
    assert (note.given.origin, note.is_warning) == (f"{folder}/serving.properties:3", True)
    assert note.why == "it stands again on line 5, which counts"


PREFIXES = ("OPTION_", "SERVING_", "SM_VLLM_", "HF_", "SAGEMAKER_", "")
VARIABLES = [name.variable for family in FAMILIES for name in family.names]
NAMES = st.sampled_from([*OWN, *RENAMED, *WITHOUT_EFFECT, *NOT_YET, *ELSEWHERE, *REFUSED, *ENGINE]) | st.text(
    "aA_-\n.é", max_size=9
)
WRITTEN = st.builds(lambda prefix, name: prefix + name.upper(), st.sampled_from(PREFIXES), NAMES)


@brief
@given(
    environment=st.dictionaries(WRITTEN | st.sampled_from(VARIABLES), st.text(max_size=30) | st.integers().map(str)),
    arguments=st.dictionaries(NAMES, st.text(max_size=30) | st.booleans().map(str)),
)
def test_whatever_is_given_is_settings_or_one_sentence(environment: dict[str, str], arguments: dict[str, str]) -> None:
    try:
        settings = read(arguments, environment, None, ENGINE)
    except BadSetting as error:
        first, *more = str(error).splitlines()
        lines = more or [first]
        assert not more or first.endswith(" settings stop the start:")
        assert all(len(line) < 700 for line in lines)
        assert all(line.strip().startswith(("environment ", "command line: ", "and ")) for line in lines)
    else:
        assert settings.origins.keys() <= OWN.keys() | ENGINE.keys()
        assert {*settings.engine} <= ENGINE.keys()
        assert json.loads(as_json(settings))["settings"]
        assert as_text(settings)
