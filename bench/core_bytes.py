"""What vLLM's EngineCore writes, as bytes made from msgpack's parts, at a cost that does not show beside a server's.

The layout is that of vLLM 0.32's structs (v1/engine/__init__.py, v1/outputs.py, v1/metrics/stats.py).
tests/real/test_fake_engine.py compares these bytes with what vLLM's own encoder makes.
"""

import functools
import math
import struct
import time
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any, NamedTuple

import msgspec

QUEUED, SCHEDULED = 1, 2
STOP, LENGTH = 0, 1
RAW_VIEW = 3  # the extension type of an array's bytes
VOCABULARY = 49_152
CONTEXT = 1 << 20  # the frontend keeps the smaller of this and its model's
encode = msgspec.msgpack.encode


class Params(msgspec.Struct):
    """What matters here of vLLM's SamplingParams."""

    max_tokens: int | None = 16
    min_tokens: int = 0
    stop_token_ids: list[int] | None = None
    eos: int | None = msgspec.field(default=None, name="_eos_token_id")
    logprobs: int | None = None


class Request(msgspec.Struct, array_like=True):
    """The first fields of vLLM's EngineCoreRequest."""

    request_id: str
    prompt_token_ids: list[int]
    mm_features: Any
    sampling_params: Params


class Output(msgspec.Struct, array_like=True):
    """EngineCoreOutput; an array has all fields, those with nothing in them too."""

    request_id: str
    new_token_ids: list[int]
    new_logprobs: msgspec.Raw | None = None
    new_prompt_logprobs: None = None
    pooling_output: None = None
    finish_reason: int | None = None
    stop_reason: int | None = None
    events: list[dict[str, float]] | None = None
    kv_transfer_params: None = None
    ec_transfer_params: None = None
    trace_headers: None = None
    prefill_stats: dict[str, int] | None = None
    routed_experts: None = None
    num_nans_in_logits: int = 0
    mm_cache_miss_hashes: None = None
    new_sampling_mask: None = None
    spec_decode_metrics: None = None
    prompt_token_id_logprobs: None = None


NOTHING = b"\xc0" * 4 + encode("default")  # what EngineCoreOutputs ends with: no call, no waves, the weights' version


def _cut() -> tuple[bytes, bytes]:
    """What stands before the id of a request in a token's output, and after its log-probabilities."""
    data = encode(Output("x", [0]))
    before, _, after = data.partition(b"\xa1x\x91\x00\xc0")
    return before, after


BEFORE, AFTER = _cut()


class End(NamedTuple):
    """Where an answer ends, and why."""

    tokens: int
    finish: int
    stop: int | None


def ending(request: Request) -> End:
    """The end of what gives the prompt's tokens over and over."""
    ids, params = request.prompt_token_ids, request.sampling_params
    tokens = min(params.max_tokens or CONTEXT, CONTEXT - len(ids))
    stops = frozenset(params.stop_token_ids or ())
    for place in range(params.min_tokens, min(tokens, params.min_tokens + len(ids))):
        token = ids[place % len(ids)]
        if token == params.eos:
            return End(place + 1, STOP, None)
        if token in stops:
            return End(place + 1, STOP, token)
    return End(tokens, LENGTH, None)


@functools.lru_cache(1 << 17)
def row(token: int, place: int, width: int) -> bytes:
    """The log-probabilities of one token as LogprobsLists: the sampled one first, then `width` alternatives by rank."""
    stride, rank = 1 + (token + place) % 1000, 1 + (token + place) % 3
    ids = [(token + other * stride) % VOCABULARY for other in range(1, width + 1)]
    ids[rank - 1 : rank] = [token] * (rank <= width)
    values = [-math.log(1 + other + (7 * token + place) % 64 / 64) for other in range(1, max(width, rank) + 1)]
    wide = width + 1
    parts = (
        ("<i4", (1, wide), struct.pack(f"<{wide}i", token, *ids)),
        ("<f4", (1, wide), struct.pack(f"<{wide}f", values[rank - 1], *values[:width])),
        ("<i8", (1,), struct.pack("<q", rank)),
    )
    arrays = [(kind, shape, msgspec.msgpack.Ext(RAW_VIEW, data)) for kind, shape, data in parts]
    return encode((*arrays, None))


def answer(request: Request, end: End, width: int) -> Iterator[bytes]:
    """Each token's EngineCoreOutput; the first one is asked for when the request is scheduled."""
    ids, params = request.prompt_token_ids, request.sampling_params
    tokens, finish, stop = end
    queued = time.monotonic()
    yield b""  # up to here when the request comes
    has_rows = params.logprobs is not None

    def logprobs(place: int) -> msgspec.Raw | None:
        return msgspec.Raw(row(ids[place % len(ids)], place, width)) if has_rows else None

    first = Output(request.request_id, ids[:1], logprobs(0))
    marks = {QUEUED: queued, SCHEDULED: time.monotonic()}
    first.events = [{"type": kind, "timestamp": at} for kind, at in marks.items()]
    first.prefill_stats = prefill(len(ids))
    if tokens == 1:
        first.finish_reason, first.stop_reason = finish, stop
        yield encode(first)
        return
    yield encode(first)
    head = BEFORE + encode(request.request_id)
    if has_rows:
        for place in range(1, tokens - 1):
            token = ids[place % len(ids)]
            yield b"%b\x91%b%b%b" % (head, encode(token), row(token, place, width), AFTER)
    else:
        each = [b"%b\x91%b\xc0%b" % (head, encode(token), AFTER) for token in ids[:tokens]]
        yield from islice(cycle(each), 1, tokens - 1)
    yield encode(
        Output(request.request_id, [ids[(tokens - 1) % len(ids)]], logprobs(tokens - 1), None, None, finish, stop)
    )


def prefill(prompt_tokens: int) -> dict[str, int]:
    """The PrefillStats of a prompt that no cache had."""
    kinds = ("cached", "local_cached", "external_cached", "cache_creation")
    counts = {f"num_{kind}_tokens": 0 for kind in kinds}
    return {"num_prompt_tokens": prompt_tokens, "num_computed_tokens": prompt_tokens, **counts}


@functools.lru_cache(1 << 12)
def stats(running: int) -> bytes:
    """The SchedulerStats, which come with each step, all fields as the real one writes them."""
    cache = ("requests", "queries", "hits", "preempted_requests", "preempted_queries", "preempted_hits")
    fields: dict[str, Any] = {
        "num_running_reqs": running,
        "num_waiting_reqs": 0,
        "num_skipped_waiting_reqs": 0,
        "num_kv_fetch_reqs_by_stage": {},
        "step_counter": 0,
        "current_wave": 0,
        "kv_cache_usage": 0.1,
        "iteration_details": None,
        "prefix_cache_stats": {"reset": False, **dict.fromkeys(cache, 0), "hits_by_source": {}},
        "connector_prefix_cache_stats": None,
        "kv_cache_eviction_events": [],
        **dict.fromkeys(("spec_decoding_stats", "kv_connector_stats", "ec_connector_stats")),
        "waiting_lora_adapters": {},
        "running_lora_adapters": {},
        **dict.fromkeys(("cudagraph_stats", "perf_stats")),
    }
    return encode(fields)


def batch(outputs: list[bytes], running: int) -> bytes:
    """One step's EngineCoreOutputs; `running` requests go on after it."""
    head = b"\x99\x00\xdc%b" % struct.pack(">H", len(outputs))
    return b"".join((head, *outputs, stats(running), b"\xcb", struct.pack(">d", time.monotonic()), NOTHING))


def ready() -> bytes:
    """The EngineCoreReadyResponse, the first message."""
    sizes = ("world", "data_parallel", "tensor_parallel", "pipeline_parallel", "decode_context_parallel")
    ones = dict.fromkeys([*(f"{name}_size" for name in sizes)], 1)
    rest = {"dtype": "float32", "vllm_version": "", "instance_id": "fake", "supports_lora": False, "max_loras": 0}
    limits = {"max_model_len": CONTEXT, "num_gpu_blocks": 1 << 16, "block_size": 128, "max_num_seqs": 1 << 12}
    limits |= {"max_num_batched_tokens": 1 << 16, "data_parallel_rank": 0}
    return encode({**ones, **rest, **limits, "dp_stats_address": None})
