"""Embed prompts on vLLM's pooling runner: one output per prompt is its whole answer.

Leans on: `add_request` taking PoolingParams with the task "embed", and its output carrying a tensor on the CPU.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from lmi_chat.engine import Run
from lmi_chat.engine.vllm.errors import translate
from lmi_chat.errors import BadField, Bug, Problem
from lmi_chat.job import Embedding, EmbeddingSpec, Finished, Job, PoolingParams, Sink

TASK = "embed"
log = logging.getLogger(__name__)


def space(config: Any) -> EmbeddingSpec | None:
    """Read the EmbeddingSpec from vLLM's ModelConfig; None for a model that generates."""
    if config.runner_type != "pooling":
        return None
    dimensions = config.embedding_size
    shorter = config.matryoshka_dimensions or range(1, dimensions + 1) if config.is_matryoshka else ()
    is_lower_case = bool((config.encoder_config or {}).get("do_lower_case"))
    return EmbeddingSpec(dimensions=dimensions, shorter=shorter, is_lower_case=is_lower_case)


@asynccontextmanager
async def run(engine: Any, job: Job, sink: Sink) -> AsyncIterator[Run]:
    """See Engine.run; `engine` is an AsyncLLM."""
    if TASK not in await engine.get_supported_tasks():
        raise BadField(
            [Problem("model", "the served model neither generates text nor embeds: it classifies or scores")]
        )
    run = _Run(sink)
    prompt = {"type": "token", "prompt_token_ids": job.prompt_ids}
    if job.cache_salt:
        prompt["cache_salt"] = job.cache_salt
    try:
        collector = await engine.add_request(job.id, prompt, _params(job.pooling), priority=job.priority)
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


def _params(pooling: PoolingParams | None) -> Any:
    from vllm.pooling_params import PoolingParams as VllmPoolingParams

    wanted = pooling or PoolingParams()
    return VllmPoolingParams(task=TASK, dimensions=wanted.dimensions, use_activation=wanted.is_normalized)


class _Run:
    """The Run of an embedding: vLLM's one output becomes its events. No token is generated, so there is no cut."""

    completion_tokens = 0

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
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
        vector = output.outputs.data.float()
        if not vector.numel():  # it was taken off the engine
            self._sink(Bug("the engine failed on this request"))
            return
        if not vector.isfinite().all():
            self._sink(Bug("the model gave a vector with numbers that are not finite"))
            return
        self._sink(Embedding(0, "", [], values=vector.numpy().astype("<f4", copy=False).tobytes()))
        self._sink(
            Finished(
                prompt_tokens=len(output.prompt_token_ids),
                completion_tokens=0,
                cached_tokens=output.num_cached_tokens or 0,
            )
        )
