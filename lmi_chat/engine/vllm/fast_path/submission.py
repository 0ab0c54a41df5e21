"""Carry plain requests to the engine's core without having vLLM check and copy again all that is known of them.

vLLM's `add_request` checks the sampling parameters, copies them, adds the model's ends of sequence and draws an id:
an eighth of what a short chat's intake cost. Requests of the same shape give the same parameters, so those of the first
are kept, and a further one gets its own length and seed. What is no such request takes `add_request`.

Leans on: `InputProcessor.process_inputs` giving an EngineCoreRequest, `AsyncLLM._add_request` taking one beside what
its outputs are put into, of which nothing but `put` is used. `of` looks whether that holds.
"""

import asyncio
import copy
import inspect
import itertools
import logging
import re
import time
from typing import Any

from lmi_chat.engine.vllm import sampling
from lmi_chat.engine.vllm.fast_path.output_processor import FastRequest
from lmi_chat.job import Job, SamplingParams

SHAPES_MOST = 256
FIELDS = {
    *("request_id", "external_req_id", "prompt_token_ids", "mm_features", "sampling_params", "pooling_params"),
    *("arrival_time", "lora_request", "cache_salt", "data_parallel_rank", "priority"),
}
"""What is set of a request; all else has its default."""
ELSE = {
    *("prompt_embeds", "prompt_is_token_ids", "client_index", "current_wave", "trace_headers", "resumable"),
    *("reasoning_ended", "reasoning_parser_kwargs", "abort_immediately", "session_id", "kv_hints"),
}
ADD = ["self", "request", "prompt", "parent_req", "index", "queue"]
USES = re.compile(r"\bqueue\.(?!put\()")
log = logging.getLogger(__name__)


class Submission:
    """Makes and sends the requests of one AsyncLLM."""

    def __init__(self, engine: Any) -> None:
        """Send to `engine`; use `of`."""
        from vllm.v1.engine import EngineCoreRequest

        self._engine, self._request = engine, EngineCoreRequest
        self._shapes: dict[tuple[object, ...], Any] = {}
        self._numbers = itertools.count()
        config = engine.model_config
        self._context_tokens, self._vocabulary_tokens = config.max_model_len, config.get_vocab_size()

    async def send(self, job: Job, run: FastRequest) -> bool:
        """Send `job`, whose outputs go to `run`; False where it is for `add_request`. Raises what vLLM raises."""
        if self._engine.errored or not self._is_plain(job):
            return False
        key = _shape(job.sampling)
        params = self._shapes.get(key)
        if params is None:
            params = await self._learn(job, key)
        params = copy.copy(params)
        params.max_tokens, params.seed = job.sampling.max_tokens, job.sampling.seed
        request = self._request(
            request_id=f"{job.id}-{next(self._numbers):08x}",
            external_req_id=job.id,
            prompt_token_ids=job.prompt_ids,
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=job.cache_salt,
            data_parallel_rank=None,
            priority=job.priority,
        )
        run.join(request.request_id, self._engine.abort)
        self._engine._run_output_handler()  # noqa: SLF001 as add_request does
        try:
            await self._engine._add_request(request, job.prompt_text, None, 0, run)  # noqa: SLF001 as add_request does
        except BaseException:
            await asyncio.shield(run.abort())
            raise
        return True

    async def _learn(self, job: Job, key: tuple[object, ...]) -> Any:
        """Have vLLM check the parameters of a shape and complete them."""
        engine = self._engine
        prompt = {"type": "token", "prompt_token_ids": job.prompt_ids, "prompt": job.prompt_text}
        tasks = await engine.get_supported_tasks()
        params = sampling.params(job.sampling, has_text=False)
        request = engine.input_processor.process_inputs(job.id, prompt, params, supported_tasks=tasks)
        if len(self._shapes) >= SHAPES_MOST:
            self._shapes.clear()
        self._shapes[key] = request.sampling_params
        return request.sampling_params

    def _is_plain(self, job: Job) -> bool:
        """Whether a job, which has the marks of a FastRequest, has nothing else that vLLM must look at."""
        given, ids = job.sampling, job.prompt_ids
        if job.media or job.speech or job.adapter or job.parsing or job.trace_headers:
            return False
        if given.constraint or given.logit_bias or given.allowed_token_ids or given.bad_words:
            return False
        if given.thinking_token_budget is not None or not 1 <= given.max_tokens >= given.min_tokens:
            return False
        return 0 < len(ids) < self._context_tokens and max(ids) < self._vocabulary_tokens and min(ids) >= 0


def _shape(given: SamplingParams) -> tuple[object, ...]:
    """Name all that requests of the same shape have in common."""
    return (
        given.temperature,
        given.top_p,
        given.top_k,
        given.min_p,
        given.presence_penalty,
        given.frequency_penalty,
        given.repetition_penalty,
        given.min_tokens,
        given.stop_token_ids,
        given.ignore_eos,
        given.include_stop_str_in_output,
        given.spaces_between_special_tokens,
        given.logprobs,
    )


def of(engine: Any) -> Submission | None:
    """Return what sends the plain requests of an AsyncLLM; None where vLLM is otherwise than it leans on."""
    fault = _incompatibility(engine)
    if fault:
        log.warning("requests are handed over by vLLM's add_request, which costs more: %s", fault)
        return None
    return Submission(engine)


def _incompatibility(engine: Any) -> str:
    """Name the part of vLLM that cannot be used, or ""."""
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.output_processor import OutputProcessor, RequestState

    if other := {*EngineCoreRequest.__struct_fields__} ^ (FIELDS | ELSE):
        return f"a request has {', '.join(sorted(other))}"
    taken = list(inspect.signature(type(engine)._add_request).parameters)  # noqa: SLF001
    if taken != ADD:
        return f"_add_request takes {', '.join(taken)}"
    if found := [use for kind in (OutputProcessor, RequestState) for use in USES.findall(inspect.getsource(kind))]:
        return f"its queues are asked for more than put ({len(found)} times)"
    missing = [name for name in ("input_processor", "get_supported_tasks", "errored") if not hasattr(engine, name)]
    return f"{', '.join(missing)} is gone" if missing else ""
