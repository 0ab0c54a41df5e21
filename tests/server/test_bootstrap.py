"""What start.py makes of settings before there is an engine."""

import asyncio
import importlib.util
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lmi_chat.config.settings import Settings, read
from lmi_chat.config.sources import MODEL_FOLDER, BadSetting, is_model
from lmi_chat.dialects import Deployment
from lmi_chat.engine.vllm import arguments
from lmi_chat.engine.vllm import engine as engine_vllm
from lmi_chat.limits import Limits
from lmi_chat.observability import startup
from lmi_chat.pipeline.pipeline import Pipeline
from lmi_chat.server import bootstrap, configuration, default_model, process
from lmi_chat.template_trial import Trial
from tests.support.model_folders import write_folder
from tests.support.scripted import Scripted, said

KINDS = {"max_model_len": "int", "gpu_memory_utilization": "float", "seed": "int", "kv_cache_memory_bytes": "int"}
CACHE = {"kv_cache_memory_bytes": (str(3 << 30), arguments.CACHE_ORIGIN)}


def test_the_engines_complaint_says_where_its_settings_stood() -> None:
    environment = {"OPTION_MAX_MODEL_LEN": "1", "CUDA_MEMORY_FRACTION": "7"}
    settings = read({"seed": "4"}, environment, None, KINDS)
    for text in ("argument --max-model-len: bad", "max_model_len is too small"):
        assert bootstrap._origins(settings, text) == " (max_model_len: environment OPTION_MAX_MODEL_LEN)"
    both = "max_model_len needs a greater gpu_memory_utilization"
    assert "gpu_memory_utilization: environment CUDA_MEMORY_FRACTION" in bootstrap._origins(settings, both)
    assert bootstrap._origins(settings, "out of memory") == ""


@pytest.mark.parametrize(
    ("port", "ports", "free"),
    [("8080", "8080-8082", [8081, 8082]), ("1", "9000-9001", [9000, 9001]), ("9000", "9000-9000", []), ("1", "", [])],
)
def test_further_ports_are_the_platforms_but_for_ours(port: str, ports: str, free: list[int]) -> None:
    assert bootstrap._safe_ports(read({"port": port, "safe_port_range": ports}, {}, None, KINDS)) == free


@pytest.mark.parametrize(
    ("given", "folder", "size"),
    [
        ({}, "/cache/SmolLM2", 1 << 30),  # the default model
        ({}, str(MODEL_FOLDER), 3 << 30),
        ({"model_id": "/models/own"}, "/models/own", 3 << 30),
        ({"kv_cache_memory_bytes": "7"}, "/cache/SmolLM2", None),
        ({"kv_cache_memory_bytes": str(3 << 30)}, "/cache/SmolLM2", None),
    ],
)
def test_the_cache_is_fitted_unless_somebody_set_it(given: dict[str, str], folder: str, size: int | None) -> None:
    settings = read(given, {}, None, KINDS, CACHE)
    assert bootstrap._default_cache(settings, folder) == ({"kv_cache_memory_bytes": str(size)} if size else {})
    assert bootstrap._default_cache(read({}, {}, None, KINDS), folder) == {}, "a GPU's, or the environment's"


@pytest.mark.parametrize(
    ("given", "folder", "is_cpu", "chosen"),
    [
        ({}, "/cache/SmolLM2", True, {"dtype": "float32"}),
        ({}, "/cache/SmolLM2", False, {}),
        ({}, str(MODEL_FOLDER), True, {}),
        ({"model_id": "/models/own"}, "/models/own", True, {}),
        ({"dtype": "bfloat16"}, "/cache/SmolLM2", True, {}),
    ],
)
def test_the_default_model_is_served_in_float32_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], folder: str, *, is_cpu: bool, chosen: dict[str, str]
) -> None:
    """In bfloat16 some processors' instructions round its first chat to nonsense."""
    monkeypatch.setattr(arguments, "is_cpu", lambda: is_cpu)
    settings = read(given, {}, None, KINDS | {"dtype": "str"})
    assert bootstrap._default_dtype(settings, folder) == chosen


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("", ["org/m", "lmi"]),
        ("a", ["a", "org/m"]),
        ("a, b c,", ["a", "b c", "org/m"]),
        ('["a", "b,c"]', ["a", "b,c", "org/m"]),
        ("org/m,a,a", ["org/m", "a"]),
        ("[a", ["[a", "org/m"]),
    ],
)
def test_what_the_model_is_called(given: str, names: list[str]) -> None:
    """The first is in replies; all of them are listed, each once."""
    assert [*bootstrap._names(read({"served_model_name": given}, {}, None, KINDS), "org/m")] == names


def test_limits_are_handed_down_as_they_were_given() -> None:
    keys = {"job_queue_size": "3", "predict_timeout": "4", "finish_before_seconds": "1.5", "stall_seconds": "5"}
    settings = read(keys | {"max_n": "2"}, {}, None, KINDS)
    policy = bootstrap.pipeline_config(settings)
    assert (policy.queue, policy.deadline_s, policy.finish_before_s, policy.stall_s) == (3, 4.0, 1.5, 5.0)
    assert policy.limits is settings.limits
    assert settings.limits == Limits(max_n=2)


@pytest.mark.parametrize(
    ("given", "variables", "endpoint", "protocol"),
    [
        ("http://a:4318", {}, "http://a:4318/v1/traces", "http/protobuf"),
        ("grpc://a:4317", {}, "grpc://a:4317", "grpc"),
        ("http://a:4317", {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "http://a:4317", "grpc"),
        ("http://a:4317", {"OTEL_SDK_DISABLED": "true"}, None, None),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}, None, "http/protobuf"),
        ("", {}, None, None),
    ],
)
def test_the_engines_own_spans_go_where_the_requests_go(
    monkeypatch: pytest.MonkeyPatch, given: str, variables: dict[str, str], endpoint: str | None, protocol: str | None
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(bootstrap.TRACES_PROTOCOL, "")  # which it may set
    monkeypatch.delenv(bootstrap.TRACES_PROTOCOL)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    engine = bootstrap._with_traces({"otlp_traces_endpoint": given, "model": "m"} if given else {"model": "m"})
    assert engine == {"model": "m"} | ({"otlp_traces_endpoint": endpoint} if endpoint else {})
    assert os.environ.get(bootstrap.TRACES_PROTOCOL) == protocol


def test_a_protocol_that_is_none_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    settings = read({"otlp_traces_endpoint": "http://a"}, {}, None, KINDS | {"otlp_traces_endpoint": "str"})
    with pytest.raises(BadSetting, match="otlp_traces_endpoint: OTEL_EXPORTER_OTLP_PROTOCOL must be grpc or http"):
        bootstrap.pipeline_config(settings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("/opt/ml/model/missing.jinja", r"got /opt/ml/model/missing.jinja \(No such file or directory\)"),
        ("missing.jinja", r"got missing.jinja \(No such file"),
        ("/", r"got / \(Is a directory\)"),
        ("s3://bucket/chat.jinja", "got s3://bucket/chat.jinja "),
        ("Answer the messages.", "got Answer the messages"),
        ("binary.jinja", r"got binary.jinja \(it is no UTF-8 text\)"),
    ],
)
async def test_a_chat_template_that_is_none_stops_the_start_before_the_engine(
    given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary.jinja").write_bytes(b"\xff\xfe")
    settings = read({"chat_template": given, "model_id": "/models/own"}, {}, None, KINDS)
    phases: list[str] = []
    wanted = "chat_template must be a file with a template or the template's text, "
    with pytest.raises(BadSetting, match=wanted + said):
        await bootstrap.load(settings, Pipeline(bootstrap.pipeline_config(settings)), phases.append)
    assert phases == []


def test_a_chat_template_is_a_file_a_text_or_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("template").write_text("{{ messages }}", encoding="utf-8")
    for given, source in {
        "": None,
        "{{ messages }}": "{{ messages }}",
        "template": "{{ messages }}",
        str(tmp_path / "template"): "{{ messages }}",
        "tool_use": "tool_use",
    }.items():
        assert bootstrap._template_source(read({"chat_template": given}, {}, None, KINDS)) == source
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.jinja").write_text("{{ messages[0] }}", encoding="utf-8")
    settings = read({"chat_template": "mine.jinja", "model_id": str(tmp_path / "own")}, {}, None, KINDS)
    assert bootstrap._template_source(settings) == "{{ messages[0] }}"


@pytest.mark.parametrize("name", ["config.json", "params.json"])
def test_a_model_in_either_format_is_found_in_its_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "MODEL_FOLDER", tmp_path)
    assert not is_model(tmp_path)
    (tmp_path / name).touch()
    folder = asyncio.run(bootstrap._model_folder(read({}, {}, None, KINDS), lambda _: None))
    assert folder == str(tmp_path)
    assert configuration._model_of(tmp_path) == {"model_id": str(tmp_path)}


@pytest.mark.parametrize("last", [startup.FIRST_TOKEN, startup.FIRST_EMBEDDING])
def test_progress_never_goes_back(last: str) -> None:
    """An embedding model's last phase fell to 0 once."""
    progress, seen = startup.StartupProgress(), [0.0]
    for phase in (startup.FETCHING, startup.IMPORTING, startup.STARTING, last, startup.READY):
        progress.enter(phase)
        seen.append(progress.progress)
    assert seen == sorted(set(seen))
    assert seen[-1] == 1.0


def test_progress_within_a_phase() -> None:
    progress = startup.StartupProgress()
    progress.enter(startup.FETCHING)
    for share in (0.5, 0.4):  # a second download begins anew
        progress.reach(share)
        assert round(progress.progress, 2) == 0.3
    progress.enter(startup.IMPORTING)
    assert round(progress.progress, 2) == 0.4


async def test_a_missing_engine_is_told_before_a_model_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    found, phases = importlib.util.find_spec, list[str]()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else found(name))
    monkeypatch.setattr(default_model, "is_present", lambda _: False)

    async def fetch(*_: object) -> None:
        raise AssertionError("a model is fetched that nothing can serve")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fetch)
    settings = read({}, {}, None, KINDS)
    with pytest.raises(bootstrap.StartFailed, match=r"no engine is installed \(No module named 'vllm'\)"):
        await bootstrap.load(settings, Pipeline(bootstrap.pipeline_config(settings)), phases.append)
    assert phases == []


class Dying:
    """In place of the engine's load: it dies so many times, then is there."""

    def __init__(self, *failures: Exception) -> None:
        self.failures, self.starts = list(failures), 0

    def __call__(self, _given: object, _names: object, on_phase: Callable[[str], object], **_: object) -> Scripted:
        self.starts += 1
        on_phase(startup.IMPORTING)
        if self.failures:
            raise self.failures.pop(0)
        return Scripted()


def died(codes: str) -> Exception:
    return engine_vllm.ended(RuntimeError(f"Engine core initialization failed. Failed core proc(s): {codes}"))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[tuple[str, list[str]]]]:
    """Load with an engine that dies; what stopped it, "" for nothing, and the phases."""
    monkeypatch.setattr(engine_vllm, "check_installed", lambda: None)
    monkeypatch.setattr(bootstrap, "end_children", lambda: None)  # of this process's children the tests have some, too

    async def load(engine: Dying, **given: str) -> tuple[str, list[str]]:
        monkeypatch.setattr(engine_vllm, "load", engine)
        settings = read({"model_id": str(write_folder(tmp_path)), **given}, {}, None, KINDS)
        phases: list[str] = []
        try:
            await bootstrap.load(settings, Pipeline(bootstrap.pipeline_config(settings)), phases.append)
        except bootstrap.StartFailed as error:
            return str(error), phases
        return "", phases

    return load


async def test_an_engine_whose_processes_die_is_started_so_often(
    start: Callable[..., Awaitable[tuple[str, list[str]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Dying(died("{'EngineCore': -9}"), died("{'EngineCore': 1}"))
    says, phases = await start(engine)
    assert (says, engine.starts) == ("", 3)
    assert phases == [startup.IMPORTING, startup.FIRST_TOKEN, startup.READY], "progress goes forward only"
    begins = "lmi-chat  the engine did not start: its process"
    first = f"{begins} was ended by SIGKILL, as for want of memory; starting it again (2 of 3)"
    second = f"{begins} ended with code 1; starting it again (3 of 3)"
    assert capsys.readouterr().err.splitlines() == [first, second]
    engine = Dying(*(died("{}") for _ in range(9)))
    assert (await start(engine))[0] == "the engine did not start: its process ended (3 tries)"
    assert engine.starts == 3
    engine = Dying(died("{'EngineCore': -11}"))
    assert (await start(engine, start_attempts="1"))[0] == "the engine did not start: its process was ended by SIGSEGV"


async def test_what_was_configured_wrong_is_not_tried_again(
    start: Callable[..., Awaitable[tuple[str, list[str]]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Dying(engine_vllm.ended(ValueError("max_model_len is too large")))
    assert (await start(engine))[0] == "the engine did not start: max_model_len is too large"
    assert engine.starts == 1
    monkeypatch.setattr(bootstrap, "_cause", lambda: "ValueError: the cache is too small")
    engine = Dying(*(died("{'EngineCore': 1}") for _ in range(9)))
    says = "the engine did not start: its process ended with code 1; ValueError: the cache is too small"
    assert (await start(engine))[0] == says
    assert engine.starts == 1


async def test_files_are_closed_in_time_and_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[object] = []
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr(process, "FILES_S", 0.05)
    monkeypatch.setattr(bootstrap, "_closing", [lambda: ended.append("closed")])
    leave: Callable[[int], object] = process.leave
    leave(3)
    monkeypatch.setattr(bootstrap, "_closing", [lambda: time.sleep(1)])
    leave(4)
    assert ended == ["closed", 3, 4]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ("reasoning", "reasoning_content")),
        ({"reasoning_field": "reasoning"}, ("reasoning",)),
        ({"reasoning_field": "reasoning_content"}, ("reasoning_content",)),
    ],
)
def test_reasoning_is_answered_by_the_names_that_are_set(given: dict[str, str], names: tuple[str, ...]) -> None:
    made = bootstrap._deployment(read(given, {}, None, KINDS), Scripted().model, (), None, None)
    assert made.reasoning_fields == names


@pytest.mark.parametrize(
    ("given", "tried"),
    [
        ("{{ messages }}", ["{{ messages }}"]),
        (
            {"default": "{{ messages }}", "tool_use": "{{ tools }}", "rag": "{{ documents }}"},
            ["{{ messages }}", "{{ tools }}"],
        ),
    ],
)
async def test_each_template_that_may_render_a_chat_is_tried_before(
    given: str | dict[str, str], tried: list[str]
) -> None:
    seen = []

    class Noting(Trial):
        async def run(self, template: str, variables: Mapping[str, Any], chats: Sequence[Mapping[str, Any]]) -> None:
            assert variables["bos_token"] == "<s>"
            assert any("tools" in chat for chat in chats)
            seen.append(template)

    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1}, unk_token="<unk>"))
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    tokenizer.chat_template = given
    await bootstrap._try_template(Noting(), replace(Scripted(said("x")).model, tokenizer=tokenizer), None)
    assert seen == tried


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="a start says first that no engine is installed")
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"tool_call_parser": "hermis"},
            "tool_call_parser must be auto, none or a parser of the engine, got 'hermis'; ",
        ),
        ({"reasoning_parser": "qwen"}, "reasoning_parser must be auto, none or a parser of the engine, got 'qwen'; "),
    ],
)
async def test_a_parser_that_the_engine_lacks_stops_the_start_first(given: dict[str, str], says: str) -> None:
    settings = read({**given, "model_id": "/nothing"}, {}, None, KINDS)
    with pytest.raises(BadSetting) as raised:
        await bootstrap.load(settings, Pipeline(bootstrap.pipeline_config(settings)), lambda _: None)
    assert str(raised.value).startswith(f"command line: {says}the nearest ")


@pytest.mark.parametrize(
    ("text", "read_as"),
    [("", ""), ("auto", ""), ("AUTO", ""), ("none", "none"), ("false", "none"), ("hermes", "hermes")],
)
def test_words_for_a_parser(text: str, read_as: str) -> None:
    settings = read(
        {"tool_call_parser": text}, {"OPTION_REASONING_PARSER": text.replace("hermes", "qwen3")}, None, KINDS
    )
    assert bootstrap._parsers(settings, None).tool == read_as
    assert bootstrap._parsers(settings, None).reasoning == read_as.replace("hermes", "qwen3")


def test_a_plugin_may_stand_in_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "own.py").touch()
    given = {"model_id": str(tmp_path), "tool_parser_plugin": "own.py", "reasoning_parser_plugin": "a.module"}
    parsers = bootstrap._parsers(read({**given, "tool_call_parser": "any"}, {}, None, KINDS), "{{ x }}")
    assert parsers.tool_plugin == str(tmp_path / "own.py")
    assert (parsers.reasoning_plugin, parsers.tool, parsers.template) == ("a.module", "any", "{{ x }}")


def deployed(**given: str) -> Deployment:
    return bootstrap._deployment(read(given, {}, None, KINDS), Scripted().model, (), None, None)


def test_what_the_deployment_says_of_tools() -> None:
    assert (deployed().shows_uncalled, deployed().tool_strict_level) == (False, "auto")
    assert deployed(exclude_tools_when_tool_choice_none="false").shows_uncalled
    assert deployed(tool_strict_level="parameter").tool_strict_level == "parameter"


def test_every_chats_variables_are_a_json_object() -> None:
    made = deployed(default_chat_template_kwargs='{"enable_thinking": false, "style": ["a"]}')
    assert made.template_defaults == {"enable_thinking": False, "style": ["a"]}
    assert {"enable_thinking", "style"} <= made.variables
    for text, why in (
        ("[1]", 'must be a JSON object, got "[1]"'),
        ("thinking=1", 'must be a JSON object, got "thinking=1"'),
        ('{"tools": 1}', 'must not have the name of what every template gets, got "tools"'),
    ):
        settings = read({"default_chat_template_kwargs": text}, {}, None, KINDS)
        with pytest.raises(BadSetting, match=re.escape(f"command line: default_chat_template_kwargs {why}")):
            bootstrap._template_defaults(settings)


@pytest.mark.parametrize(("text", "is_on"), [("true", True), ("false", False), (None, True)])
def test_whether_the_model_decides_to_call(text: str | None, is_on: bool) -> None:  # noqa: FBT001 a case of a test
    given = {} if text is None else {"enable_auto_tool_choice": text}
    deployed = bootstrap._deployment(read(given, {}, None, KINDS), Scripted().model, (), None, None)
    assert deployed.calls_tools is is_on


def test_where_media_may_come_from(tmp_path: Path) -> None:
    """Names as LMI's properties, vLLM's JSON and a plain list have them; nothing is allowed that nobody names."""
    nothing = bootstrap._media_access(Settings())
    assert (nothing.hosts, nothing.networks, nothing.folder) == (frozenset(), (), None)
    for text in ('["A.org", "*.b.org:8443"]', "a.org, *.b.org:8443"):
        given = Settings(
            allowed_media_domains=text,
            allowed_media_networks="10.0.0.0/8, fd00::/16",
            allowed_local_media_path=str(tmp_path),
        )
        access = bootstrap._media_access(given)
        assert access.hosts == {"a.org", "*.b.org:8443"}
        assert [str(network) for network in access.networks] == ["10.0.0.0/8", "fd00::/16"]
        assert access.folder == tmp_path


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("allowed_media_networks", "10.0.0.1/8", r"networks such as 10\.0\.0\.0/16"),
        ("allowed_local_media_path", "/no/such/folder", "a folder that exists"),
        ("max_image_pixels", "0", "at least 1 and at most"),
    ],
)
def test_bad_settings_of_media(key: str, value: str, words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        read({key: value}, {}, None, {})
