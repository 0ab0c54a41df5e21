"""Print what the console costs: a look at 64 streams once a second, a request's end, and what all of it keeps.

.venv/bin/python bench/console.py
"""

import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from prometheus_client import Gauge, Histogram

from lmi_chat.console.recorder import Console
from lmi_chat.observability.record import RequestRecord

STREAMS, REQUESTS = 64, 500
REQUESTS_PER_S = 64  # each stream is over after a second: more than a model has them do
BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
GAPS = Histogram("vllm:inter_token_latency_seconds", "as vLLM has it", ["model_name", "engine"], buckets=BUCKETS)
CACHE = Gauge("vllm:kv_cache_usage_perc", "as vLLM has it", ["model_name", "engine"])


class Streams:
    """64 streams of 50 tokens a second."""

    active, waiting = STREAMS, 0

    def __init__(self) -> None:
        """Begin with their first tokens."""
        self.records, self.tokens = [_record(number) for number in range(STREAMS)], 1

    def progress(self) -> Iterable[tuple[RequestRecord, int, int]]:
        """Each of them, with 50 tokens more."""
        self.tokens += 50
        return [(record, 1, self.tokens) for record in self.records]


def _record(number: int) -> RequestRecord:
    record = RequestRecord(id=f"{number:032x}", dialect="chat", model="model", user=f"user {number}", is_stream=True)
    record.reasons, record.prompt_tokens, record.completion_tokens = ("stop",), 200, 50
    record.received_s, record.parsed_s, record.seated_s, record.queue_s = 0.001, 0.003, 0.004, 0.002
    record.begun_s, record.ttft_s, record.prefill_s, record.decode_s = 0.05, 0.049, 0.04, 0.9
    return record


def _each_us(work: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times * 1e6


def main() -> None:
    """Print the figures."""
    CACHE.labels("model", "0").set(0.5)
    gaps, streams, console = GAPS.labels("model", "0"), Streams(), Console(REQUESTS)
    now = iter(float(second) for second in range(10**6))

    def look() -> None:
        gaps.observe(0.02)
        console.look(streams, next(now))

    def end() -> None:
        record = streams.records[0]
        console.begin(record)
        console.end(record, 1.0)

    look_us, end_us = _each_us(look, 2000), _each_us(end, 20_000)
    share = (look_us + REQUESTS_PER_S * end_us) / 1e6
    print(f"a look at {STREAMS} streams: {look_us:.0f} µs, once a second; a request: {end_us:.0f} µs")
    print(f"at {STREAMS} streams and {REQUESTS_PER_S} requests a second: {share:.2%} of a core")
    tracemalloc.start()
    filled, before = Console(REQUESTS), tracemalloc.get_traced_memory()[0]
    for number in range(REQUESTS):
        filled.end(_record(number), 1.0)
    for _ in range(1000):
        filled.look(streams, next(now))
    print(f"{REQUESTS} requests and 900 seconds: {(tracemalloc.get_traced_memory()[0] - before) / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
