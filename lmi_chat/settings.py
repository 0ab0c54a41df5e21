"""One table of keys → one frozen Settings, each value with its origin.

The table is the fields of Settings: name, type, default, meaning. Sources, strongest first: command line, environment
(`OPTION_X`, `SERVING_X`), `serving.properties`, the environment names that other servers use, defaults.
"""

import dataclasses
import os
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import javaproperties

from lmi_chat.bounds import nearest
from lmi_chat.errors import one_line

MODEL_FOLDER = Path("/opt/ml/model")
PROPERTIES = "serving.properties"
RENAMED = {
    "model": "model_id",
    "tensor_parallel_degree": "tensor_parallel_size",
    "pipeline_parallel_degree": "pipeline_parallel_size",
    "max_rolling_batch_size": "max_num_seqs",
    "max_rolling_batch_prefill_tokens": "max_num_batched_tokens",
    "quantize": "quantization",
    "cpu_offload_gb_per_gpu": "cpu_offload_gb",
}
SECRETS = ("_token", "_key", "_password")
DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
DJL_OWN = frozenset(
    {"engine", "entryPoint", "async_mode", "rolling_batch", "mpi_mode", "minWorkers", "maxWorkers", "batch_size"}
    | {"retry_threshold", "model_loading_timeout", "max_idle_time", "load_on_devices", "fail_fast", "pythonExecutable"}
)


class BadSetting(Exception):
    """A key that is not known or a value that is not possible; one sentence, which stops the start."""


def key(default: object, meaning: str, *, low: float | None = None, high: float | None = None, also: str = "") -> Any:
    """A row of the table. `also` lists environment names of other servers, separated by spaces."""
    return dataclasses.field(
        default=default, metadata={"meaning": meaning, "low": low, "high": high, "also": also.split()}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The deployment. Bytes, seconds and tokens are named as such; every field is `option.<name>`."""

    model_id: str = key("", "model folder or hub id; empty: /opt/ml/model, else the embedded model", also="HF_MODEL_ID")
    host: str = key("0.0.0.0", "address to listen on")  # noqa: S104 a container is reached from outside
    port: int = key(8080, "port to listen on", low=0, high=65535, also="SAGEMAKER_BIND_TO_PORT")
    served_model_name: str = key("", "name that replies carry, and further names after commas; empty: from model_id")
    chat_template: str = key("", "a Jinja file, or its text, instead of the model's own chat template")
    chat_template_kwargs: str = key("", "names that a request may set in chat_template_kwargs, separated by commas")
    output_formatter: str = key("", "json, jsonlines or sse; the last two also make streaming the default")
    tgi_compat: bool = key(default=False, meaning="standard answers as TGI's: in an array, with details, as events")
    finish_reason: str = key("openai", "openai (stop, length) or lmi (eos_token, length, stop_sequence)")
    strict_requests: bool = key(default=False, meaning="unknown keys of a request are errors")
    enable_stateful_sessions: bool = key(default=True, meaning="sessions: the server holds conversations")
    sessions_expiration: float = key(1200.0, "seconds from a session's beginning to its end", low=1, high=2_592_000)
    max_sessions: int = key(10_000, "sessions held at once; the oldest go first", low=1, high=10_000_000)
    job_queue_size: int = key(256, "requests that may wait beyond those the engine runs at once", low=0, high=1_000_000)
    predict_timeout: float = key(480.0, "seconds for one whole answer or stream", low=0.1, high=86_400)
    drain_seconds: float = key(25.0, "seconds that running answers get after SIGTERM", low=0, high=3600)
    max_request_size: int = key(
        25 * 2**20, "bytes of one request body", low=1024, high=2**31, also="SAGEMAKER_MAX_REQUEST_SIZE"
    )
    receive_seconds: float = key(30.0, "seconds for a request's head, and per 16 KiB of its body", low=0.1, high=3600)
    write_stall_seconds: float = key(
        30.0, "seconds without progress after which a reader is cut off", low=0.1, high=3600
    )
    stream_backlog_bytes: int = key(2**20, "unsent bytes kept for one slow reader", low=4096, high=2**30)
    keep_alive_seconds: float = key(75.0, "seconds an idle connection stays open", low=1, high=3600)
    max_header_bytes: int = key(64 * 1024, "bytes of one request's head", low=1024, high=2**20)
    max_header_count: int = key(100, "headers of one request", low=8, high=10_000)
    max_json_depth: int = key(64, "nesting of a request body", low=4, high=1000)
    max_messages: int = key(2048, "messages of one chat", low=1, high=100_000)
    max_n: int = key(16, "sequences of one request", low=1, high=1024)
    max_prompts: int = key(64, "prompts of one request", low=1, high=4096)
    max_stop: int = key(16, "stop strings of one request", low=1, high=1024)
    max_stop_chars: int = key(1024, "characters of one stop string", low=1, high=65_536)
    max_logprobs: int = key(20, "alternatives per token", low=0, high=1000)
    max_prompt_logprobs: int = key(
        65_536, "log-probabilities of prompts in one reply: tokens × (1 + alternatives)", low=1, high=2**30
    )
    max_logit_bias: int = key(1024, "tokens in logit_bias", low=0, high=300_000)
    store: str = key("", "a file that keeps the chat completions which ask for it (store: true); empty: none is kept")
    store_days: float = key(30.0, "days for which a completion is kept", low=0.01, high=36_500)
    store_bytes: int = key(2**30, "bytes of that file; the oldest completions go first", low=2**20, high=2**50)
    async_folder: str = key("", "a folder for asynchronous requests, their answers included; empty: none are taken")
    async_queue_size: int = key(1000, "asynchronous requests that are held at once", low=1, high=1_000_000)
    async_concurrency: int = key(16, "asynchronous requests that are answered at once", low=1, high=4096)
    max_schema_bytes: int = key(65_536, "bytes of a JSON Schema", low=64, high=2**22)
    max_schema_depth: int = key(32, "nesting of a JSON Schema", low=2, high=500)
    max_schema_enum: int = key(1000, "enum values of a JSON Schema in all", low=1, high=100_000)
    max_regex_bytes: int = key(4096, "bytes of a regex that the text must fit", low=1, high=2**20)
    max_grammar_bytes: int = key(65_536, "bytes of a grammar that the text must fit", low=16, high=2**22)
    max_choices: int = key(1000, "choices of one request", low=1, high=100_000)
    max_choice_bytes: int = key(1024, "bytes of one choice", low=1, high=65_536)
    guide_compile_seconds: float = key(
        2.0, "seconds in which a schema, regex, choice or grammar must compile", low=0.1, high=60
    )
    log_level: str = key("warning", "debug, info, warning or error")
    engine: Mapping[str, str] = dataclasses.field(default_factory=lambda: types.MappingProxyType({}))
    origins: Mapping[str, str] = dataclasses.field(default_factory=lambda: types.MappingProxyType({}))


OWN = {row.name: row for row in dataclasses.fields(Settings) if row.name not in {"engine", "origins"}}
TYPES = {name: kind for name, kind in get_type_hints(Settings).items() if name in OWN}
CHOICES = {
    "output_formatter": ("", "json", "jsonlines", "sse"),
    "finish_reason": ("openai", "lmi"),
    "log_level": ("debug", "info", "warning", "error"),
}


@dataclass(frozen=True, slots=True)
class Given:
    """One key as a source gives it: a name of the table or of the engine, its text, and where it stood."""

    name: str
    text: str
    origin: str


def read(
    arguments: Mapping[str, str],
    environment: Mapping[str, str],
    properties: Path | None,
    engine_names: frozenset[str],
    engine_defaults: Mapping[str, tuple[str, str]] | None = None,
) -> Settings:
    """Merge all sources. `engine_names` are the engine's own argument names (empty: any passes, it is not installed).

    Raises BadSetting with the key, the value and the nearest known key.
    """
    chosen: dict[str, Given] = {}
    sources = (
        [Given(name, text, "command line") for name, text in arguments.items()],
        _from_environment(environment, engine_names),
        _from_properties(properties),
        _from_other_servers(environment),
    )
    for source in sources:
        mine: dict[str, Given] = {}
        for given in source:
            resolved = _resolve(given, engine_names)
            if resolved is None:
                continue
            twin = mine.setdefault(resolved.name, resolved)
            if twin.text != resolved.text:
                both = f"{given.name} = {given.text} and {twin.text} ({twin.origin})"
                text = f"{both} are the same setting; keep one of them"
                raise BadSetting(f"{given.origin}: {text}")
        chosen = mine | chosen
    for name, (text, why) in (engine_defaults or {}).items():
        chosen.setdefault(name, Given(name, text, why))
    values = {name: _convert(given) for name, given in chosen.items() if name in OWN}
    engine = {name: given.text for name, given in chosen.items() if name not in OWN}
    origins = {name: given.origin for name, given in chosen.items()}
    return Settings(**values, engine=types.MappingProxyType(engine), origins=types.MappingProxyType(origins))


def find_properties(named: str, folder: str) -> Path | None:
    """The file to read: the named one, else the model folder's, else the working folder's. Raises BadSetting."""
    if named:
        path = Path(named)
        if not path.is_file():
            raise BadSetting(f"--properties: there is no file {one_line(named, 200)}")
        return path
    places = [Path(folder)] if folder and Path(folder).is_dir() else []
    return next((path / PROPERTIES for path in [*places, MODEL_FOLDER, Path()] if (path / PROPERTIES).is_file()), None)


def _from_environment(environment: Mapping[str, str], engine_names: frozenset[str]) -> Iterable[Given]:
    for name, text in environment.items():
        for prefix in ("OPTION_", "SERVING_"):
            if name.startswith(prefix):
                yield Given(_spelled(name.removeprefix(prefix), engine_names), text, f"environment {name}")


def _from_other_servers(environment: Mapping[str, str]) -> Iterable[Given]:
    for name, row in OWN.items():
        for other in row.metadata["also"]:
            if other in environment:
                yield Given(name, environment[other], f"environment {other}")


def _spelled(upper: str, engine_names: frozenset[str]) -> str:
    """DJL's keys have capitals inside (`entryPoint`); the environment's do not."""
    lowered = {name.lower(): name for name in DJL_OWN | engine_names | OWN.keys()}
    return lowered.get(upper.lower(), lowered.get(upper.lower().replace("_", ""), upper.lower()))


def _from_properties(path: Path | None) -> Iterable[Given]:
    if path is None:
        return
    try:
        pairs = javaproperties.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadSetting(f"{path.name} cannot be read: {one_line(str(error), 200)}") from error
    for name, text in pairs.items():
        yield Given(name.removeprefix("option."), text.strip(), path.name)


def _resolve(given: Given, engine_names: frozenset[str]) -> Given | None:
    """The key under its one name; None for DJL's own keys, which say nothing to us. Raises BadSetting."""
    name = given.name.replace("-", "_")
    if given.name in DJL_OWN or name in DJL_OWN:
        return None
    name = RENAMED.get(name, name)
    text = DTYPES.get(given.text, given.text) if name == "dtype" else given.text
    if name in OWN or name in engine_names or not engine_names:
        return Given(name, text, given.origin)
    near = nearest(name, frozenset(OWN) | engine_names | frozenset(RENAMED))
    hint = f"; the nearest known key is {near}" if near else ""
    raise BadSetting(f"{given.origin}: {one_line(given.name, 80)} is no key of lmi-chat or of the engine{hint}")


def _convert(given: Given) -> Any:
    row, kind = OWN[given.name], TYPES[given.name]
    low, high = row.metadata["low"], row.metadata["high"]
    choices = CHOICES.get(given.name)
    if kind is bool:
        choices = ("true", "false")
    if choices and given.text.lower() not in choices:
        raise _bad(given, f"one of {', '.join(choice for choice in choices if choice)}")
    if kind is bool:
        return given.text.lower() == "true"
    if kind is str:
        return given.text.lower() if choices else given.text
    try:
        value = kind(given.text)
    except ValueError:
        raise _bad(given, "a whole number" if kind is int else "a number") from None
    if not low <= value <= high:
        raise _bad(given, f"at least {low} and at most {high}")
    return value


def _bad(given: Given, wanted: str) -> BadSetting:
    return BadSetting(f"{given.origin}: {given.name} must be {wanted}, got {one_line(given.text, 80)!r}")


def explain(settings: Settings) -> str:
    """Every value with where it came from, as text in three columns."""
    rows = [(name, _shown(getattr(settings, name)), settings.origins.get(name, "default")) for name in OWN]
    for name, value in sorted(settings.engine.items()):
        shown = "(hidden)" if name.endswith(SECRETS) else value
        rows.append((f"engine.{name}", shown, settings.origins[name]))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for name, value, origin in rows)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value != "" else "-"


def table() -> str:
    """The README's table of keys, in Markdown."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, row in OWN.items():
        kind = TYPES[name]
        kind_name = {int: "integer", float: "number", bool: "boolean"}.get(kind, "string")
        also = "".join(f" (also `{other}`)" for other in row.metadata["also"])
        default = _shown(row.default)
        lines.append(
            f"| `{name}` | {kind_name} | {default if default != '-' else ''} | {row.metadata['meaning']}{also} |"
        )
    return "\n".join(lines)


def environment() -> Mapping[str, str]:
    """The process's environment."""
    return os.environ
