"""Run vLLM behind the Engine protocol; vLLM is imported inside `load` only, because the import takes 12 s.

The general path: vLLM's own `AsyncLLM.add_request`, whose output collector hands each output straight to the job's sink
(no task is woken per token); what is plain goes past it (fast_path). Leans on: `add_request` returning the collector,
its `put` being called from the output loop and its `output` holding what came before. A test asserts these.
"""

import asyncio
import gc
import importlib.util
import json
import logging
import re
import signal
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from functools import cache, partial
from typing import Any

from lmi_chat.engine import Model, Run, beam_search
from lmi_chat.engine.vllm import (
    adapters,
    chat,
    harmony,
    kv_cache,
    media,
    pairs,
    parser_setup,
    pooling,
    preload,
    sampling,
    speech,
)
from lmi_chat.engine.vllm import arguments as engine_arguments
from lmi_chat.engine.vllm.arguments import READ_ONLY, words
from lmi_chat.engine.vllm.errors import translate
from lmi_chat.engine.vllm.fast_path import detokenizer, gathered, output_loop, output_processor, submission
from lmi_chat.engine.vllm.heartbeat import Heartbeat
from lmi_chat.engine.vllm.parser_setup import BY_MODEL, BadParser, Parsers, ParserSettings
from lmi_chat.engine.vllm.parsing import parsers as parser_sets
from lmi_chat.engine.vllm.parsing.parsers import Parsing
from lmi_chat.engine.vllm.parsing.sequences import ParsingSink
from lmi_chat.engine.vllm.request import Outputs
from lmi_chat.engine.vllm.structured_output import tool_grammar, trials
from lmi_chat.engine.vllm.structured_output.trials import TrialLimits
from lmi_chat.engine.vllm.vocabulary import Vocabulary
from lmi_chat.errors import Error
from lmi_chat.job import Adapter, Job, OutputConstraint, Sink, TokenSink
from lmi_chat.observability import startup
from lmi_chat.text import echo, one_line

NO_JSON = re.compile(
    r"argument --(?P<name>[\w-]+).*?: .*?"
    r"(?:Value (?P<value>.*) cannot be converted to <function loads"
    r"|Invalid JSON: .*input_value='(?P<short>.*)', input_type)",
    re.DOTALL,
)
"""How argparse tells that a value is not JSON: by the name of a function, or as pydantic does."""
STOP_S = 1.5
COLLECT_AFTER = 10_000
"""Objects that may come before Python looks for cycles: a request makes two thousand, and leaves hardly any."""
PROCESS_ENDED = re.compile(r"core initialization failed|process failed during engine core initialization")
EXIT_CODES = re.compile(r"'[^']+': (-?\d+)")
STRUCTURED = "structured_outputs_config"
log = logging.getLogger(__name__)


class StartFailed(Exception):
    """The engine could not start; the message is one sentence."""


class EngineDied(StartFailed):
    """One of the engine's processes ended while it started; a second start may go well."""


class Vllm:
    """One AsyncLLM and the model it serves."""

    def __init__(  # noqa: PLR0913 each is made by `load`
        self,
        engine: Any,
        model: Model,
        heartbeat: Heartbeat,
        tried: trials.Trials,
        plain: dict[str, output_processor.FastRequest] | None,
        parsing: Parsing | None = None,
        hearing: speech.Speech | None = None,
        *,
        submitting: submission.Submission | None = None,
        is_traced: bool = False,
    ) -> None:
        """Serve `model` by `engine`; use `load`. `plain`: the requests of the fast branch, or None where it is off.

        `submitting`: what sends them, None for vLLM's own way. `is_traced`: the engine has spans of its own.
        """
        self.model = model
        self._engine = engine
        self._heartbeat = heartbeat
        self._trials = tried
        self._tools = tool_grammar.load(model, is_compact=tried.is_compact) if model.tool_parser else None
        self._vocabulary = Vocabulary(model.tokenizer)
        self._plain, self._spelling = plain, detokenizer.of(model.tokenizer)
        self._submission = submitting
        self._parsing, self._speech = parsing, hearing
        self._is_traced = is_traced

    @property
    def is_dead(self) -> bool:
        """Whether the engine's process or its output loop is gone."""
        return bool(self._engine.errored)

    @property
    def stepped_at(self) -> float:
        """Time of the last step that the scheduler reported."""
        return self._heartbeat.stepped_at

    async def open(self) -> None:
        """See Engine.open. Whether a model embeds, classifies or both, its own code tells in another process."""
        config = self._engine.model_config
        if config.runner_type != "pooling":
            return
        task = config.get_pooling_task(await self._engine.get_supported_tasks())
        if task not in pooling.TASKS:
            raise StartFailed(f"the model pools by {task or 'no task'}; served are {', '.join(pooling.TASKS)}")
        is_paired = task == "classify"
        self.model = replace(
            self.model,
            pooler=pooling.spec(config, task),
            pairs=pairs.of(self._engine) if is_paired else None,
        )

    async def check(self, job: Job) -> None:
        """See Engine.check."""
        if constraint := self._constraint(job):
            await self._trials.check(constraint)

    def _constraint(self, job: Job) -> OutputConstraint | None:
        """Say what the text must fit: the form that was asked for, calls of tools, or either. Raises BadField."""
        if self._tools is None or job.parsing is None:
            return job.sampling.constraint
        try:
            return self._tools.constraint(job.parsing, job.sampling.constraint)
        except Error:
            raise
        except Exception as error:
            raise translate(error) from error

    @asynccontextmanager
    async def run(self, job: Job, sink: Sink, token_sink: TokenSink | None = None) -> AsyncIterator[Run]:
        """See Engine.run."""
        if job.trace_headers and not self._is_traced:
            job = replace(job, trace_headers=None)
        if job.pooling:
            async with pooling.run(self._engine, job, job.pooling, sink) as pool:
                yield pool
            return
        if job.beams:
            ends = frozenset[int]() if job.sampling.ignore_eos else self.model.end_ids
            async with beam_search.run(self.run, job, sink, ends) as search:
                yield search
            return
        run = await self._begin(job, sink, token_sink)
        try:
            yield run
        finally:
            await run.close()

    async def _begin(self, job: Job, sink: Sink, token_sink: TokenSink | None) -> Outputs:
        """Hand `job` to the engine. Raises an Error where it refuses it."""
        form = self._constraint(job)
        constraint = self._trials.params(form) if form else None
        try:
            prompt: Any = {"type": "token", "prompt_token_ids": job.prompt_ids, "prompt": job.prompt_text}
            if job.media is not None:
                prompt = dict(job.media.features)
            if job.cache_salt:
                prompt["cache_salt"] = job.cache_salt
            if job.speech is not None and self._speech is not None:
                prompt, sink, token_sink = await self._speech.prompt(job.speech, job), self._speech.sink(sink), None
            reasoning = self._parsing.engine_arguments(job) if form and self._parsing else {}
            if job.parsing and self._parsing:
                sink = ParsingSink(self._parsing, self._vocabulary, job, sink)
                job, token_sink = sink.job, None
            run = self._outputs(job, sink, token_sink)
            if isinstance(run, output_processor.FastRequest) and await self._submit(job, run):
                return run
            params = sampling.params(job.sampling, constraint, has_text=run.has_text)
            options = reasoning if job.adapter is None else reasoning | {"lora_request": adapters.request(job.adapter)}
            if job.trace_headers:
                options = options | {"trace_headers": job.trace_headers}
            collector = await self._engine.add_request(job.id, prompt, params, priority=job.priority, **options)
        except Exception as error:
            raise translate(error) from error
        run.begin(collector, partial(self._engine.abort, collector.request_id, internal=True))
        return run

    async def _submit(self, job: Job, run: output_processor.FastRequest) -> bool:
        return self._submission is not None and await self._submission.send(job, run)

    def _outputs(self, job: Job, sink: Sink, token_sink: TokenSink | None) -> Outputs:
        if (
            token_sink is None
            or self._plain is None
            or self._spelling is None
            or not self._spelling.fits(job.prompt_ids)
            or not output_processor.is_plain(job.sampling, token_sink)
        ):
            return Outputs(job, sink, self._vocabulary)
        return output_processor.FastRequest(job, sink, self._vocabulary, self._spelling, token_sink, self._plain)

    async def add_adapter(self, adapter: Adapter) -> None:
        """See Engine.add_adapter."""
        await adapters.add(self._engine, adapter)

    async def remove_adapter(self, adapter: Adapter) -> None:
        """See Engine.remove_adapter."""
        await adapters.remove(self._engine, adapter)

    async def pin_adapter(self, adapter: Adapter) -> None:
        """See Engine.pin_adapter."""
        await adapters.pin(self._engine, adapter)

    async def list_adapters(self) -> set[int]:
        """See Engine.list_adapters."""
        return await adapters.ids(self._engine)

    def kv_event_sources(self) -> Mapping[str, Mapping[str, Any]]:
        """See Engine.kv_event_sources."""
        return {str(rank): asdict(config) for rank, config in self._engine.get_kv_event_sources().items()}

    async def stop(self) -> None:
        """End EngineCore and its workers; vLLM's own wait is cut to the time that SIGTERM leaves."""
        self._trials.stop()
        await asyncio.to_thread(self._engine.shutdown, STOP_S)


def check_installed() -> None:
    """Look for vLLM without importing it. Raises StartFailed where it is missing."""
    if importlib.util.find_spec("vllm") is None:
        raise _not_installed("No module named 'vllm'")


def _not_installed(why: str) -> StartFailed:
    return StartFailed(f"no engine is installed ({one_line(why, 200)}); `make install` installs one")


def load(  # noqa: PLR0913 each is decided elsewhere
    arguments: Mapping[str, str],
    names: tuple[str, ...],
    on_phase: Callable[[str], object],
    *,
    trial_limits: TrialLimits,
    has_fast_branch: bool,
    addresses: Mapping[str, Any] | None = None,
    fits_cache: bool = False,
    parsers: ParserSettings = BY_MODEL,
) -> Vllm:
    """Import vLLM, start its processes and wait until the weights are in. Blocks for tens of seconds: use a thread.

    `arguments` are engine arguments by name, values as text; `names`: accepted model names; replies carry the first.
    `has_fast_branch`: plain requests may take it. `fits_cache`: kv_cache_memory_bytes is an upper bound, and the
    cache takes less where it can use less. `addresses` (vLLM's client_addresses) are those of an engine that runs
    already. `parsers`: of tool calls and reasoning. Raises StartFailed, EngineDied where another try may help.
    """
    on_phase(startup.IMPORTING)
    try:
        with preload.importing():
            from vllm import envs
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise _not_installed(str(error)) from error

    on_phase(startup.STARTING)
    media.install()
    heartbeat = Heartbeat()
    warnings.filterwarnings("ignore", message=READ_ONLY, category=UserWarning)  # here it is too late for the variable
    try:
        parser_setup.load_plugins(parsers)
        args = AsyncEngineArgs.from_cli_args(_parse(_keep_separate(_choose_backend(arguments))))
        _check_load_format(args)
        usage = UsageContext.OPENAI_API_SERVER
        config = args.create_engine_config(usage)
        if fits_cache:
            kv_cache.fit(config)
        chosen = parser_setup.set_up(config, parsers)
        parsing = parser_sets.load(config.model_config, chosen.tool, chosen.reasoning)
        engine = AsyncLLM.from_vllm_config(
            config,
            usage_context=usage,
            stat_loggers=[heartbeat, *gathered.loggers()],
            enable_log_requests=args.enable_log_requests,
            disable_log_stats=args.disable_log_stats,
            client_addresses=dict(addresses) if addresses else None,
        )
    except BadParser as error:
        raise StartFailed(str(error)) from error
    except (ValueError, RuntimeError, OSError, parser_sets.UnfitError) as error:
        raise ended(error) from error
    envs.enable_envs_cache()
    if harmony.is_spoken(engine.model_config):
        harmony.complete_end_ids(engine)
    engine.renderer.get_eos_token_id = cache(engine.renderer.get_eos_token_id)  # asked for each request
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    plain = submitting = None
    if has_fast_branch:
        plain = output_processor.install(engine)
    if plain is not None:
        output_loop.install(engine, heartbeat, plain)
        submitting = submission.of(engine)
    hearing = speech.of(engine)
    model = _describe(engine, names, chosen, hearing)
    tried, is_traced = trials.load(engine, trial_limits), args.otlp_traces_endpoint is not None
    return Vllm(engine, model, heartbeat, tried, plain, parsing, hearing, submitting=submitting, is_traced=is_traced)


def ended(error: Exception) -> StartFailed:
    """Translate what vLLM raises where it does not start: EngineDied where a process of its own ended."""
    text = str(error)
    if PROCESS_ENDED.search(text):
        return EngineDied(f"the engine did not start: {_how_it_ended(text)}")
    return StartFailed(f"the engine did not start: {one_line(text, 600)}")


def _how_it_ended(text: str) -> str:
    """Say how the engine's processes ended, from vLLM's own account: a dictionary of names and exit codes."""
    codes = [int(code) for code in EXIT_CODES.findall(text)]
    signals = [signal.Signals(-code).name for code in codes if -code in {*signal.Signals}]
    if signals:
        hint = ", as for want of memory" if "SIGKILL" in signals else ""
        return f"its process was ended by {signals[0]}{hint}"
    return f"its process ended with code {codes[0]}" if codes else "its process ended"


def _keep_separate(arguments: Mapping[str, str]) -> Mapping[str, str]:
    """Keep adapters out of the model's own answers on a CPU (cpu_lora.py). Raises StartFailed where that cannot be."""
    if arguments.get("enable_lora", "").lower() != "true" or not engine_arguments.is_cpu():
        return arguments
    if arguments.get("worker_extension_cls", "") not in ("", engine_arguments.SMALL_QUEUES):
        given = echo(arguments["worker_extension_cls"])
        raise StartFailed(f"worker_extension_cls must be unset with enable_lora on a CPU, got {given}")
    return {**arguments, "worker_extension_cls": engine_arguments.SEPARATE}


def _choose_backend(arguments: Mapping[str, str]) -> Mapping[str, str]:
    """Choose the backend that constraints are tried with. Raises StartFailed where another is configured.

    It stands there before vLLM parses the rest, some of which it takes beside this backend alone.
    """
    try:
        config = json.loads(arguments.get(STRUCTURED, "{}"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise StartFailed(f"{STRUCTURED} must be a JSON object, got {echo(arguments[STRUCTURED])}")
    if (backend := config.get("backend", "auto")) not in ("auto", trials.BACKEND):
        raise StartFailed(f"{STRUCTURED}.backend must be auto or {trials.BACKEND}, got {echo(backend)}")
    return {**arguments, STRUCTURED: json.dumps(config | {"backend": trials.BACKEND})}


def _parse(arguments: Mapping[str, str]) -> Any:
    """Parse arguments by vLLM's own parser, which knows each one's type and choices."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> Any:
            raise StartFailed(f"an engine setting has a bad value: {one_line(_in_words(message), 400)}")

    parser = AsyncEngineArgs.add_cli_args(Parser())
    actions = {action.dest: action for action in parser._actions}  # noqa: SLF001 argparse has no public list
    for name in arguments.keys() - actions.keys():
        raise StartFailed(f"the engine takes no {name} from a configuration")
    return parser.parse_args([word for name, text in arguments.items() for word in words(name, text, actions[name])])


def _in_words(complaint: str) -> str:
    """Say what argparse complains of by the setting's name and the value; JSON's reader is a function there."""
    found = NO_JSON.search(complaint)
    if not found:
        return complaint
    example = ' such as {"image": 4}' if found["name"] == "limit-mm-per-prompt" else ""
    return f"{found['name'].replace('-', '_')} must be JSON{example}, got {found['value'] or found['short']!r}"


def _check_load_format(args: Any) -> None:
    """Refuse a format that no loader has, plugins' ones included. Raises StartFailed."""
    from vllm.model_executor import model_loader

    known = model_loader._LOAD_FORMAT_TO_MODEL_LOADER  # noqa: SLF001 vLLM tells it by an error in another process only
    if args.load_format not in known:
        formats = ", ".join(sorted(known))
        raise StartFailed(f"load_format must be one of {formats}, got {one_line(args.load_format, 80)!r}")


def _describe(engine: Any, names: tuple[str, ...], parsers: Parsers, hearing: speech.Speech | None) -> Model:
    config = engine.model_config
    import vllm

    return Model(
        name=names[0],
        names=frozenset(names),
        tokenizer=engine.get_tokenizer(),
        context_tokens=config.max_model_len,
        vocabulary_tokens=config.get_vocab_size(),
        # each engine that is served here (data parallelism) has its own batch
        max_running=engine.vllm_config.scheduler_config.max_num_seqs * len(engine.engine_core.engine_ranks_managed),
        fingerprint=f"vllm-{vllm.__version__}-{str(config.dtype).removeprefix('torch.')}",
        version=vllm.__version__,
        # under "fcfs" vLLM takes any priority and passes it over
        has_priority=engine.vllm_config.scheduler_config.policy == "priority",
        speech=hearing.spec if hearing else None,
        chat=chat.of(engine),
        media=media.of(engine),
        chat_template=media.template(engine),
        tool_parser=parsers.tool,
        reasoning_parser=parsers.reasoning,
        parsers_said=parsers.said,
        adapters=adapters.limits(engine.vllm_config),
        defaults=config.get_diff_sampling_param(),
        end_ids=_end_ids(engine),
    )


def _end_ids(engine: Any) -> frozenset[int]:
    """Collect the tokenizer's end of sequence and those of the model's generation_config.json."""
    named = engine.input_processor.generation_config_fields.get("eos_token_id")
    several = named if isinstance(named, list) else [named]
    return frozenset(token for token in (engine.get_tokenizer().eos_token_id, *several) if token is not None)
