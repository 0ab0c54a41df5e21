"""Count requests, tokens and seconds for Prometheus."""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from lmi_chat.observability.record import RequestRecord

SHORT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
LONG_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 240, 480)

REQUESTS = Counter(
    "lmi_chat_requests", "Requests by dialect and status (499: the client disconnected)", ["dialect", "status"]
)
REFUSED = Counter("lmi_chat_errors", "Requests that ended in an error, by code", ["code"])
BOUND_REACHED = Counter("lmi_chat_bound_reached", "Times a process-wide bound was reached, by its setting", ["bound"])
RUNNING = Gauge("lmi_chat_running", "Requests admitted to the engine")
WAITING = Gauge("lmi_chat_waiting", "Requests waiting for admission")
LOOP_HOLD = Gauge("lmi_chat_loop_hold_seconds", "Longest time since the last scrape for which no request had its turn")
PROMPT_TOKENS = Counter("lmi_chat_prompt_tokens", "Prompt tokens")
COMPLETION_TOKENS = Counter("lmi_chat_completion_tokens", "Generated tokens")
CACHED_TOKENS = Counter("lmi_chat_cached_tokens", "Prompt tokens found in the prefix cache")
REASONING_TOKENS = Counter("lmi_chat_reasoning_tokens", "Generated tokens that were reasoning and no answer")
TOOL_CALLS = Counter("lmi_chat_tool_calls", "Calls of tools that models made")
IGNORED_KEYS = Counter(
    "lmi_chat_ignored_keys", "Ignored keys of request bodies, as X-LMI-Chat-Warning names them", ["dialect"]
)
ADAPTER_REQUESTS = Counter(
    "lmi_chat_adapter_requests", "Requests that name an adapter, by it and by status", ["adapter", "status"]
)
ADAPTER_PROMPT_TOKENS = Counter(
    "lmi_chat_adapter_prompt_tokens", "Prompt tokens of requests that name an adapter", ["adapter"]
)
ADAPTER_COMPLETION_TOKENS = Counter(
    "lmi_chat_adapter_completion_tokens", "Generated tokens of requests that name an adapter", ["adapter"]
)
ADAPTERS = Gauge("lmi_chat_adapters", "Registered adapters")
BY_DIALECT = ["dialect"]
QUEUE = Histogram(
    "lmi_chat_queue_seconds",
    "Seconds of waiting, for admission and in the engine, by dialect",
    BY_DIALECT,
    buckets=SHORT_S,
)
TTFT = Histogram(
    "lmi_chat_ttft_seconds", "Seconds from arrival to the first token, by dialect", BY_DIALECT, buckets=SHORT_S
)
INTER_TOKEN = Histogram(
    "lmi_chat_inter_token_seconds",
    "Mean seconds between two tokens, of each request, by dialect",
    BY_DIALECT,
    buckets=TOKEN_S,
)
TOTAL = Histogram(
    "lmi_chat_request_seconds", "Seconds from arrival to the end of the answer, by dialect", BY_DIALECT, buckets=LONG_S
)
HTTP_REQUESTS = Counter(
    "http_requests", "Total number of requests by method, status and handler.", ["method", "status", "handler"]
)
HTTP_SECONDS = Histogram(
    "http_request_duration_highr_seconds",
    "Latency with many buckets but no API specific labels.",
    buckets=(*(0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75), *(half / 2 for half in range(2, 11)), 7.5, 10, 30, 60),
)
HTTP_SECONDS_BY_HANDLER = Histogram(
    "http_request_duration_seconds",
    "Latency with only few buckets by handler.",
    ["method", "handler"],
    buckets=(0.1, 0.5, 1),
)
"""These three have the names, labels and buckets of the library by which vLLM's server counts its requests."""
STORE_FAILURES = Counter("lmi_chat_store_failures", "Operations on stored completions that failed or were dropped")
SPANS_LOST = Counter(
    "lmi_chat_traces_lost", "Requests whose spans were dropped because the collector did not take them in time"
)
LINES_LOST = Counter("lmi_chat_log_lines_lost", "Log lines dropped because the disk or their reader was too slow")


ADAPTERS_MOST = 256
"""Adapters that are counted by name; those that come later are counted together, as OTHER."""
OTHER, SEVERAL = "other adapters", "several adapters"
_named: set[str] = set()


def _label(adapter: str) -> str:
    if "," in adapter:
        return SEVERAL
    if adapter not in _named and len(_named) >= ADAPTERS_MOST:
        return OTHER
    _named.add(adapter)
    return adapter


def _count_adapter(record: RequestRecord) -> None:
    """Count a request of an adapter that is there; a name that nobody registered gets no label of its own."""
    name = _label(record.adapter) if record.has_adapter else OTHER
    ADAPTER_REQUESTS.labels(name, str(record.status)).inc()
    if record.has_adapter:
        ADAPTER_PROMPT_TOKENS.labels(name).inc(record.prompt_tokens)
        ADAPTER_COMPLETION_TOKENS.labels(name).inc(record.completion_tokens)


def count_request(record: RequestRecord, total_s: float) -> None:
    """Count a request that ended after `total_s` seconds in each metric that it has a value for."""
    dialect = record.dialect or "none"
    _requests(dialect, record.status).inc()
    queue, ttft, inter_token, total = _times(dialect)
    total.observe(total_s)
    if record.error is not None:
        REFUSED.labels(record.error).inc()
    if record.ignored:
        IGNORED_KEYS.labels(record.dialect).inc(len(record.ignored))
    PROMPT_TOKENS.inc(record.prompt_tokens)
    COMPLETION_TOKENS.inc(record.completion_tokens)
    if record.cached_tokens:
        CACHED_TOKENS.inc(record.cached_tokens)
    if record.reasoning_tokens:
        REASONING_TOKENS.inc(record.reasoning_tokens)
    if record.adapter:
        _count_adapter(record)
    if record.called:
        TOOL_CALLS.inc(len(record.called))
    if record.queue_s is not None:
        queue.observe(record.queue_s)
    if record.ttft_s is not None:
        ttft.observe(record.ttft_s)
    gaps = record.completion_tokens / record.width - 1
    if record.decode_s is not None and gaps > 0:
        inter_token.observe(record.decode_s / gaps)


@cache
def _requests(dialect: str, status: int) -> Counter:
    return REQUESTS.labels(dialect, str(status))


@cache
def _times(dialect: str) -> tuple[Histogram, ...]:
    return tuple(metric.labels(dialect) for metric in (QUEUE, TTFT, INTER_TOKEN, TOTAL))
