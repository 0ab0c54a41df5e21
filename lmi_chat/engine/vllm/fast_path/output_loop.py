"""Read the engine core's socket from the event loop, without a task: vLLM's two loops in one function.

vLLM reads the socket in one asyncio task and works in another, which costs a step two wake-ups and zmq's own events:
more than half of what the step costs at one stream. Here the event loop calls `_work` when the socket has something,
and it works off all that there is, BURST_S at most in one go. Several engines (data parallelism) send to the same
socket, each message with its engine's number; which requests an engine has, and waking one that has paused, stays with
vLLM's client. Where vLLM is otherwise than it leans on, `install` leaves its loops alone.

Leans on: AsyncLLM starting its loop by `_run_output_handler` and its client by `_ensure_output_queue_task`, both
looking at nothing but whether it is there; `errored` asking whether `output_handler` is done; of several engines the
client's `process_engine_outputs` reading nothing but `finished_requests`, and coming back at once.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from types import SimpleNamespace
from typing import Any

from msgspec import Raw

from lmi_chat.engine.vllm.fast_path import messages
from lmi_chat.engine.vllm.fast_path.output_processor import Clock, FastRequest
from lmi_chat.engine.vllm.fast_path.stats import StepRecorder
from lmi_chat.engine.vllm.heartbeat import Heartbeat

BURST_S = 0.005
NOBLOCK, SNDMORE = 1, 2  # zmq's, as numbers: it makes an enum of them at each call otherwise
CLIENTS = ("AsyncMPClient", "DPAsyncMPClient", "DPLBAsyncMPClient")
"""VLLM's clients: of one engine, of one of several that something outside balances, of several that it balances."""
KEPT = ("core_engines", "engine_ranks_managed", "reqs_in_flight", "engine_inflight")
"""What the client that balances keeps of its engines and their requests."""
log = logging.getLogger(__name__)


class _Sent:
    """An awaitable that is complete: nothing needs to be waited for."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


SENT = _Sent()


class OutputLoop:
    """The loop of one AsyncLLM."""

    def __init__(self, engine: Any, heartbeat: Heartbeat, runs: dict[str, FastRequest]) -> None:
        """Take the place of `engine`'s own loops, which have not begun; use `install`."""
        import zmq
        from vllm import envs
        from vllm.v1.engine import EngineCoreOutput, EngineCoreRequestType
        from vllm.v1.engine.core import EngineCoreProc
        from vllm.v1.engine.core_client import _process_utility_output
        from vllm.v1.engine.exceptions import EngineDeadError
        from vllm.v1.metrics.stats import IterationStats
        from vllm.v1.serial_utils import MsgpackDecoder

        self._engine, self._core = engine, engine.engine_core
        self._resources = self._core.resources
        self._socket = zmq.Socket(shadow=self._resources.output_socket.underlying)
        self._descriptor: int = self._socket.FD
        self._requests = zmq.Socket(shadow=self._core.input_socket.underlying)
        self._send_later = self._core._send_input_message  # noqa: SLF001 vLLM's
        self._nothing = zmq.Again
        self._answer_utility, self._dead = _process_utility_output, EngineDeadError
        self._obituary: bytes = EngineCoreProc.ENGINE_CORE_DEAD
        self._add: bytes = EngineCoreRequestType.ADD.value
        self._new_stats, self._read = IterationStats, MsgpackDecoder(EngineCoreOutput).decode
        self._runs, self._recorder = runs, StepRecorder(engine, heartbeat)
        self._finish = getattr(type(self._core), "process_engine_outputs", None)
        self._heartbeat, self._unfinished = heartbeat, getattr(self._core, "engine_inflight", None)
        if self._unfinished is not None:
            numbers = zip(self._core.core_engines, self._core.engine_ranks_managed, strict=True)
            heartbeat.watch(dict(numbers), self._unfinished)
        self._clocks: dict[int, Clock] = {}
        self._note: Callable[[FastRequest], None]
        self._stats: Any = None
        self._is_plain = True
        self._slice: int = envs.VLLM_V1_OUTPUT_PROC_CHUNK_SIZE
        self._parts: list[Any] = []  # of a message of many outputs, the last one first
        self._over: asyncio.Future[None] | None = None
        self._is_due = False
        self._aborts: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin, from the event loop; a further call does nothing."""
        if self._over is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._over = self._loop.create_future()
        self._over.add_done_callback(self._stop)
        self._engine.output_handler = self._resources.output_queue_task = self._over
        self._loop.add_reader(self._descriptor, self._wake)
        self._wake()

    def send(self, message: Sequence[Any], engine: bytes) -> Awaitable[Any]:
        """Send a request to the engine's core, in place of the client's `_send_input_message`; the socket has room."""
        self._core.ensure_alive()
        if self._unfinished is not None and message[0] == self._add and self._unfinished[engine] == 1:
            self._heartbeat.begin(engine)
        try:
            self._requests.send(engine, SNDMORE | NOBLOCK)
        except self._nothing:
            return self._send_later(message, engine)  # type: ignore[no-any-return]
        *parts, last = message
        for part in parts:
            self._requests.send(part, SNDMORE, copy=False)
        self._requests.send(last, copy=False)
        return SENT

    def _stop(self, over: "asyncio.Future[None]") -> None:
        """Stop; vLLM calls it as its task's `cancel` when it ends or the engine's process has ended."""
        self._loop.remove_reader(self._descriptor)
        if over.cancelled():
            self._engine.output_processor.propagate_error(self._dead())

    def _wake(self) -> None:
        """Work off the socket, which becomes readable once, and then not again before it was read empty."""
        if not self._is_due:
            self._is_due = True
            self._work()

    def _work(self) -> None:
        """Take messages for BURST_S; the rest is left for after the loop's other callbacks."""
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
        """Take one message, or a part of a long one; False when there is none."""
        if self._parts:
            self._take(*self._parts.pop())
            return True
        try:
            frames = [self._socket.recv(NOBLOCK, copy=False)]
        except self._nothing:
            return False
        while frames[-1].more:
            frames.append(self._socket.recv(copy=False))
        if len(frames) == 1 and frames[0].buffer == self._obituary:
            self._resources.engine_dead = True
            raise self._dead
        step = messages.step(frames[0].buffer)
        if messages.is_given(step.utility_output):
            self._answer_utility(self._core.decoder.decode(frames).utility_output, self._core.utility_results)
            return True
        if self._finish is not None and messages.is_given(step.finished_requests):
            _run_at_once(self._finish(self._core, _finished(messages.request_ids(step.finished_requests))))
        outputs = step.outputs
        if not outputs and not messages.is_given(step.scheduler_stats):
            return True
        self._is_plain = True
        clock = self._clocks.get(step.engine_index)
        if clock is None:
            clock = self._clocks[step.engine_index] = Clock()
        self._engine.output_processor.clock, self._note = clock, clock.note
        self._stats = self._new_stats() if self._engine.log_stats and outputs else None
        starts = range(0, len(outputs), self._slice)
        self._parts = [(step, None, frames)]
        self._parts += [(step, outputs[start : start + self._slice], frames) for start in reversed(starts)]
        return True

    def _take(self, step: messages.PartialCoreOutputs, outputs: list[Raw] | None, frames: list[Any]) -> None:
        """Take a part of a message; `outputs` None: record the step, at the message's end."""
        if outputs is None:
            self._recorder.record(step, self._stats, is_plain=self._is_plain)
            return
        processor = self._engine.output_processor
        processor.clock.enter(step.timestamp)
        others = [raw for raw in outputs if not self._take_plain(raw)]
        processor.clock.count(len(outputs) - len(others), self._stats)
        if not others:
            return
        self._is_plain = False
        full = [self._read([raw, *frames[1:]]) for raw in others]
        done = processor.process_outputs(full, step.timestamp, self._stats, weight_version=step.weight_version)
        for output in full:  # media that the engine has no longer, though the renderer's cache thinks so
            for key in output.mm_cache_miss_hashes or ():
                self._engine.renderer.mm_processor_cache.invalidate(key)
        if done.reqs_to_abort:  # a stop string has ended them, which the engine does not know
            task = self._loop.create_task(self._core.abort_requests_async(done.reqs_to_abort))
            self._aborts.add(task)
            task.add_done_callback(self._aborts.discard)

    def _take_plain(self, raw: Raw) -> bool:
        """Hand an output to its plain request if it is one token; whether it was."""
        token = messages.token(raw)
        run = self._runs.get(token.request_id)
        ids = token.new_token_ids
        if run is None or token.finish_reason is not None or token.events is not None or len(ids) != 1:
            return False
        logprob = messages.first_logprob(token.new_logprobs) if run.has_logprobs else 0.0
        if logprob is None:
            return False
        self._note(run)
        try:
            run.take_one(ids[0], logprob)
        except Exception:
            log.exception("a token could not be rendered")
            run.fail()
        return True


def _finished(ids: list[str]) -> Any:
    """Make a message of nothing but requests that an engine no longer has."""
    return SimpleNamespace(finished_requests=ids)


def _run_at_once(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run what waits for nothing. Raises RuntimeError where it does wait."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError("it waits")


def install(engine: Any, heartbeat: Heartbeat, runs: dict[str, FastRequest]) -> None:
    """Take the place of the loops of an AsyncLLM that has not begun, where they are as is leaned on.

    `runs` are its plain requests (output_processor.install), `heartbeat` is one of its loggers.
    """
    fault = _incompatibility(engine)
    if fault:
        log.warning("vLLM's own output loop runs, which costs more: %s", fault)
        return
    output_loop = OutputLoop(engine, heartbeat, runs)
    engine.engine_core._send_input_message = output_loop.send  # noqa: SLF001 vLLM's
    engine._run_output_handler = engine.engine_core._ensure_output_queue_task = output_loop.start  # noqa: SLF001 vLLM's


def _incompatibility(engine: Any) -> str:
    """Name the part of vLLM that the loop cannot use, or ""."""
    from vllm.v1.engine import core, core_client

    client = engine.engine_core
    if type(client) not in [getattr(core_client, name, None) for name in CLIENTS]:
        return f"the engine's client is {type(client).__name__}"
    for name in ("enable_fault_tolerance", "enable_elastic_ep"):  # messages of their own kinds come with them
        if getattr(engine.vllm_config.parallel_config, name, False):
            return f"{name} is on"
    if fault := _finish_incompatibility(client):
        return fault
    needed = (
        (engine, ("output_processor", "logger_manager", "log_stats", "renderer", "_run_output_handler")),
        (type(engine.renderer), ("mm_processor_cache", "stat_mm_cache")),
        (
            client,
            (
                "decoder",
                "utility_results",
                "input_socket",
                "ensure_alive",
                "_send_input_message",
                "_ensure_output_queue_task",
                "_format_exception",
            ),
        ),
        (client.resources, ("output_socket", "engine_dead", "output_queue_task")),
        (core.EngineCoreProc, ("ENGINE_CORE_DEAD",)),
        (core_client, ("_process_utility_output",)),
    )
    missing = [name for owner, names in needed for name in names if not hasattr(owner, name)]
    if fault := messages.incompatibility():
        return fault
    if missing:
        return f"{', '.join(missing)} is gone"
    if engine.output_handler is not None or client.resources.output_queue_task is not None:
        return "it has begun already"
    return ""


def _finish_incompatibility(client: Any) -> str:
    """Try what forgets the requests that an engine no longer has, on a client made up for it; name a fault, or ""."""
    finish = getattr(type(client), "process_engine_outputs", None)
    if finish is None:
        return ""
    if missing := [name for name in KEPT if not hasattr(client, name)]:
        return f"{', '.join(missing)} is gone"
    trial = SimpleNamespace(reqs_in_flight={"gone": b"0", "left": b"0"}, engine_inflight=Counter({b"0": 2}))
    try:
        _run_at_once(finish(trial, _finished(["gone", "unknown"])))
    except Exception as error:  # noqa: BLE001 vLLM's own code, whatever it has become
        return f"the client's process_engine_outputs asks for more ({error})"
    if trial.reqs_in_flight != {"left": b"0"} or trial.engine_inflight[b"0"] != 1:
        return "the client keeps its requests otherwise"
    return ""
