"""Declare the panels of Grafana's dashboard, each with its queries."""

from dataclasses import dataclass

OURS = '{instance=~"$instance"}'
VLLM = '{model_name=~"$model",instance=~"$instance"}'
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Panel:
    """One panel: its title, queries as expression and legend, unit of its values, and what it is read for."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    description: str
    kind: str = "timeseries"
    stacked: bool = False


def rate(name: str, by: str = "", *, among: str = OURS) -> str:
    """Per second, of all series or `by` a label."""
    return f"sum{f' by ({by})' if by else ''} (rate({name}{among}[$__rate_interval]))"


def with_label(among: str, matcher: str) -> str:
    """Selectors with one more."""
    return f"{among[:-1]},{matcher}}}" if matcher else among


ASLEEP = with_label(VLLM, 'sleep_state!="awake"')


def share(part: str, whole: str, *, among: str = VLLM, of: str = "") -> str:
    """One rate, `of` those that match, as a share of another; nothing where nothing happened."""
    return f"{rate(part, among=with_label(among, of))} / ({rate(whole, among=among)} > 0)"


def mean(name: str, *, among: str = VLLM) -> str:
    """A histogram's mean."""
    return share(f"{name}_sum", f"{name}_count", among=among)


def quantile(of: float, name: str, *, by: str = "", among: str = OURS) -> str:
    """A histogram's quantile, of all series or `by` a label."""
    return f"histogram_quantile({of}, {rate(f'{name}_bucket', by=f'le, {by}' if by else 'le', among=among)})"


def quantiles(name: str, *, among: str = OURS) -> tuple[tuple[str, str], ...]:
    """The usual three."""
    return tuple((quantile(of, name, among=among), f"p{of * 100:.0f}") for of in QUANTILES)


ROWS: dict[str, tuple[Panel, ...]] = {
    "Traffic": (
        Panel(
            "Requests by dialect",
            ((rate("lmi_chat_requests_total", "dialect"), "{{dialect}}"),),
            "reqps",
            "Requests that ended, by the shape of their body.",
            stacked=True,
        ),
        Panel(
            "Requests by status",
            ((rate("lmi_chat_requests_total", "status"), "{{status}}"),),
            "reqps",
            "499: the client hung up; 429 and 503: refused for now.",
            stacked=True,
        ),
        Panel(
            "Answered well",
            (
                (
                    share("lmi_chat_requests_total", "lmi_chat_requests_total", among=OURS, of='status="200"'),
                    "status 200",
                ),
            ),
            "percentunit",
            "The share of requests with status 200; an error after the first byte of a stream counts among them.",
        ),
        Panel(
            "Tokens",
            (
                (rate("lmi_chat_prompt_tokens_total"), "prompt"),
                (rate("lmi_chat_cached_tokens_total"), "of these from the prefix cache"),
                (rate("lmi_chat_completion_tokens_total"), "generated"),
                (rate("lmi_chat_reasoning_tokens_total"), "of these reasoning"),
            ),
            "tps",
            "Tokens of requests that ended.",
        ),
        Panel(
            "Admitted and waiting",
            (
                (f"sum by (instance) (lmi_chat_running{OURS})", "{{instance}} in the engine"),
                (f"sum by (instance) (lmi_chat_waiting{OURS})", "{{instance}} waiting"),
            ),
            "short",
            "Requests that the engine has, and those that wait for a place: if they do for long, add instances.",
        ),
        Panel(
            "Requests by route",
            ((rate("http_requests_total", "handler, status"), "{{handler}} {{status}}"),),
            "reqps",
            "HTTP requests by path and hundreds of statuses.",
        ),
    ),
    "Latency": (
        Panel(
            "Time to the first token",
            quantiles("lmi_chat_ttft_seconds"),
            "s",
            "From a request's arrival to its first token, waiting and prefill in it.",
        ),
        Panel(
            "Gaps between tokens",
            quantiles("vllm:inter_token_latency_seconds", among=VLLM),
            "s",
            "Each gap of each sequence.",
        ),
        Panel(
            "Whole time",
            quantiles("lmi_chat_request_seconds"),
            "s",
            "From a request's arrival to the end of its answer; it grows with the answer's length.",
        ),
        Panel(
            "Waiting",
            quantiles("lmi_chat_queue_seconds"),
            "s",
            "For admission and in the engine's own queue.",
        ),
        Panel(
            "Time to the first token by dialect, p95",
            ((quantile(0.95, "lmi_chat_ttft_seconds", by="dialect"), "{{dialect}}"),),
            "s",
            "Where one kind of request waits longer than others.",
        ),
        Panel(
            "Mean gap of a request by dialect, p95",
            ((quantile(0.95, "lmi_chat_inter_token_seconds", by="dialect"), "{{dialect}}"),),
            "s",
            "The mean seconds between two tokens, of each request.",
        ),
        Panel(
            "Times to the first token",
            ((f"sum by (le) (increase(lmi_chat_ttft_seconds_bucket{OURS}[$__rate_interval]))", "{{le}}"),),
            "s",
            "How many requests took how long: two clouds are two kinds of requests.",
            kind="heatmap",
        ),
        Panel(
            "Where the time goes",
            (
                (mean("vllm:request_queue_time_seconds"), "queue"),
                (mean("vllm:request_prefill_time_seconds"), "prefill"),
                (mean("vllm:request_decode_time_seconds"), "decode"),
            ),
            "s",
            "A request's mean seconds in each of the engine's phases.",
            stacked=True,
        ),
        Panel(
            "HTTP time",
            quantiles("http_request_duration_highr_seconds"),
            "s",
            "Of all routes, as vLLM's server counts it.",
        ),
    ),
    "Engine": (
        Panel(
            "In the scheduler",
            (
                (f"sum by (instance) (vllm:num_requests_running{VLLM})", "{{instance}} running"),
                (f"sum by (instance) (vllm:num_requests_waiting{VLLM})", "{{instance}} waiting"),
            ),
            "short",
            "Sequences of the engine's batch, and those that its scheduler holds back.",
        ),
        Panel(
            "Waiting in the scheduler by reason",
            ((f"sum by (reason) (vllm:num_requests_waiting_by_reason{VLLM})", "{{reason}}"),),
            "short",
            "capacity: no room in the batch or the cache; deferred: it waits for something else.",
            stacked=True,
        ),
        Panel(
            "Tokens per second",
            (
                (rate("vllm:prompt_tokens_total", among=VLLM), "prefill"),
                (rate("vllm:generation_tokens_total", among=VLLM), "decode"),
            ),
            "tps",
            "What the engine does now, of requests that have not ended too.",
        ),
        Panel(
            "Tokens in a step",
            ((mean("vllm:iteration_tokens_total"), "mean"),),
            "short",
            "How full a step of the engine is.",
        ),
        Panel(
            "Preemptions",
            ((rate("vllm:num_preemptions_total", "instance", among=VLLM), "{{instance}}"),),
            "cps",
            "Sequences that lost their place since the cache was full, and are computed anew.",
        ),
        Panel(
            "How answers end",
            ((rate("vllm:request_success_total", "finished_reason", among=VLLM), "{{finished_reason}}"),),
            "reqps",
            "length: cut by max_tokens or the context.",
            stacked=True,
        ),
        Panel(
            "Prompts' lengths",
            quantiles("vllm:request_prompt_tokens", among=VLLM),
            "short",
            "Tokens of a prompt.",
        ),
        Panel(
            "Answers' lengths",
            quantiles("vllm:request_generation_tokens", among=VLLM),
            "short",
            "Tokens of an answer.",
        ),
        Panel(
            "Time per output token",
            quantiles("vllm:request_time_per_output_token_seconds", among=VLLM),
            "s",
            "A request's mean, after its first token.",
        ),
    ),
    "Cache": (
        Panel(
            "KV cache in use",
            ((f"max by (instance) (vllm:kv_cache_usage_perc{VLLM})", "{{instance}}"),),
            "percentunit",
            "At 1 requests wait or are preempted.",
        ),
        Panel(
            "Found in the prefix cache",
            (
                (share("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"), "own"),
                (
                    share("vllm:external_prefix_cache_hits_total", "vllm:external_prefix_cache_queries_total"),
                    "external",
                ),
            ),
            "percentunit",
            "The share of prompt tokens that need no prefill.",
        ),
        Panel(
            "Prompt tokens by source",
            ((rate("vllm:prompt_tokens_by_source_total", "source", among=VLLM), "{{source}}"),),
            "tps",
            "Computed, or found in a cache.",
            stacked=True,
        ),
    ),
    "Tools, adapters and media": (
        Panel(
            "Calls of tools",
            ((rate("lmi_chat_tool_calls_total"), "calls"),),
            "cps",
            "Calls that models made.",
        ),
        Panel(
            "Reasoning",
            ((share("lmi_chat_reasoning_tokens_total", "lmi_chat_completion_tokens_total", among=OURS), "reasoning"),),
            "percentunit",
            "The share of generated tokens that was reasoning and no answer.",
        ),
        Panel(
            "Requests by adapter",
            ((rate("lmi_chat_adapter_requests_total", "adapter"), "{{adapter}}"),),
            "reqps",
            "The first 256 adapters by name, all others together.",
        ),
        Panel(
            "Tokens by adapter",
            (
                (rate("lmi_chat_adapter_prompt_tokens_total", "adapter"), "{{adapter}} prompt"),
                (rate("lmi_chat_adapter_completion_tokens_total", "adapter"), "{{adapter}} generated"),
            ),
            "tps",
            "Of requests that name an adapter.",
        ),
        Panel(
            "Registered adapters",
            ((f"sum by (instance) (lmi_chat_adapters{OURS})", "{{instance}}"),),
            "short",
            "Those that an instance knows.",
        ),
        Panel(
            "Found in the media cache",
            ((share("vllm:mm_cache_hits_total", "vllm:mm_cache_queries_total"), "found"),),
            "percentunit",
            "Recordings that were prepared before.",
        ),
    ),
    "Refusals and health": (
        Panel(
            "Errors by code",
            ((rate("lmi_chat_errors_total", "code"), "{{code}}"),),
            "cps",
            "docs/faults.md tells what each code is the answer to.",
            stacked=True,
        ),
        Panel(
            "Bounds reached",
            ((rate("lmi_chat_bound_reached_total", "bound"), "{{bound}}"),),
            "cps",
            "Bounds of the whole process, by the setting that raises them.",
        ),
        Panel(
            "Ignored keys",
            ((rate("lmi_chat_ignored_keys_total", "dialect"), "{{dialect}}"),),
            "cps",
            "Keys of bodies that nobody knows: clients that ask for something which they do not get.",
        ),
        Panel(
            "Longest hold of the event loop",
            ((f"max by (instance) (lmi_chat_loop_hold_seconds{OURS})", "{{instance}}"),),
            "s",
            "The longest time since the last scrape for which no request had its turn.",
        ),
        Panel(
            "Lost to logs, collectors and the store",
            (
                (rate("lmi_chat_log_lines_lost_total"), "lines of the log"),
                (rate("lmi_chat_traces_lost_total"), "traces"),
                (rate("lmi_chat_store_failures_total"), "operations on stored completions"),
            ),
            "cps",
            "What was dropped so that requests need not wait for it.",
        ),
        Panel(
            "Asleep",
            (
                (
                    f"max by (instance) (vllm:engine_sleep_state{ASLEEP})",
                    "{{instance}}",
                ),
            ),
            "short",
            "1 while the engine's weights are put away.",
        ),
        Panel(
            "Memory of the server's process",
            ((f"max by (instance) (process_resident_memory_bytes{OURS})", "{{instance}}"),),
            "bytes",
            "Without the engine's own processes.",
        ),
        Panel(
            "Cores that the server's process uses",
            ((rate("process_cpu_seconds_total", "instance"), "{{instance}}"),),
            "short",
            "Near 1 its event loop is what bounds the answers.",
        ),
        Panel(
            "Up since",
            ((f"time() - max by (instance) (process_start_time_seconds{OURS})", "{{instance}}"),),
            "s",
            "A short time tells of restarts.",
        ),
    ),
}
