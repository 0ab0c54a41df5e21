"""Embed, classify and score prompts on vLLM's pooling runner: one output per prompt is its whole answer.

Leans on: `get_supported_tasks` and ModelConfig's `get_pooling_task`, `add_request` taking PoolingParams with one of
TASKS, and its output carrying a tensor on the CPU.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, get_args

from lmi_chat.engine import Run
from lmi_chat.engine.vllm import adapters
from lmi_chat.engine.vllm.errors import translate
from lmi_chat.errors import Bug
from lmi_chat.job import Embedding, Finished, Job, PoolingParams, PoolingSpec, PoolingTask, Sink

TASKS: tuple[PoolingTask, ...] = get_args(PoolingTask)
log = logging.getLogger(__name__)


def spec(config: Any, task: PoolingTask) -> PoolingSpec:
    """Read the PoolingSpec from vLLM's ModelConfig, for a model whose runner pools by `task`."""
    is_lower_case = bool((config.encoder_config or {}).get("do_lower_case"))
    if task in {"classify", "token_classify"}:
        labels = _labels(config.hf_config)
        return PoolingSpec(task=task, dimensions=len(labels), labels=labels, is_lower_case=is_lower_case)
    dimensions = config.embedding_size
    shorter: Sequence[int] = ()
    if config.is_matryoshka:
        shorter = tuple(config.matryoshka_dimensions or ()) or range(1, dimensions + 1)
    return PoolingSpec(task=task, dimensions=dimensions, shorter=shorter, is_lower_case=is_lower_case)


def _labels(config: Any) -> tuple[str | None, ...]:
    """Read the labels of a checkpoint's configuration; None for those without a name."""
    named = getattr(config, "id2label", None) or {}
    return tuple(named.get(place) for place in range(getattr(config, "num_labels", 0)))


@asynccontextmanager
async def run(engine: Any, job: Job, params: PoolingParams, sink: Sink) -> AsyncIterator[Run]:
    """See Engine.run; `engine` is an AsyncLLM, `params` are the job's."""
    run = _Run(sink, params)
    prompt = {"type": "token", "prompt_token_ids": job.prompt_ids}
    if job.cache_salt:
        prompt["cache_salt"] = job.cache_salt
    try:
        options: dict[str, Any] = {} if job.adapter is None else {"lora_request": adapters.request(job.adapter)}
        if job.trace_headers:
            options |= {"trace_headers": job.trace_headers}
        collector = await engine.add_request(job.id, prompt, _params(params), priority=job.priority, **options)
    except Exception as error:
        raise translate(error) from error
    collector.put = run.put
    if collector.output is not None:
        run.put(collector.output)
    await asyncio.sleep(0)  # one request brings thousands of jobs: others have their turn between them
    try:
        yield run
    finally:
        if not run.is_over:
            run.is_over = True
            await asyncio.shield(engine.abort(collector.request_id, internal=True))


def _params(wanted: PoolingParams) -> Any:
    from vllm.pooling_params import PoolingParams as VllmPoolingParams

    place = wanted.second_from
    return VllmPoolingParams(
        task=wanted.task,
        dimensions=wanted.dimensions,
        use_activation=wanted.is_normalized,
        extra_kwargs=None if place is None else {"compressed_token_type_ids": place},
    )


class _Run:
    """The Run of a job that pools: vLLM's one output becomes its events. No token is generated, so there is no cut."""

    completion_tokens = 0

    def __init__(self, sink: Sink, params: PoolingParams) -> None:
        self._sink = sink
        self._is_by_token = params.task in {"token_embed", "token_classify"}
        self.is_over = False

    def cut(self) -> None:
        """See Run.cut: never called without tokens."""

    def put(self, output: Any) -> None:
        """Take the output from vLLM's loop; a failure here ends this job alone, never the loop."""
        if self.is_over:
            return
        self.is_over = True
        try:
            if isinstance(output, Exception):
                self._sink(translate(output))
            else:
                self._take(output)
        except Exception:
            log.exception("an output could not be rendered")
            self._sink(Bug("internal error while the answer was written"))

    def _take(self, output: Any) -> None:
        numbers = output.outputs.data.float()
        if not numbers.numel():  # it was taken off the engine
            self._sink(Bug("the engine failed on this request"))
            return
        if not numbers.isfinite().all():
            self._sink(Bug("the model gave a vector with numbers that are not finite"))
            return
        rows = numbers.shape[0] if self._is_by_token else None
        values = numbers.contiguous().numpy().astype("<f4", copy=False).tobytes()
        self._sink(Embedding(0, "", [], values=values, rows=rows))
        self._sink(
            Finished(
                prompt_tokens=len(output.prompt_token_ids),
                completion_tokens=0,
                cached_tokens=output.num_cached_tokens or 0,
            )
        )
