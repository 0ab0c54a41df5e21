"""What the engine's core sends, taken off its socket without a task: vLLM's two loops in one function.

vLLM reads the socket in one asyncio task and works in another, which costs a step two wake-ups and zmq's own events:
more than half of what the step costs at one stream. Here the event loop calls `_work` when the socket has something,
and it works off all that there is, BURST_S at most in one go. Only for the plain case, one engine that is served text;
for all others `install` leaves vLLM's loops alone.

Leans on: AsyncLLM starting its loop by `_run_output_handler` and its client by `_ensure_output_queue_task`, both
looking at nothing but whether it is there; `errored` asking whether `output_handler` is done.
"""

import asyncio
import logging
import time
from typing import Any

BURST_S = 0.005
log = logging.getLogger(__name__)


class Pump:
    """The loop of one AsyncLLM."""

    def __init__(self, engine: Any) -> None:
        """Take the place of `engine`'s own loops, which have not begun; use `install`."""
        import zmq
        from vllm import envs
        from vllm.v1.engine.core import EngineCoreProc
        from vllm.v1.engine.core_client import _process_utility_output
        from vllm.v1.engine.exceptions import EngineDeadError
        from vllm.v1.metrics.stats import IterationStats

        self._engine, self._core = engine, engine.engine_core
        self._resources = self._core.resources
        self._socket = zmq.Socket(shadow=self._resources.output_socket.underlying)
        self._descriptor: int = self._socket.FD
        self._nothing, self._flags = zmq.Again, zmq.NOBLOCK
        self._answer_utility, self._dead = _process_utility_output, EngineDeadError
        self._obituary: bytes = EngineCoreProc.ENGINE_CORE_DEAD
        self._new_stats = IterationStats
        self._slice: int = envs.VLLM_V1_OUTPUT_PROC_CHUNK_SIZE
        self._parts: list[Any] = []  # of a message of many outputs, the last one first
        self._over: asyncio.Future[None] | None = None
        self._is_due = False
        self._aborts: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin, from the event loop; again and again is no harm."""
        if self._over is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._over = self._loop.create_future()
        self._over.add_done_callback(self._stop)
        self._engine.output_handler = self._resources.output_queue_task = self._over
        self._loop.add_reader(self._descriptor, self._wake)
        self._wake()

    def _stop(self, over: "asyncio.Future[None]") -> None:
        """By vLLM, which cancels what it takes for its task when it ends, and when the engine's process has ended."""
        self._loop.remove_reader(self._descriptor)
        if over.cancelled():
            self._engine.output_processor.propagate_error(self._dead())

    def _wake(self) -> None:
        """The socket may have something; it tells so once, and then not before it was read empty."""
        if not self._is_due:
            self._is_due = True
            self._work()

    def _work(self) -> None:
        """Work off what there is, for BURST_S; what is left has its turn after what else is due."""
        if self._over is None or self._over.done():
            return
        end = time.perf_counter() + BURST_S
        try:
            while self._step():
                if time.perf_counter() > end:
                    self._loop.call_soon(self._work)
                    return
        except Exception as error:
            log.exception("the engine's output could not be taken")
            self._over.set_result(None)
            self._engine.output_processor.propagate_error(self._core._format_exception(error))  # noqa: SLF001 vLLM's
            return
        self._is_due = False

    def _step(self) -> bool:
        """One message, or a part of one that is long; False when there is none."""
        if self._parts:
            self._take(*self._parts.pop())
            return True
        try:
            frames = self._socket.recv_multipart(self._flags, copy=False)
        except self._nothing:
            return False
        if len(frames) == 1 and frames[0].buffer == self._obituary:
            self._resources.engine_dead = True
            raise self._dead
        message = self._core.decoder.decode(frames)
        if message.utility_output:
            self._answer_utility(message.utility_output, self._core.utility_results)
            return True
        outputs = message.outputs
        stats = self._new_stats() if self._engine.log_stats and outputs else None
        starts = range(0, len(outputs), self._slice)
        parts = [(message, outputs[start : start + self._slice], stats) for start in starts]
        if parts or message.scheduler_stats:
            self._parts = [(message, None, stats), *parts[::-1]]
        return True

    def _take(self, message: Any, outputs: list[Any] | None, stats: Any) -> None:
        """A part of a message; None: what there is to say at its end."""
        processor = self._engine.output_processor
        if outputs is not None:
            done = processor.process_outputs(outputs, message.timestamp, stats, weight_version=message.weight_version)
            if done.reqs_to_abort:  # a stop string has ended them, which the engine does not know
                task = self._loop.create_task(self._core.abort_requests_async(done.reqs_to_abort))
                self._aborts.add(task)
                task.add_done_callback(self._aborts.discard)
            return
        scheduled = message.scheduler_stats
        processor.update_scheduler_stats(scheduled)
        if self._engine.logger_manager:
            self._engine.logger_manager.record(
                engine_idx=message.engine_index, scheduler_stats=scheduled, iteration_stats=stats
            )


def install(engine: Any) -> None:
    """Take the place of the loops of an AsyncLLM that has not begun, if it is of the plain kind."""
    fault = _fault(engine)
    if fault:
        log.warning("vLLM's own output loop runs, which costs more: %s", fault)
        return
    pump = Pump(engine)
    engine._run_output_handler = engine.engine_core._ensure_output_queue_task = pump.start  # noqa: SLF001 vLLM's


def _fault(engine: Any) -> str:
    """What is not as the pump needs it, or ""."""
    from vllm.v1.engine import core, core_client

    client = engine.engine_core
    if type(client) is not core_client.AsyncMPClient:
        return f"the engine's client is {type(client).__name__}"
    if engine.renderer.mm_processor_cache is not None:
        return "the model takes more than text"
    if engine.vllm_config.parallel_config.enable_fault_tolerance:
        return "enable_fault_tolerance is on"
    needed = (
        (engine, ("output_processor", "logger_manager", "log_stats", "_run_output_handler")),
        (client, ("decoder", "utility_results", "_ensure_output_queue_task", "_format_exception")),
        (client.resources, ("output_socket", "engine_dead", "output_queue_task")),
        (core.EngineCoreProc, ("ENGINE_CORE_DEAD",)),
        (core_client, ("_process_utility_output",)),
    )
    missing = [name for owner, names in needed for name in names if not hasattr(owner, name)]
    if missing:
        return f"{', '.join(missing)} is gone"
    if engine.output_handler is not None or client.resources.output_queue_task is not None:
        return "it has begun already"
    return ""
