"""Describe a request as spans, in the words of OpenTelemetry's conventions for generative AI.

One span for the request, and below it one each for waiting, prefill and decode, as far as the engine told their times.
Nothing of what was said is in them: of an error its code alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lmi_chat.job import SamplingParams
from lmi_chat.observability.record import CLIENT_GONE, RequestRecord

PROVIDER = "lmi-chat"
GONE = "client_disconnected"
OPERATIONS: Mapping[str, str] = {
    "completion": "text_completion",
    "standard": "text_completion",
    "embedding": "embeddings",
}
"""What the conventions call a dialect's operation; others by their own names."""
CHATS = frozenset({"chat", "messages", "responses", "anthropic"})
STOPS_MOST, STOP_CHARS = 16, 128
"""Of the stop strings, which are the caller's words, so many are told, by so much of each."""
Value = str | bool | int | float | Sequence[str]


@dataclass(frozen=True, slots=True)
class SpanFacts:
    """A span: its name, when it began and ended, in seconds after the request's arrival, and what is known of it."""

    name: str
    begins_s: float
    ends_s: float
    attributes: Mapping[str, Value]
    error: str = ""


def of_request(record: RequestRecord, total_s: float) -> SpanFacts:
    """The span of a request that ended after `total_s` seconds."""
    operation = "chat" if record.dialect in CHATS else OPERATIONS.get(record.dialect, record.dialect or "request")
    error = record.error or (GONE if record.status == CLIENT_GONE else "")
    found: dict[str, Value | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.id": record.id,
        "gen_ai.request.model": record.adapter or record.model,
        "gen_ai.response.model": record.model,
        "gen_ai.request.stream": record.is_stream,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": record.reasoning_tokens,
        "gen_ai.response.finish_reasons": list(record.reasons),
        "gen_ai.response.time_to_first_chunk": record.ttft_s,
        "http.response.status_code": record.status,
        "error.type": error,
        "lmi_chat.dialect": record.dialect,
        "lmi_chat.adapter": record.adapter,
        **(_sampling(record.sampling) if record.sampling is not None else {}),
    }
    kept = {name: value for name, value in found.items() if value is not None and value not in ("", [])}
    return SpanFacts(f"{operation} {record.model}".rstrip(), 0.0, total_s, kept, error)


def _sampling(asked: SamplingParams) -> dict[str, Value | None]:
    return {
        "gen_ai.request.temperature": asked.temperature,
        "gen_ai.request.top_p": asked.top_p,
        "gen_ai.request.top_k": float(asked.top_k) if asked.top_k > 0 else None,
        "gen_ai.request.max_tokens": asked.max_tokens,
        "gen_ai.request.presence_penalty": asked.presence_penalty,
        "gen_ai.request.frequency_penalty": asked.frequency_penalty,
        "gen_ai.request.seed": asked.seed,
        "gen_ai.request.stop_sequences": [text[:STOP_CHARS] for text in asked.stop[:STOPS_MOST]],
        "gen_ai.request.choice.count": asked.n if asked.n > 1 else None,
    }


def of_phases(record: RequestRecord) -> Iterator[SpanFacts]:
    """The spans below a request's; `queue` ends with the engine's first step on it, or without that with admission."""
    ready_s = record.seated_s
    if record.ttft_s is not None and record.prefill_s is not None:
        ready_s = record.ttft_s - record.prefill_s
    if record.queue_s is not None:
        yield SpanFacts("queue", max(0.0, ready_s - record.queue_s), ready_s, {})
    if record.ttft_s is not None and record.prefill_s is not None:
        yield SpanFacts("prefill", ready_s, record.ttft_s, {"gen_ai.usage.input_tokens": record.prompt_tokens})
        if record.decode_s:
            tokens: dict[str, Value] = {"gen_ai.usage.output_tokens": record.completion_tokens}
            yield SpanFacts("decode", record.ttft_s, record.ttft_s + record.decode_s, tokens)
