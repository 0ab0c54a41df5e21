"""Decode of the engine's messages only the fields that a plain token needs: vLLM's structs have 18 for each.

Each output is left as bytes until it is known whose it is; what is no plain token is then decoded by vLLM's own types.
`incompatibility` compares names and order with vLLM's structs, so that a field which moved is not read as another.
"""

from struct import unpack_from
from typing import Any

from msgspec import Raw, Struct
from msgspec.msgpack import Decoder, Ext

FLOAT = "<f4"


class Values(Struct, array_like=True, gc=False):
    """A numpy array on the wire; `data` is an Ext with its bytes, or the number of a further frame."""

    dtype: str
    shape: Raw
    data: Any


class Scores(Struct, array_like=True, gc=False):
    """LogprobsLists: for each token a row, its own log-probability first."""

    logprob_token_ids: Raw
    logprobs: Values
    sampled_token_ranks: Raw
    cu_num_generated_tokens: Raw


class PartialCoreOutput(Struct, array_like=True, gc=False):
    """EngineCoreOutput, as far as it is read; what follows is passed over."""

    request_id: str
    new_token_ids: list[int]
    new_logprobs: Scores | None = None
    new_prompt_logprobs_tensors: Raw = Raw(b"\xc0")
    pooling_output: Raw = Raw(b"\xc0")
    finish_reason: int | None = None
    stop_reason: Raw = Raw(b"\xc0")
    events: list[Raw] | None = None


class PartialCoreOutputs(Struct, array_like=True, gc=False):
    """EngineCoreOutputs: the outputs of one engine step."""

    engine_index: int = 0
    outputs: list[Raw] = []
    scheduler_stats: Raw = Raw(b"\xc0")
    timestamp: float = 0.0
    utility_output: Raw = Raw(b"\xc0")
    finished_requests: Raw = Raw(b"\xc0")
    wave_complete: Raw = Raw(b"\xc0")
    start_wave: Raw = Raw(b"\xc0")
    weight_version: str | None = None


class PartialPrefixStats(Struct, gc=False):
    """PrefixCacheStats: the counts that a step adds."""

    reset: bool = False
    requests: int = 0
    preempted_requests: int = 0


class PartialSchedulerStats(Struct, gc=False):
    """SchedulerStats, as far as it adds up; the rest are states, of which the last one counts."""

    prefix_cache_stats: PartialPrefixStats
    iteration_details: Any = None
    connector_prefix_cache_stats: Any = None
    kv_cache_eviction_events: list[Raw] = []
    spec_decoding_stats: Any = None
    kv_connector_stats: Any = None
    ec_connector_stats: Any = None
    cudagraph_stats: Any = None
    perf_stats: Any = None

    @property
    def is_quiet(self) -> bool:
        """Whether it can be skipped without a loss."""
        prefix = self.prefix_cache_stats
        return not (
            prefix.requests
            or prefix.preempted_requests
            or prefix.reset
            or self.iteration_details
            or self.connector_prefix_cache_stats
            or self.kv_cache_eviction_events
            or self.spec_decoding_stats
            or self.kv_connector_stats
            or self.ec_connector_stats
            or self.cudagraph_stats
            or self.perf_stats
        )


STATES = {
    *("num_running_reqs", "num_waiting_reqs", "num_skipped_waiting_reqs", "num_kv_fetch_reqs_by_stage"),
    *("step_counter", "current_wave", "kv_cache_usage", "waiting_lora_adapters", "running_lora_adapters"),
}
NIL = Raw(b"\xc0")
step, token = Decoder(PartialCoreOutputs).decode, Decoder(PartialCoreOutput).decode
scheduler_stats = Decoder(PartialSchedulerStats).decode
request_ids = Decoder(list[str]).decode


def is_given(raw: Raw) -> bool:
    """Whether the value is not null."""
    return raw != NIL


def first_logprob(scores: Scores | None) -> float | None:
    """Read the sampled token's log-probability from the first row; None where it is not in this frame."""
    if scores is None or type(scores.logprobs.data) is not Ext or scores.logprobs.dtype != FLOAT:
        return None
    value: float = unpack_from("<f", scores.logprobs.data.data)[0]
    return value


def incompatibility() -> str:
    """Name where vLLM's structs are not as they are read here, or ""."""
    from dataclasses import fields

    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
    from vllm.v1.metrics.stats import SchedulerStats
    from vllm.v1.outputs import LogprobsLists

    theirs = (EngineCoreOutput.__struct_fields__, EngineCoreOutputs.__struct_fields__, LogprobsLists._fields)
    for kind, names in zip((PartialCoreOutput, PartialCoreOutputs, Scores), theirs, strict=True):
        own = kind.__struct_fields__
        if names[: len(own)] != own:
            return f"the engine's messages have {', '.join(names)}"
    found = {row.name for row in fields(SchedulerStats)}
    if other := found ^ (STATES | {*PartialSchedulerStats.__struct_fields__}):
        return f"the scheduler tells otherwise of {', '.join(sorted(other))}"
    return ""
