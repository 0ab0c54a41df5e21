"""One table of keys → one frozen Settings, each value with its origin.

The table is the fields of Settings: name, type, default, meaning. Sources, strongest first: command line, environment
(`OPTION_X`, `SERVING_X`), `serving.properties`, the environment names of other servers (families.py), defaults.
"""

import dataclasses
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from lmi_chat.config.aliases import FAMILIES
from lmi_chat.config.resolve import KeyResolver, bad
from lmi_chat.config.sources import (
    BadSetting,
    IgnoredSetting,
    RawSetting,
    from_environment,
    from_family,
    from_properties,
    notes,
)


def key(default: object, meaning: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A row of the table."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "low": low, "high": high})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The deployment. Bytes, seconds and tokens are named as such; every field is `option.<name>`."""

    model_id: str = key("", "model folder or hub id; empty: /opt/ml/model, else the embedded model")
    host: str = key("0.0.0.0", "address to listen on")  # noqa: S104 a container is reached from outside
    port: int = key(8080, "port to listen on", low=0, high=65535)
    safe_port_range: str = key("", "where a port is looked for that the engine asks for by number, such as 9000-9099")
    served_model_name: str = key("", "name that replies carry, and further names after commas; empty: from model_id")
    task: str = key("auto", "text-generation or text-embedding; auto: by the model")
    normalize: str = key("", "true or false: vectors of length 1; empty: as the model has it, which mostly is true")
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
    finish_before_seconds: float = key(
        0.0, "seconds from its arrival after which an answer ends with what there is; 0: never", low=0, high=86_400
    )
    stall_seconds: float = key(
        30.0, "seconds without a step of the engine, while work waits, after which /ping is 503", low=1, high=3600
    )
    drain_seconds: float = key(25.0, "seconds that running answers get after SIGTERM", low=0, high=3600)
    max_request_size: int = key(25 * 2**20, "bytes of one request body", low=1024, high=2**31)
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
    max_input_tokens: int = key(0, "tokens of one prompt; 0: what the context holds", low=0, high=100_000_000)
    max_n: int = key(16, "sequences of one request", low=1, high=1024)
    max_prompts: int = key(64, "prompts of one request", low=1, high=4096)
    max_inputs: int = key(2048, "inputs of one embedding request", low=1, high=16_384)
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
    fast_branch: bool = key(
        default=True, meaning="plain requests' tokens go past the engine's own output objects; false only to compare"
    )
    guide_compile_seconds: float = key(
        2.0, "seconds in which a schema, regex, choice or grammar must compile", low=0.1, high=60
    )
    log_level: str = key("warning", "debug, info, warning or error")
    access_log: str = key("stdout", "where a JSON line per request goes: stdout, stderr or off")
    cloudwatch_emf: bool = key(default=False, meaning="log lines that CloudWatch reads metrics out of")
    engine: Mapping[str, str] = dataclasses.field(default_factory=lambda: types.MappingProxyType({}))
    origins: Mapping[str, str] = dataclasses.field(default_factory=lambda: types.MappingProxyType({}))
    notes: tuple[IgnoredSetting, ...] = ()


OWN = {row.name: row for row in dataclasses.fields(Settings) if row.name not in {"engine", "origins", "notes"}}
TYPES = {name: kind for name, kind in get_type_hints(Settings).items() if name in OWN}
CHOICES = {
    "task": ("auto", "text-generation", "text-embedding"),
    "normalize": ("", "true", "false"),
    "output_formatter": ("", "json", "jsonlines", "sse"),
    "finish_reason": ("openai", "lmi"),
    "log_level": ("debug", "info", "warning", "error"),
    "access_log": ("stdout", "stderr", "off"),
}
PORTS = re.compile(r"(\d{1,5})-(\d{1,5})")


def read(
    arguments: Mapping[str, str],
    environment: Mapping[str, str],
    properties: Path | None,
    engine_kinds: Mapping[str, str],
    engine_defaults: Mapping[str, tuple[str, str]] | None = None,
    *,
    gpus: int = 1,
    origin: str = "command line",
) -> Settings:
    """Merge all sources. `origin` is what `arguments` are called.

    `engine_kinds` are the engine's own argument names with their types (empty: any passes, it is not installed),
    `gpus` is what a tensor_parallel_degree of `max` stands for. Raises BadSetting with key, value, origin and hint.
    """
    keys = KeyResolver(OWN, engine_kinds, gpus)
    in_file, noted = from_properties(properties) if properties else ([], [])
    sources: list[Iterable[RawSetting]] = [
        [RawSetting(name, text, origin) for name, text in arguments.items()],
        from_environment(environment),
        in_file,
        *(from_family(family, environment) for family in FAMILIES),
    ]
    chosen: dict[str, RawSetting] = {}
    for source in sources:
        chosen = _one_source(source, keys, noted) | chosen
    for name, (text, why) in (engine_defaults or {}).items():
        chosen.setdefault(name, RawSetting(name, text, why))
    return Settings(
        **{name: _convert(given) for name, given in chosen.items() if name in OWN},
        engine=types.MappingProxyType({name: given.text for name, given in chosen.items() if name not in OWN}),
        origins=types.MappingProxyType({name: given.origin for name, given in chosen.items()}),
        notes=(*noted, *notes(environment)),
    )


def _one_source(source: Iterable[RawSetting], keys: KeyResolver, noted: list[IgnoredSetting]) -> dict[str, RawSetting]:
    """Its keys under their one name; what sets nothing goes to `noted`. Raises BadSetting where two disagree."""
    mine: dict[str, RawSetting] = {}
    written: dict[str, RawSetting] = {}
    for given in source:
        resolved = keys.resolve(given)
        if isinstance(resolved, IgnoredSetting):
            noted.append(resolved)
        elif mine.setdefault(resolved.name, resolved).text != resolved.text:
            raise _twice(given, written[resolved.name])
        else:
            written.setdefault(resolved.name, given)
    return mine


def _twice(given: RawSetting, other: RawSetting) -> BadSetting:
    both = f"{given.name} = {given.shown} and {other.name} = {other.shown} ({other.origin})"
    return BadSetting(f"{given.origin}: {both} are the same setting; keep one of them")


def _convert(given: RawSetting) -> Any:
    row, kind = OWN[given.name], TYPES[given.name]
    low, high = row.metadata["low"], row.metadata["high"]
    choices = CHOICES.get(given.name)
    if kind is bool:
        choices = ("true", "false")
    if choices and given.text.lower() not in choices:
        raise bad(given, f"one of {', '.join(choice for choice in choices if choice)}")
    if kind is bool:
        return given.text.lower() == "true"
    if given.name == "safe_port_range":
        return _ports(given)
    if kind is str:
        return given.text.lower() if choices else given.text
    try:
        value = kind(given.text)
    except ValueError:
        raise bad(given, "a whole number" if kind is int else "a number") from None
    if not low <= value <= high:
        raise bad(given, f"at least {low} and at most {high}")
    return value


def _ports(given: RawSetting) -> str:
    found = PORTS.fullmatch(given.text)
    if given.text and not (found and 0 < int(found[1]) <= int(found[2]) < 2**16):
        raise bad(given, "two ports, the lower one first, such as 9000-9099")
    return given.text
