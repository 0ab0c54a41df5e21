"""Open a pipeline from settings: model, engine, template, canary. Both surfaces, HTTP and DJL, begin with it."""

import asyncio
import atexit
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any, get_args

from lmi_chat import dialects
from lmi_chat.async_requests import AsyncRequests
from lmi_chat.async_requests.folder import Folder
from lmi_chat.chat_template import RESERVED, BadTemplate, Template, first_chats, jinja_text
from lmi_chat.config import describe, secure_mode
from lmi_chat.config.api_keys import read as keys_of
from lmi_chat.config.secure_mode import SecureMode
from lmi_chat.config.settings import Settings, is_in_s3, listed
from lmi_chat.config.sources import MODEL_FOLDER, BadSetting, environment, is_model
from lmi_chat.console.answers import ConfigRow
from lmi_chat.console.recorder import Console
from lmi_chat.dialects import Deployment
from lmi_chat.dialects.deployment import PLACEHOLDERS, ReasoningField
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.dialects.sequence import LMI_FINISH
from lmi_chat.engine import Engine, Model
from lmi_chat.engine.vllm import arguments, parser_setup
from lmi_chat.engine.vllm import engine as engine_vllm
from lmi_chat.engine.vllm.parser_setup import BadParser, ParserSettings
from lmi_chat.engine.vllm.structured_output.trials import TrialLimits
from lmi_chat.errors import EngineDown, Error
from lmi_chat.fetching import FetchFailed
from lmi_chat.http.access import ApiKeys
from lmi_chat.http.cross_origin import CrossOrigin
from lmi_chat.media import Fetcher, Media, MediaAccess
from lmi_chat.observability import startup
from lmi_chat.observability.access_log import LogWriter, RequestListener, RequestLog
from lmi_chat.observability.tracing import BadTracing, Tracing, find_target, open_tracing
from lmi_chat.pipeline.pipeline import Pipeline, PipelineConfig
from lmi_chat.pipeline.rates import Rates
from lmi_chat.server import adapters, default_model, model_folder, s3_model, terminal
from lmi_chat.server.children import end_children
from lmi_chat.storage.completions import Completions
from lmi_chat.storage.sessions import Sessions
from lmi_chat.template_trial import Endless, Trial
from lmi_chat.text import echo, one_line

TASKS: Mapping[str, Mapping[str, str]] = {
    "auto": {},
    "text-generation": {"runner": "generate"},
    "text-embedding": {"runner": "pooling", "convert": "embed"},
    **{name: {"runner": "pooling"} for name in ("text-classification", "token-classification", "reranking")},
    "automatic-speech-recognition": {"runner": "generate"},
}
TRACES, TRACES_PROTOCOL = "otlp_traces_endpoint", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
ALSO_IN_S3 = frozenset({"tokenizer", "hf_config_path"})
"""Arguments of the engine that name a folder or hub id, as the model does."""

FINAL = ("ValueError: ", "ValidationError: ", "ImportError: ", "ModuleNotFoundError: ", "NotImplementedError: ")
"""Exceptions by which the engine's processes refuse a configuration or a model: the next start would end so too."""
WATCH_S, LAST_WORDS_S = 0.2, 0.5


class StartFailed(Exception):
    """The model could not be served; the message is one sentence."""


async def load(
    settings: Settings,
    pipeline: Pipeline,
    enter: Callable[[str], None],
    store: Completions | None = None,
    *,
    reach: Callable[[float], None] = lambda _: None,
) -> Engine:
    """Start the engine and open `pipeline`. Raises StartFailed.

    `enter` is called with each phase as it begins, `reach`, from another thread, with how much of it is done, where
    that is known (0 to 1).
    """
    secure = secure_mode.of(environment(), MODEL_FOLDER)
    if secure:
        secure.check_settings(settings)
    source = _template_source(settings)
    parsers = _parsers(settings, source)
    _template_defaults(settings)
    try:
        engine_vllm.check_installed()  # before hundreds of megabytes are fetched for it
    except engine_vllm.StartFailed as error:
        raise StartFailed(str(error)) from error
    in_folders = partial(_fetched, settings, enter, reach)
    folder = await in_folders(await _model_folder(settings, enter))
    names, cache = _names(settings, folder), _default_cache(settings, folder)
    given = await _given(settings, folder, secure, in_folders)
    given |= {"served_model_name": json.dumps(names[:1]), **cache}
    arguments.prepare_environment(given, _safe_ports(settings))
    loop, trial = asyncio.get_running_loop(), Trial()

    def enter_soon(phase: str) -> None:
        loop.call_soon_threadsafe(enter, phase)

    try:
        load_engine = partial(
            engine_vllm.load,
            trial_limits=TrialLimits(settings.guide_compile_seconds, settings.max_trials),
            has_fast_branch=settings.fast_branch,
            fits_cache=bool(cache),
            parsers=parsers,
        )
        await trial.start()
        engine = await _start(settings, load_engine, given, names, enter_soon)
        await engine.open()
        template = source or engine.model.chat_template or None
        await _try_template(trial, engine.model, None if engine.model.pooler else template)
        deployment = await asyncio.to_thread(_deployment, settings, engine.model, names[1:], store, source)
        enter(startup.FIRST_EMBEDDING if engine.model.pooler else startup.FIRST_TOKEN)
        registry = await adapters.open_registry(settings, engine, folder, pipeline.formatters)
        if registry is not None:
            _close_at_end(registry.delete_files)
        await pipeline.open(engine, deployment, registry)
    except engine_vllm.StartFailed as error:
        raise StartFailed(f"{error}{_origins(settings, str(error))}") from error
    except Endless as error:
        raise StartFailed(f"the chat template {error}") from error
    except (BadTemplate, Error) as error:
        raise StartFailed(str(error)) from error
    finally:
        await trial.stop()
    if store:
        store.tidy()
    enter(startup.READY)
    if engine.model.parsers_said:
        terminal.print_status(engine.model.parsers_said)
    return engine


async def _given(
    settings: Settings, folder: str, secure: SecureMode | None, in_folders: Callable[[str], Awaitable[str]]
) -> dict[str, str]:
    """Assemble the engine's arguments for the model in `folder`, which is checked. Raises StartFailed, BadSetting."""
    given = {**_of_task(settings), **adapters.arguments(settings), **settings.engine}
    given = _with_traces(given)
    given |= {name: await in_folders(given[name]) for name in ALSO_IN_S3 & given.keys()}
    given |= await asyncio.to_thread(_check_model, folder, given, secure)
    # a beam search asks the engine for twice as many alternatives as it has beams
    most = max(settings.limits.max_logprobs, 2 * settings.limits.max_n)
    return {**given, "max_logprobs": str(most), "model": folder, **_default_dtype(settings, folder)}


def _check_model(folder: str, given: Mapping[str, str], secure: SecureMode | None) -> Mapping[str, str]:
    """Check the model's files, and return what arguments secure mode adds. Raises StartFailed, BadSetting."""
    added: Mapping[str, str] = {}
    if secure:
        secure.check_files(Path(folder), *(Path(given[name]) for name in ALSO_IN_S3 & given.keys()))
        added = secure.arguments(is_folder=Path(folder).is_dir(), engine=given)
    try:
        model_folder.check(folder, {**given, **added})
    except model_folder.BadModelFolder as error:
        raise StartFailed(str(error)) from error
    return added


async def _try_template(trial: Trial, model: Model, source: str | None) -> None:
    """Have the first chats rendered where a template that never ends can be killed. Raises Endless."""
    variables = {**getattr(model.tokenizer, "special_tokens_map", {}), "tools": None, "documents": None}
    texts = (
        [] if model.chat else [jinja_text(model.tokenizer, source, has_tools=has_tools) for has_tools in (False, True)]
    )
    for text in dict.fromkeys(texts):
        if text is not None:
            await trial.run(text, variables, first_chats())


async def _start(
    settings: Settings,
    load_engine: Callable[[Mapping[str, str], tuple[str, ...], Callable[[str], None]], Engine],
    given: Mapping[str, str],
    names: tuple[str, ...],
    enter: Callable[[str], None],
) -> Engine:
    """Start the engine, again where its processes died, `start_attempts` times in all. Raises StartFailed.

    What is wrong with the settings or the model would be wrong the next time too, and is not tried again.
    """
    most = settings.start_attempts
    for attempt in range(1, most + 1):
        try:
            return await asyncio.to_thread(load_engine, given, names, enter)
        except engine_vllm.EngineDied as error:
            end_children()
            found = await asyncio.to_thread(_cause)
            text = f"{error}{f'; {found}' if found else ''}"
            if attempt == most or found.startswith(FINAL):
                tries = f" ({most} tries)" if attempt == most > 1 else ""
                raise engine_vllm.StartFailed(text + tries) from error
            terminal.print_status(f"{text}; starting it again ({attempt + 1} of {most})")
            enter = _pass_over
    raise AssertionError("start_attempts is at least 1")


def _cause() -> str:
    """Return the exception that the engine's processes wrote of, where their lines are held back."""
    held = terminal.held()
    return one_line(terminal.cause(held.news()), 400) if held else ""


def _pass_over(_phase: str) -> None:
    """Enter no phase again: progress goes forward only."""


async def gone(engine: Engine, line: Pipeline) -> bool:
    """Wait for the engine's end and fail its running answers; True, for who waits for something else too.

    What has failed needs LAST_WORDS_S to reach its clients before the process ends.
    """
    while not engine.is_dead:  # noqa: ASYNC110 the engine tells it by a flag only
        await asyncio.sleep(WATCH_S)
    line.fail_all(EngineDown("the engine is gone"))
    return True


def _origins(settings: Settings, text: str) -> str:
    """List the origins of the engine's settings that `text` names, in brackets."""
    words = set(re.findall(r"[a-z_]+", text.replace("-", "_")))
    named = [f"{name}: {settings.origins[name]}" for name in settings.engine if words & {name, f"__{name}"}]
    return f" ({'; '.join(named)})" if named else ""


def _safe_ports(settings: Settings) -> list[int]:
    """Return the ports that SageMaker leaves to a container beside the one that it sends requests to."""
    low, _, high = settings.safe_port_range.partition("-")
    return [port for port in range(int(low), int(high) + 1) if port != settings.port] if low else []


def _of_task(settings: Settings) -> Mapping[str, str]:
    """Translate LMI's `task` into engine arguments. Raises BadSetting where these are given too and disagree."""
    chosen = TASKS[settings.task]
    for name, value in chosen.items():
        if settings.engine.get(name, value) != value:
            given = f"task = {settings.task} and {name} = {one_line(settings.engine[name], 80)}"
            raise BadSetting(f"{given} are different kinds of model; keep one of them")
    return chosen


def _default_cache(settings: Settings, folder: str) -> Mapping[str, str]:
    """Choose the most that the engine's cache may take; nothing where somebody, or the engine, sets it."""
    if settings.origins.get(arguments.CACHE) != arguments.CACHE_ORIGIN:
        return {}
    share = int(settings.engine[arguments.CACHE])
    return {
        arguments.CACHE: str(min(share, default_model.CACHE_BYTES) if _is_default_model(settings, folder) else share)
    }


def _default_dtype(settings: Settings, folder: str) -> Mapping[str, str]:
    """Choose float32 for the default model on a CPU, where nobody sets it: so small a model errs in bfloat16."""
    is_ours = _is_default_model(settings, folder) and "dtype" not in settings.engine
    return {"dtype": "float32"} if is_ours and arguments.is_cpu() else {}


def _is_default_model(settings: Settings, folder: str) -> bool:
    return not settings.model_id and folder != str(MODEL_FOLDER)


async def _model_folder(settings: Settings, enter: Callable[[str], None]) -> str:
    """Find the model to serve: the configured one, else SageMaker's folder, else the default one, fetched once."""
    if settings.model_id:
        return settings.model_id
    if is_model(MODEL_FOLDER):
        return str(MODEL_FOLDER)
    target = default_model.folder()
    if not default_model.is_present(target):
        enter(startup.FETCHING)
        # a process of its own: the conversion takes over a gigabyte, which goes with it
        fetching = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lmi_chat", "fetch-model", stderr=terminal.stream()
        )
        try:
            if await fetching.wait():
                raise StartFailed("the default model could not be fetched; the lines above say why")
        finally:
            if fetching.returncode is None:
                fetching.terminate()
    return str(target)


async def _fetched(settings: Settings, enter: Callable[[str], None], reach: Callable[[float], None], named: str) -> str:
    """Return the folder of what stands in S3, fetched once; any other name as it is. Raises StartFailed."""
    if not is_in_s3(named):
        return named
    enter(startup.FETCHING)
    place = settings.engine.get("download_dir")
    try:
        return str(await asyncio.to_thread(s3_model.fetch, named, Path(place) if place else None, reach))
    except FetchFailed as error:
        raise StartFailed(str(error)) from error


def _names(settings: Settings, folder: str) -> tuple[str, ...]:
    """List what the model is called, the name of its replies first."""
    own = Path(folder).name if Path(folder).is_dir() else folder
    configured = listed(settings.served_model_name)
    return tuple(dict.fromkeys((*configured, own) if configured else (own, "lmi")))


def open_store(settings: Settings) -> Completions | None:
    """Open the stored completions, if a file is configured. Raises BadSetting for a file that can never be one."""
    if not settings.store:
        return None
    path = Path(settings.store)
    if path.is_dir() or not path.parent.is_dir():
        raise BadSetting(f"store must be a file in a folder that exists, got {one_line(settings.store, 200)}")
    store = Completions(path, settings.store_limits)
    _close_at_end(store.close)
    return store


_closing: list[Callable[[], object]] = []


def _close_at_end(close: Callable[[], object]) -> None:
    if not _closing:
        atexit.register(close_files)
    _closing.append(close)


def close_files() -> None:
    """Close what was opened for the whole of a process's life, after the last answer; both surfaces end this way."""
    while _closing:
        _closing.pop()()


def open_async_requests(settings: Settings, pipeline: Pipeline) -> AsyncRequests | None:
    """Open the asynchronous requests, if a folder is configured. Raises BadSetting."""
    if not settings.async_folder:
        return None
    path = Path(settings.async_folder)
    if not path.is_dir():
        raise BadSetting(f"async_folder must be a folder that exists, got {one_line(settings.async_folder, 200)}")
    most, at_once = settings.async_queue_size, settings.async_concurrency
    return AsyncRequests(pipeline, Folder(path), most=most, at_once=at_once, max_body_bytes=settings.max_request_size)


def cross_origin(settings: Settings) -> CrossOrigin | None:
    """Read whose pages may ask from a browser; None where none may. Raises BadSetting."""
    origins = listed(settings.allowed_origins)
    if not origins:
        return None
    if settings.allow_credentials and "*" in origins:
        origin = settings.origins.get("allow_credentials", "default")
        raise BadSetting(f"{origin}: allow_credentials must be false where allowed_origins has *; name the origins")
    return CrossOrigin(
        origins=origins,
        methods=listed(settings.allowed_methods),
        headers=listed(settings.allowed_headers),
        has_credentials=settings.allow_credentials,
    )


def api_keys(settings: Settings) -> ApiKeys | None:
    """Read the API keys that requests must carry, if there are any. Raises BadSetting."""
    keys = keys_of(settings.api_key, settings.api_key_file)
    return ApiKeys(keys) if keys else None


def _template_source(settings: Settings) -> str | None:
    """Read the configured chat template: a file, its text, or a name among the model's. Raises BadSetting.

    A relative path may start in the model's folder, which is the current one under DJL Serving.
    """
    source = settings.chat_template
    if not source or "{" in source:
        return source or None
    places = [Path(source), Path(settings.model_id or MODEL_FOLDER, source)]
    path = next((place for place in places if place.is_file()), None)
    if path is None and source.isidentifier():
        return source
    try:
        return (path or places[0]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        shown = f"{one_line(source, 200)} ({reason})"
        raise BadSetting(f"chat_template must be a file with a template or the template's text, got {shown}") from error


def _parsers(settings: Settings, template: str | None) -> ParserSettings:
    """Read what is said of parsers. Raises BadSetting for a name that the engine does not have, with the nearest."""
    parsers = ParserSettings(
        tool=settings.tool_call_parser,
        reasoning=settings.reasoning_parser,
        tool_plugin=_plugin(settings, settings.tool_parser_plugin),
        reasoning_plugin=_plugin(settings, settings.reasoning_parser_plugin),
        template=template,
    )
    try:
        parser_setup.check_names(parsers)
    except BadParser as error:
        origin = settings.origins.get(str(error).split(maxsplit=1)[0], "default")
        raise BadSetting(f"{origin}: {error}") from error
    return parsers


def _template_defaults(settings: Settings) -> Mapping[str, Any]:
    """Read the variables that every chat has. Raises BadSetting."""
    key, text = "default_chat_template_kwargs", settings.default_chat_template_kwargs
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    wrong = f"must be a JSON object, got {echo(text)}" if not isinstance(found, dict) else ""
    if not wrong and (taken := sorted(RESERVED & found.keys())):
        wrong = f"must not have the name of what every template gets, got {echo(taken[0])}"
    if wrong:
        raise BadSetting(f"{settings.origins.get(key, 'default')}: {key} {wrong}")
    return dict(found)


def _plugin(settings: Settings, plugin: str) -> str:
    """Find a plugin's file, whose relative path may start in the model's folder; a module's name stays."""
    path = Path(settings.model_id or MODEL_FOLDER, plugin)
    return str(path) if plugin and not Path(plugin).is_file() and path.is_file() else plugin


def _variables(settings: Settings) -> frozenset[str]:
    """Name what a request may set for the template beside what it reads."""
    named = settings.chat_template_kwargs.replace(",", " ").split()
    return frozenset((*named, *_template_defaults(settings))) - RESERVED


def _deployment(
    settings: Settings, model: Model, aliases: tuple[str, ...], store: Completions | None, source: str | None
) -> Deployment:
    deployment = Deployment(
        model=model.name,
        names=model.names | (PLACEHOLDERS if settings.tgi_compat else frozenset()),
        aliases=aliases,
        # of a model that pools it writes pairs of texts, not chats
        template=Template(model.tokenizer, None if model.pooler else source or model.chat_template or None, model.chat),
        context_tokens=model.context_tokens,
        vocabulary_tokens=model.vocabulary_tokens,
        limits=settings.limits,
        defaults=model.defaults,
        is_strict=settings.strict_requests,
        is_tgi=settings.tgi_compat,
        template_variables=_variables(settings),
        template_defaults=_template_defaults(settings),
        streams_by_default=settings.output_formatter in {"jsonlines", "sse"},
        finish_words=LMI_FINISH if settings.finish_reason == "lmi" else None,
        fingerprint=model.fingerprint,
        engine_version=model.version,
        has_priority=model.has_priority,
        pooler=model.pooler,
        pairs=model.pairs(source) if model.pairs else None,
        speech=model.speech,
        is_normalized={"true": True, "false": False}.get(settings.normalize),
        tool_parser=model.tool_parser,
        reasoning_parser=model.reasoning_parser,
        reasoning_fields=get_args(ReasoningField)
        if settings.reasoning_field == "both"
        else (settings.reasoning_field,),
        calls_tools=settings.enable_auto_tool_choice,
        media=Media(model.media, Fetcher(_media_access(settings), settings.media), source) if model.media else None,
        shows_uncalled=not settings.exclude_tools_when_tool_choice_none,
        tool_strict_level=settings.tool_strict_level,
        save=store.save if store else None,
        load=store.load if store else None,
    )
    dialects.prepare(deployment)
    return deployment


def _media_access(settings: Settings) -> MediaAccess:
    """Read where media may come from."""
    return MediaAccess(
        hosts=frozenset(name.lower() for name in listed(settings.allowed_media_domains)),
        networks=tuple(map(ip_network, settings.allowed_media_networks.replace(",", " ").split())),
        folder=Path(settings.allowed_local_media_path) if settings.allowed_local_media_path else None,
    )


def open_console(settings: Settings) -> Console | None:
    """Open the console's memory; None where it is off."""
    if not settings.console:
        return None
    shown: list[ConfigRow] = [
        {"name": name, "value": value, "origin": origin, "effect": effect}
        for name, value, origin, effect in describe.rows(settings)
    ]
    return Console(settings.console_requests, shown)


def pipeline_config(
    settings: Settings, formatters: Formatters | None = None, listener: RequestListener | None = None
) -> PipelineConfig:
    """Build the pipeline's configuration; `formatters` are the deployment's own formatters.

    `listener` hears of requests, as the log does.
    """
    return PipelineConfig(
        **asdict(settings.pipeline),
        output_formatter=settings.output_formatter,
        sessions=_sessions(settings),
        limits=settings.limits,
        formatters=formatters or Formatters(),
        request_log=open_request_log(settings, listener),
        rates=Rates(settings.rates),
        cache_salt_by=settings.cache_salt_by,
        turns_by=settings.turns_by,
        shows_cached_tokens=settings.show_cached_tokens,
        warns_in_attributes=settings.warnings_in_attributes,
        metered_by=settings.inference_metering,
    )


def open_request_log(settings: Settings, listener: RequestListener | None = None) -> RequestLog:
    """Open the request log on standard output or standard error; CloudWatch's metrics go into the same lines."""
    has_requests = settings.access_log != "off"
    tracing = _tracing(settings)
    if not has_requests and not settings.cloudwatch_emf:
        return RequestLog(tracing=tracing, listener=listener)
    writer = LogWriter(terminal.descriptor(terminal.ERR if settings.access_log == "stderr" else terminal.OUT))
    _close_at_end(writer.close)
    return RequestLog(
        writer.write,
        has_requests=has_requests,
        has_metrics=settings.cloudwatch_emf,
        tracing=tracing,
        listener=listener,
    )


def _tracing(settings: Settings) -> Tracing | None:
    """Begin to trace, where settings or environment say where to. Raises BadSetting."""
    try:
        tracing = open_tracing(settings.engine.get(TRACES, ""), environment())
    except BadTracing as error:
        raise BadSetting(f"{TRACES}: {error}") from error
    if tracing is not None:
        _close_at_end(tracing.close)
    return tracing


def _with_traces(given: Mapping[str, str]) -> dict[str, str]:
    """Let the engine's own spans go where the requests' do, by the same protocol, or nowhere."""
    chosen = find_target(given.get(TRACES, ""), environment())
    if chosen is None:
        return {name: text for name, text in given.items() if name != TRACES}
    os.environ.setdefault(TRACES_PROTOCOL, chosen.protocol)
    return {**given, TRACES: chosen.endpoint} if chosen.endpoint else {**given}


def _sessions(settings: Settings) -> Sessions | None:
    if not settings.enable_stateful_sessions:
        return None
    return Sessions(
        seconds=settings.sessions_expiration, most=settings.max_sessions, most_bytes=settings.max_session_bytes
    )
