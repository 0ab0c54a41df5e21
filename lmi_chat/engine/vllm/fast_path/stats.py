"""Update vLLM's metrics: all of them every PERIOD_S and at other steps, the three that change at plain tokens.

A full record sets some forty of them, which costs a step of a few streams more than its tokens do. A step that brought
plain tokens alone changes three; the others are states (running, waiting, cache in use) whose last value counts. Each
of several engines has metrics of its own.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from lmi_chat.engine.vllm.fast_path import messages
from lmi_chat.engine.vllm.fast_path.gathered import GatheredHistogram
from lmi_chat.engine.vllm.heartbeat import Heartbeat

PERIOD_S = 0.1
Few = tuple[Callable[[Any], object], ...]
FIGURES = ("counter_generation_tokens", "histogram_iteration_tokens", "histogram_inter_token_latency")


class StepRecorder:
    """Records each engine step."""

    def __init__(self, engine: Any, heartbeat: Heartbeat) -> None:
        """Record to the loggers of `engine`, an AsyncLLM, of which `heartbeat` is one."""
        from msgspec.msgpack import Decoder
        from vllm.v1.metrics.stats import SchedulerStats

        self._engine, self._heartbeat = engine, heartbeat
        self._read = Decoder(SchedulerStats).decode
        self._few = _few(engine.logger_manager)
        self._due: dict[int, float] = {}

    def record(self, step: messages.PartialCoreOutputs, stats: Any, *, is_plain: bool) -> None:
        """Record a step at its end; `stats`: vLLM's IterationStats; `is_plain`: it brought plain tokens alone."""
        if not messages.is_given(step.scheduler_stats):
            self._record(step, None, stats)
            return
        now, number = time.monotonic(), step.engine_index
        if is_plain and stats is not None and now < self._due.get(number, 0.0) and self._record_few(step, stats):
            self._heartbeat.step(number)
            return
        self._due[number] = now + PERIOD_S
        self._record(step, self._read(step.scheduler_stats), stats)

    def _record_few(self, step: messages.PartialCoreOutputs, stats: Any) -> bool:
        few = self._few.get(step.engine_index)
        if few is None or not messages.scheduler_stats(step.scheduler_stats).is_quiet:
            return False
        count, observe_step, observe_gaps = few
        count(stats.num_generation_tokens)
        observe_step(stats.num_generation_tokens)
        observe_gaps(stats.inter_token_latencies_iter)
        return True

    def _record(self, step: messages.PartialCoreOutputs, scheduled: Any, stats: Any) -> None:
        self._engine.output_processor.update_scheduler_stats(scheduled)
        if self._engine.logger_manager:
            self._engine.logger_manager.record(
                engine_idx=step.engine_index,
                scheduler_stats=scheduled,
                iteration_stats=stats,
                mm_cache_stats=self._engine.renderer.stat_mm_cache(),
            )


def _few(manager: Any) -> Mapping[int, Few]:
    """Return the three metrics of each engine; none where another logger may want every step."""
    from vllm.v1.metrics.loggers import LoggingStatLogger, PerEngineStatLoggerAdapter, PrometheusStatLogger

    if manager is None:
        return {}
    found: list[Any] = []
    for logger in manager.stat_loggers:
        inner = [logger]
        if isinstance(logger, PerEngineStatLoggerAdapter):
            inner = list(logger.per_engine_stat_loggers.values())
        found += [one for one in inner if not isinstance(one, LoggingStatLogger | Heartbeat)]
    if len(found) != 1 or not isinstance(found[0], PrometheusStatLogger):
        return {}
    few = {}
    for number in manager.engine_indexes:
        counter, step, gaps = (getattr(found[0], name, {}).get(number) for name in FIGURES)
        if counter and step and isinstance(gaps, GatheredHistogram):
            few[number] = (counter.inc, step.observe, gaps.observe_all)
    return few
