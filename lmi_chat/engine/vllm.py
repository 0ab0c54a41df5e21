"""vLLM behind the seam: the only file that imports it, and only inside `load`, because the import takes 12 s.

The general path: vLLM's own `AsyncLLM.add_request`, whose output collector hands each output straight to the job's sink
(no task is woken per token). Leans on: `add_request` returning the collector, its `put` being called from the output
loop and its `output` holding what came before. A test asserts these.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any

from lmi_chat.engine import Model, Run, beam, guides, pooling, quiet, sampling
from lmi_chat.engine.arguments import words
from lmi_chat.engine.failures import given_up, translate
from lmi_chat.engine.gauge import Gauge
from lmi_chat.engine.tokens import Vocabulary
from lmi_chat.errors import Bug, Error, one_line
from lmi_chat.job import Done, Finish, Job, Piece, Reason, Sink, Times, Token

STOP_S = 1.5
log = logging.getLogger(__name__)


class StartFailed(Exception):
    """The engine could not start; the message is one sentence."""


class Vllm:
    """One AsyncLLM and the model it serves."""

    def __init__(self, engine: Any, model: Model, gauge: Gauge, tried: guides.Guides) -> None:
        """Serve `model` by `engine`; use `load`."""
        self.model = model
        self._engine = engine
        self._gauge = gauge
        self._guides = tried
        self._vocabulary = Vocabulary(model.tokenizer)

    @property
    def is_dead(self) -> bool:
        """The engine's process or its output loop is gone."""
        return bool(self._engine.errored)

    @property
    def stepped_at(self) -> float:
        """When the scheduler last told of a step."""
        return self._gauge.stepped_at

    @asynccontextmanager
    async def run(self, job: Job, sink: Sink) -> AsyncIterator[Run]:
        """See Engine.run."""
        if job.pooling:
            async with pooling.run(self._engine, job, sink) as pool:
                yield pool
            return
        if job.beams:
            ends = frozenset[int]() if job.sampling.ignore_eos else self.model.end_ids
            async with beam.run(self.run, job, sink, ends) as search:
                yield search
            return
        if job.sampling.guide:
            await self._guides.check(job.sampling.guide)
        run = _Run(job, sink, self._vocabulary)
        prompt = {"type": "token", "prompt_token_ids": job.prompt_ids, "prompt": job.prompt_text}
        if job.cache_salt:
            prompt["cache_salt"] = job.cache_salt
        try:
            collector = await self._engine.add_request(
                job.id, prompt, sampling.params(job.sampling), priority=job.priority
            )
        except Exception as error:
            raise translate(error) from error
        run.abort = partial(self._engine.abort, collector.request_id, internal=True)
        collector.put = run.put
        if collector.output is not None:
            run.put(collector.output)
        try:
            yield run
        finally:
            if not run.is_over:
                run.is_over = True
                await asyncio.shield(run.abort())

    async def stop(self) -> None:
        """End EngineCore and its workers; vLLM's own wait is cut to what SIGTERM leaves us."""
        self._guides.stop()
        await asyncio.to_thread(self._engine.shutdown, STOP_S)


class _Run:
    """vLLM's outputs of one job → events."""

    def __init__(self, job: Job, sink: Sink, vocabulary: Vocabulary) -> None:
        self._sink, self._sampling = sink, job.sampling
        self._vocabulary = vocabulary
        self._top, self._prompt_top = job.sampling.logprobs, job.sampling.prompt_logprobs or 0
        self._prompt_logprobs: tuple[Token | None, ...] = ()
        self._reasons: list[Reason] = []
        self._cutting: asyncio.Task[None] | None = None
        self.completion_tokens = 0
        self.is_over = False
        self.abort: Callable[[], Coroutine[Any, Any, None]]

    def cut(self) -> None:
        """See Run.cut. vLLM answers an abort with a last output, which has the text held back for stop strings."""
        if not self.is_over and self._cutting is None:
            self._cutting = asyncio.create_task(self.abort())

    def put(self, output: Any) -> None:
        """Take one output from vLLM's loop; a failure here ends this job alone, never the loop."""
        if self.is_over:
            return
        try:
            if isinstance(output, Exception):
                self._end(translate(output))
            else:
                self._take(output)
        except Exception:
            log.exception("an output could not be rendered")
            self._end(Bug("internal error while the answer was written"))

    def _end(self, event: Done | Error) -> None:
        self.is_over = True
        self._sink(event)

    def _take(self, output: Any) -> None:
        prompt = self._read_prompt(output) if output.prompt_logprobs else ()
        self._prompt_logprobs = prompt or self._prompt_logprobs
        for part in output.outputs:
            self.completion_tokens += len(part.token_ids)
            if part.finish_reason == "error":
                self._end(given_up(self._sampling))
                return
            self._sink(self._piece(part, prompt))
        if output.finished:
            done = Done(
                prompt_tokens=len(output.prompt_token_ids),
                completion_tokens=self.completion_tokens,
                cached_tokens=output.num_cached_tokens or 0,
                prompt_logprobs=self._prompt_logprobs,
                reasons=tuple(self._reasons),
                times=_times(output.metrics),
            )
            self._end(done)

    def _piece(self, part: Any, prompt: tuple[Token | None, ...]) -> Piece:
        tokens: list[Token] = []
        if self._top is not None and part.logprobs:
            tokens = [
                self._token(token_id, entry, self._top)
                for token_id, entry in zip(part.token_ids, part.logprobs, strict=True)
            ]
        finish = None
        if part.finish_reason is not None:
            given_up: Reason = "abort" if self._cutting is None else "time_limit"
            reason: Reason = part.finish_reason if part.finish_reason in {"stop", "length"} else given_up
            self._reasons.append(reason)
            finish = Finish(reason, part.stop_reason)
        return Piece(part.index, part.text, list(part.token_ids), tokens, finish, prompt)

    def _token(self, token_id: int, entry: Mapping[int, Any], top: int) -> Token:
        """`entry` holds the chosen token and the `top` likeliest, each with its rank from 1."""
        ranked = sorted((item for item in entry.items() if item[1].rank <= top), key=lambda item: item[1].rank)
        choices = tuple(self._vocabulary.choice(other, logprob.logprob) for other, logprob in ranked)
        own = entry[token_id]
        return Token(self._vocabulary.choice(token_id, own.logprob), choices, own.rank or 0)

    def _read_prompt(self, output: Any) -> tuple[Token | None, ...]:
        pairs = zip(output.prompt_token_ids, output.prompt_logprobs, strict=False)
        return tuple(
            None if entry is None else self._token(token_id, entry, self._prompt_top) for token_id, entry in pairs
        )


def _times(stats: Any) -> Times | None:
    """Marks that vLLM keeps of a request, in seconds of the engine's clock; 0 where it came to none."""
    if stats is None or not stats.first_token_ts:
        return None
    return Times(
        queue_s=stats.scheduled_ts - stats.queued_ts,
        prefill_s=stats.first_token_ts - stats.scheduled_ts,
        decode_s=stats.last_token_ts - stats.first_token_ts,
    )


def load(
    arguments: Mapping[str, str],
    names: tuple[str, ...],
    on_phase: Callable[[str], object],
    *,
    guide_compile_s: float = 2.0,
    addresses: Mapping[str, Any] | None = None,
) -> Vllm:
    """Import vLLM, start its processes and wait until the weights are in. Blocks for tens of seconds: use a thread.

    `arguments` are engine arguments by name, values as text; `names` are the served names, the first one is answered
    with. `addresses` (vLLM's client_addresses) are those of an engine that runs already. Raises StartFailed.
    """
    on_phase("importing the engine")
    try:
        with quiet.importing():
            from vllm import envs
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise StartFailed(
            f"no engine is installed ({one_line(str(error), 200)}); `make install` installs one"
        ) from error

    on_phase("starting the engine and loading the weights")
    gauge = Gauge()
    try:
        args = AsyncEngineArgs.from_cli_args(_parse(arguments))
        _choose_backend(args)
        usage = UsageContext.OPENAI_API_SERVER
        engine = AsyncLLM.from_vllm_config(
            args.create_engine_config(usage),
            usage_context=usage,
            stat_loggers=[gauge],
            enable_log_requests=args.enable_log_requests,
            disable_log_stats=args.disable_log_stats,
            client_addresses=dict(addresses) if addresses else None,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise StartFailed(f"the engine did not start: {one_line(str(error), 600)}") from error
    envs.enable_envs_cache()
    engine.renderer.get_eos_token_id = cache(engine.renderer.get_eos_token_id)  # asked for each request
    gc.freeze()
    return Vllm(engine, _describe(engine, names), gauge, guides.load(engine, guide_compile_s))


def _choose_backend(args: Any) -> None:
    """The one that guides are tried with. Raises StartFailed where another is configured."""
    config = args.structured_outputs_config
    if config.backend not in {"auto", guides.BACKEND}:
        text = f"structured_outputs_config.backend must be auto or {guides.BACKEND}"
        raise StartFailed(f"{text}, got {one_line(config.backend, 80)}")
    config.backend = guides.BACKEND


def _parse(arguments: Mapping[str, str]) -> Any:
    """Arguments as text → vLLM's own parser, which knows each one's type and choices."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> Any:
            raise StartFailed(f"an engine setting has a bad value: {one_line(message, 400)}")

    parser = AsyncEngineArgs.add_cli_args(Parser())
    actions = {action.dest: action for action in parser._actions}  # noqa: SLF001 argparse has no public list
    for name in arguments.keys() - actions.keys():
        raise StartFailed(f"the engine takes no {name} from a configuration")
    return parser.parse_args([word for name, text in arguments.items() for word in words(name, text, actions[name])])


def _describe(engine: Any, names: tuple[str, ...]) -> Model:
    config = engine.model_config
    import vllm

    return Model(
        name=names[0],
        names=frozenset(names),
        tokenizer=engine.get_tokenizer(),
        context_tokens=config.max_model_len,
        vocabulary_tokens=config.get_vocab_size(),
        max_running=engine.vllm_config.scheduler_config.max_num_seqs,
        fingerprint=f"vllm-{vllm.__version__}-{str(config.dtype).removeprefix('torch.')}",
        # under "fcfs" vLLM takes any priority and passes it over
        has_priority=engine.vllm_config.scheduler_config.policy == "priority",
        space=pooling.space(config),
        defaults=config.get_diff_sampling_param(),
        end_ids=_end_ids(engine),
    )


def _end_ids(engine: Any) -> frozenset[int]:
    """The tokenizer's end of sequence, and those of the model's generation_config.json."""
    named = engine.model_config.try_get_generation_config().get("eos_token_id")
    several = named if isinstance(named, list) else [named]
    return frozenset(token for token in (engine.get_tokenizer().eos_token_id, *several) if token is not None)
