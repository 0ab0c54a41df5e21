"""Check all keys against one table and build one frozen Settings, each value with its origin.

The table is the fields of Settings: name, type, bounds, default, meaning. Sources, strongest first: command line,
environment (`OPTION_X`, `SERVING_X`), `serving.properties`, names of other servers (aliases.py), defaults.
"""

import contextlib
import json
import re
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SkipValidation, StrictBool, ValidationError
from pydantic_core import ErrorDetails

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
from lmi_chat.fetching import s3
from lmi_chat.limits import (
    ConnectionLimits,
    Limits,
    MediaLimits,
    PipelineLimits,
    RateLimits,
    RegistryLimits,
    ServerLimits,
    StoreLimits,
)

Row: TypeAlias = Mapping[str, Any]
"""A key as JSON Schema says it: type, default, description, and minimum and maximum or enum."""
PORTS = re.compile(r"(\d{1,5})-(\d{1,5})")
ORIGIN = re.compile(r"https?://[^\s/,*]+")
MOST_TOLD = 20
"""Of the settings that stop one start."""
S3 = "s3://"


def _ports(text: str) -> str:
    found = PORTS.fullmatch(text)
    if text and not (found and 0 < int(found[1]) <= int(found[2]) < 2**16):
        raise ValueError("two ports, the lower one first, such as 9000-9099")
    return text


def listed(text: str) -> list[str]:
    """Read a list of names: separated by commas, or a JSON array as LMI's properties have them."""
    with contextlib.suppress(ValueError):
        values = json.loads(text)
        if isinstance(values, list):
            return [str(value) for value in values if value]
    return [name.strip() for name in text.split(",") if name.strip()]


def is_in_s3(text: str) -> bool:
    """Whether a model's name is an address in S3."""
    return text[: len(S3)].lower() == S3


def _model(text: str) -> str:
    if is_in_s3(text) and not s3.ADDRESS.fullmatch(text):
        raise ValueError("an address in S3 such as s3://bucket/folder/ or s3://bucket/model.tar.gz")
    return text


def _networks(text: str) -> str:
    for name in text.replace(",", " ").split():
        try:
            ip_network(name)
        except ValueError as error:
            raise ValueError("networks such as 10.0.0.0/16, after commas") from error
    return text


def _origins(text: str) -> str:
    wrong = [origin for origin in listed(text) if origin != "*" and not ORIGIN.fullmatch(origin)]
    if wrong:
        raise ValueError("origins such as https://app.example or http://localhost:3000, or *")
    return text


def _folder(text: str) -> str:
    if text and not Path(text).is_dir():
        raise ValueError("a folder that exists")
    return text


class Settings(BaseModel):
    """The deployment. Bytes, seconds and tokens are named as such; every field with a description is `option.<name>`.

    The limits of the folders below are theirs (`limits.py`); here they are nested, to be handed down whole, and their
    fields are keys like the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_id: Annotated[str, AfterValidator(_model)] = Field(
        default="",
        description="model folder, hub id, or s3://bucket/folder/ (or a tar.gz); empty: /opt/ml/model, else the "
        "default model",
    )
    host: str = Field(default="0.0.0.0", description="address to listen on")  # noqa: S104 a container is reached from outside
    port: int = Field(default=8080, ge=0, le=65535, description="port to listen on")
    api_key: str = Field(
        default="",
        description="keys of which requests must carry one, as name=key after commas; empty: none is asked for",
    )
    api_key_file: str = Field(default="", description="a file with such keys, one on each line as name=key")
    cache_salt_by: Literal["key", "user", "none"] = Field(
        default="key",
        description="whose requests share cached prefixes: key (each API key's), user (each user's) or none (all)",
    )
    turns_by: Literal["user", "prefix_aware_id"] = Field(
        default="user",
        description="who takes turns where requests wait: user (the field) or prefix_aware_id (the platform's header, "
        "where a request has it)",
    )
    show_cached_tokens: StrictBool = Field(
        default=True, description="usage tells how many of a prompt's tokens were found in the cache"
    )
    warnings_in_attributes: StrictBool = Field(
        default=False,
        description="what X-LMI-Chat-Warning tells also ends an answer's X-Amzn-SageMaker-Custom-Attributes, which the "
        "platform hands on to boto3",
    )
    inference_metering: Literal["off", "inferences", "tokens"] = Field(
        default="off",
        description="what X-Amzn-Inference-Metering counts, by which AWS Marketplace bills: inferences (prompts) or "
        "tokens (of prompts and answer; not of streams)",
    )
    ssl_certfile: str = Field(default="", description="a PEM file with the certificate to serve HTTPS with")
    ssl_keyfile: str = Field(default="", description="a PEM file with the certificate's private key")
    ssl_keyfile_password: str = Field(default="", description="what that key is encrypted with")
    ssl_ca_certs: str = Field(default="", description="a PEM file with the authorities whose clients are trusted")
    ssl_cert_reqs: Literal["0", "1", "2"] = Field(
        default="0", description="a client's certificate: 0 not asked for, 1 asked for, 2 needed"
    )
    ssl_ciphers: str = Field(default="", description="ciphers of TLS, as OpenSSL writes them; empty: its own choice")
    allowed_origins: Annotated[str, AfterValidator(_origins)] = Field(
        default="",
        description="origins whose pages may ask this server from a browser (CORS), such as https://app.example, after "
        "commas or as JSON; *: any; empty: none",
    )
    allowed_methods: str = Field(default="*", description="methods that such pages may use, after commas or as JSON")
    allowed_headers: str = Field(default="*", description="headers that such pages may send, after commas or as JSON")
    allow_credentials: StrictBool = Field(
        default=False, description="such pages may send cookies and credentials; their origins are then named, not *"
    )
    safe_port_range: Annotated[str, AfterValidator(_ports)] = Field(
        default="", description="where a port is looked for that the engine asks for by number, such as 9000-9099"
    )
    served_model_name: str = Field(
        default="", description="name that replies carry, and further names after commas; empty: from model_id"
    )
    task: Literal[
        "auto",
        "text-generation",
        "text-embedding",
        "text-classification",
        "token-classification",
        "reranking",
        "automatic-speech-recognition",
    ] = Field(
        default="auto",
        description="text-generation, text-embedding, text-classification, token-classification, reranking or "
        "automatic-speech-recognition; "
        "auto: by the model",
    )
    normalize: Literal["", "true", "false"] = Field(
        default="", description="true or false: vectors of length 1; empty: as the model has it, which mostly is true"
    )
    chat_template: str = Field(
        default="",
        description="a Jinja file, or its text, instead of the model's own chat template; of a reranker: of its pairs",
    )
    chat_template_kwargs: str = Field(
        default="",
        description="names that a request may set in chat_template_kwargs beside those that the template reads; commas",
    )
    default_chat_template_kwargs: str = Field(
        default="",
        description="a JSON object: variables of the chat template for every chat; chat_template_kwargs overrule them",
    )
    tool_call_parser: str = Field(
        default="",
        description="what takes calls of tools out of the text: a parser of the engine, or none; empty: by the model",
    )
    reasoning_parser: str = Field(
        default="",
        description="what takes the reasoning out of the text: a parser of the engine, or none; empty: by the model",
    )
    enable_auto_tool_choice: StrictBool = Field(
        default=True, description="tool_choice may be auto: the model decides whether it calls a tool"
    )
    exclude_tools_when_tool_choice_none: StrictBool = Field(
        default=True, description="the chat template is shown no tools where tool_choice is none"
    )
    tool_strict_level: Literal["auto", "function", "parameter"] = Field(
        default="auto",
        description="what is enforced where a request does not ask for it: function: the form of calls; parameter: the"
        " schemas of their arguments too, as if each tool were strict; auto: nothing",
    )
    tool_parser_plugin: str = Field(
        default="", description="a Python file, or a module, that registers further parsers of tool calls"
    )
    reasoning_parser_plugin: str = Field(
        default="", description="a Python file, or a module, that registers further parsers of reasoning"
    )
    lora_modules: str = Field(
        default="",
        description="adapters to begin with, as name=path after blanks, or as JSON; they need the engine's enable_lora",
    )
    adapters: str = Field(
        default="adapters", description="the folder in the model's own that has a folder for each adapter to begin with"
    )
    adapter_folder: str = Field(
        default="",
        description="where an adapter of an unknown name is looked for: a folder or s3://bucket/folder/ that "
        "has a folder or a tar.gz for each",
    )
    adapter_code: Literal["off", "local", "any"] = Field(
        default="local",
        description="whose model.py is run, for its formatters: of no adapter (off), of those registered from this "
        "machine (local), or of all registered (any)",
    )
    adapter_limits: RegistryLimits = RegistryLimits()
    output_formatter: Literal["", "json", "jsonlines", "sse"] = Field(
        default="", description="json, jsonlines or sse; the last two also make streaming the default"
    )
    tgi_compat: StrictBool = Field(
        default=False, description="standard answers as TGI's: in an array, with details, as events"
    )
    finish_reason: Literal["openai", "lmi"] = Field(
        default="openai", description="openai (stop, length) or lmi (eos_token, length, stop_sequence)"
    )
    reasoning_field: Literal["both", "reasoning", "reasoning_content"] = Field(
        default="both", description="what chats answer reasoning in: reasoning, reasoning_content or both"
    )
    strict_requests: StrictBool = Field(default=False, description="unknown keys of a request are errors")
    enable_stateful_sessions: StrictBool = Field(default=True, description="sessions: the server holds conversations")
    sessions_expiration: float = Field(
        default=1200.0, ge=1, le=2_592_000, description="seconds from a session's beginning to its end"
    )
    max_sessions: int = Field(
        default=10_000, ge=1, le=10_000_000, description="sessions held at once; the oldest go first"
    )
    max_session_bytes: int = Field(
        default=128 * 2**20, ge=2**20, le=2**40, description="bytes of all sessions' conversations"
    )
    pipeline: PipelineLimits = PipelineLimits()
    start_attempts: int = Field(
        default=3, ge=1, le=100, description="starts of the engine in all, where its processes die while it starts"
    )
    drain_seconds: float = Field(
        default=25.0, ge=0, le=3600, description="seconds that running answers get after SIGTERM"
    )
    max_request_size: int = Field(default=25 * 2**20, ge=1024, le=2**31, description="bytes of one request body")
    connection: ConnectionLimits = ConnectionLimits()
    server: ServerLimits = ServerLimits()
    rates: RateLimits = RateLimits()
    limits: Limits = Limits()
    allowed_media_domains: str = Field(
        default="",
        description="hosts that media are fetched from, after commas: name, *.name or name:port; *: every public one; "
        "empty: none",
    )
    allowed_media_networks: Annotated[str, AfterValidator(_networks)] = Field(
        default="",
        description="networks that are not public and that media may be fetched from all the same, such as 10.0.0.0/16",
    )
    allowed_local_media_path: Annotated[str, AfterValidator(_folder)] = Field(
        default="", description="a folder whose files a request may name by a file: URL; empty: none"
    )
    media: MediaLimits = MediaLimits()
    enable_tokenizer_info_endpoint: StrictBool = Field(
        default=False, description="GET /tokenizer_info tells the tokenizer's configuration, chat template included"
    )
    store: str = Field(
        default="",
        description="a file that keeps the chat completions which ask for it (store: true); empty: none is kept",
    )
    store_limits: StoreLimits = StoreLimits()
    async_folder: str = Field(
        default="", description="a folder for asynchronous requests, their answers included; empty: none are taken"
    )
    async_queue_size: int = Field(
        default=1000, ge=1, le=1_000_000, description="asynchronous requests that are held at once"
    )
    async_concurrency: int = Field(
        default=16, ge=1, le=4096, description="asynchronous requests that are answered at once"
    )
    install_requirements: StrictBool = Field(
        default=False, description="pip installs the requirements.txt of a model directory with code of its own"
    )
    fast_branch: StrictBool = Field(
        default=True,
        description="plain requests' tokens go past the engine's own output objects; false only to compare",
    )
    guide_compile_seconds: float = Field(
        default=2.0, ge=0.1, le=60, description="seconds in which a schema, regex, choice or grammar must compile"
    )
    max_trials: int = Field(
        default=64, ge=1, le=100_000, description="requests that may wait for such a new one to be tried"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="warning", description="debug, info, warning or error; debug shows other code's lines, too"
    )
    access_log: Literal["stdout", "stderr", "off"] = Field(
        default="stdout", description="where a JSON line per request goes: stdout, stderr or off"
    )
    console: StrictBool = Field(
        default=False, description="GET /console shows a page with the server's figures, last requests and settings"
    )
    console_requests: int = Field(
        default=500, ge=1, le=4000, description="requests that the console keeps after their end; the oldest go first"
    )
    cloudwatch_emf: StrictBool = Field(default=False, description="log lines that CloudWatch reads metrics out of")
    engine: SkipValidation[Mapping[str, str]] = Field(default_factory=lambda: types.MappingProxyType({}))
    origins: SkipValidation[Mapping[str, str]] = Field(default_factory=lambda: types.MappingProxyType({}))
    notes: tuple[IgnoredSetting, ...] = ()

    def values(self) -> Mapping[str, object]:
        """Return the value of every key."""
        fields = self.model_dump(by_alias=True, exclude={"engine", "origins", "notes"})
        return {
            key: value
            for name, one in fields.items()
            for key, value in (one.items() if isinstance(one, dict) else [(name, one)])
            if key in OWN
        }


def _table() -> Iterator[tuple[str, str, Row]]:
    """Return each key with the nested field of Settings that it stands in ("": none), and its row."""
    schema = Settings.model_json_schema()
    for name, row in schema["properties"].items():
        nested = schema["$defs"][row["$ref"].rpartition("/")[2]]["properties"] if "$ref" in row else {}
        yield from ((key, name, one) for key, one in nested.items() if "description" in one)
        if "description" in row:
            yield name, "", row


KEYS = tuple(_table())
OWN: Mapping[str, Row] = {key: row for key, _, row in KEYS}
PARTS: Mapping[str, str] = {key: part for key, part, _ in KEYS if part}


def of_part(part: str) -> frozenset[str]:
    """Return the keys that stand in a nested field of Settings, such as `connection`."""
    return frozenset(key for key, name in PARTS.items() if name == part)


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
    `gpus` is what a tensor_parallel_degree of `max` stands for. Raises BadSetting with key, value, origin and hint of
    everything that is wrong.
    """
    keys = KeyResolver(OWN, engine_kinds, gpus)
    in_file, noted = from_properties(properties) if properties else ([], [])
    chosen: dict[str, RawSetting] = {}
    wrong: list[BadSetting] = []
    for source in _sources(arguments, environment, in_file, origin):
        chosen = _one_source(source, keys, noted, wrong) | chosen
    for name, (text, why) in (engine_defaults or {}).items():
        chosen.setdefault(name, RawSetting(name, text, why))
    return _built(chosen, (*noted, *notes(environment)), wrong)


def read_only(
    wanted: Collection[str], arguments: Mapping[str, str], environment: Mapping[str, str], properties: Path | None
) -> Settings:
    """Merge what all sources say of the keys `wanted`; everything else is somebody else's. Raises BadSetting."""
    keys = KeyResolver(OWN, {}, 1)
    in_file = from_properties(properties)[0] if properties else []
    chosen: dict[str, RawSetting] = {}
    wrong: list[BadSetting] = []
    for source in _sources(arguments, environment, in_file, "command line"):
        chosen = _one_source((given for given in source if keys.name_of(given) in wanted), keys, [], wrong) | chosen
    return _built(chosen, (), wrong)


def _sources(
    arguments: Mapping[str, str], environment: Mapping[str, str], in_file: Iterable[RawSetting], origin: str
) -> list[Iterable[RawSetting]]:
    """Return what each source gives, strongest first."""
    return [
        [RawSetting(name, text, origin) for name, text in arguments.items()],
        from_environment(environment),
        in_file,
        *(from_family(family, environment) for family in FAMILIES),
    ]


def _built(chosen: Mapping[str, RawSetting], noted: tuple[IgnoredSetting, ...], wrong: list[BadSetting]) -> Settings:
    """Build Settings of what was chosen. Raises BadSetting, of what was `wrong` already too."""
    fields: dict[str, Any] = {
        "engine": types.MappingProxyType({name: given.text for name, given in chosen.items() if name not in OWN}),
        "origins": types.MappingProxyType({name: given.origin for name, given in chosen.items()}),
        "notes": noted,
    }
    for name in chosen.keys() & OWN.keys():
        part = fields.setdefault(PARTS[name], {}) if name in PARTS else fields
        part[name] = _spelt(chosen[name])
    try:
        settings = Settings.model_validate(fields)
    except ValidationError as error:
        for each in error.errors():
            name = str(each["loc"][-1])
            wrong.append(bad(chosen[name], _wanted(OWN[name], each)))
    if wrong:
        raise _all(wrong)
    return settings


def _all(wrong: list[BadSetting]) -> BadSetting:
    """Put everything that is wrong into one error, a line each."""
    if len(wrong) == 1:
        return wrong[0]
    more = [f"and {len(wrong) - MOST_TOLD} more"] if len(wrong) > MOST_TOLD else []
    lines = [f"{len(wrong)} settings stop the start:", *map(str, wrong[:MOST_TOLD]), *more]
    return BadSetting("\n  ".join(lines))


def _one_source(
    source: Iterable[RawSetting], keys: KeyResolver, noted: list[IgnoredSetting], wrong: list[BadSetting]
) -> dict[str, RawSetting]:
    """Resolve one source's keys; what sets nothing goes to `noted`, what cannot be, or disagrees, to `wrong`."""
    mine: dict[str, RawSetting] = {}
    written: dict[str, RawSetting] = {}
    for given in source:
        try:
            resolved = keys.resolve(given)
        except BadSetting as error:
            wrong.append(error)
            continue
        if isinstance(resolved, IgnoredSetting):
            noted.append(resolved)
        elif mine.setdefault(resolved.name, resolved).text != resolved.text:
            wrong.append(_twice(given, written[resolved.name]))
        else:
            written.setdefault(resolved.name, given)
    return mine


def _twice(given: RawSetting, other: RawSetting) -> BadSetting:
    both = f"{given.name} = {given.shown} and {other.name} = {other.shown} ({other.origin})"
    return BadSetting(f"{given.origin}: {both} are the same setting; keep one of them")


def _spelt(given: RawSetting) -> object:
    """Normalise the text by its type: words may be written in capitals."""
    row = OWN[given.name]
    if row["type"] == "boolean":
        return {"true": True, "false": False}.get(given.text.lower(), given.text)
    return given.text.lower() if "enum" in row else given.text


def _wanted(row: Row, error: ErrorDetails) -> str:
    """Describe what a bad value must be."""
    if row["type"] == "boolean":
        return "one of true, false"
    if "enum" in row:
        return f"one of {', '.join(filter(None, row['enum']))}"
    if error["type"] in {"greater_than_equal", "less_than_equal"}:
        return f"at least {row['minimum']} and at most {row['maximum']}"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return "a whole number" if row["type"] == "integer" else "a number"
