"""Carry the tokens of plain requests from the engine's messages to the answer, past vLLM's output objects.

A plain request: one sequence, no stop strings, no alternatives, no prompt logprobs, special tokens left out.
Its first output and its last take the general path, as does any that carries more than tokens; between them a token
costs a look into two tables and the write.

Leans on: `OutputProcessor.process_outputs` being handed the engine's outputs step by step, `request_states` with
vLLM's marks of each request, `detokenize=False` leaving text alone. `install` looks whether that holds.
"""

import inspect
import logging
from collections.abc import Callable, Coroutine
from functools import cache, partial
from typing import Any

from lmi_chat.engine.vllm.fast_path.detokenizer import Detokenizer
from lmi_chat.engine.vllm.request import Outputs
from lmi_chat.engine.vllm.vocabulary import NO_PROBABILITY, Vocabulary
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Finished, Job, SamplingParams, Sink, Token, TokenSink

NEEDED = ("engine_core_outputs", "engine_core_timestamp", "iteration_stats")
FIELDS = {"request_id", "new_token_ids", "new_logprobs", "finish_reason", "events"}
STATS = {"num_generation_tokens", "inter_token_latencies_iter"}
log = logging.getLogger(__name__)


class FastRequest(Outputs):
    """One plain request. `request_id` is vLLM's own, by which its outputs come."""

    has_text = False

    def __init__(
        self,
        job: Job,
        sink: Sink,
        vocabulary: Vocabulary,
        spelling: Detokenizer,
        token_sink: TokenSink,
        runs: dict[str, "FastRequest"],
    ) -> None:
        """Enter `runs` with the first output, leave it with the last."""
        super().__init__(job, sink, vocabulary)
        self._text, self._table = spelling.begin(job.prompt_ids), spelling.table
        self.has_logprobs = job.sampling.logprobs is not None
        self._has_stop = job.sampling.include_stop_str_in_output
        self._token_sink, self._is_folded = token_sink, token_sink.is_folded
        self._folded: list[int] = []
        self._runs = runs
        self.request_id = ""
        self.seen_at = 0.0  # the engine's clock at its last output

    def begin(self, collector: Any, abort: Any) -> None:
        """See Outputs.begin."""
        self.request_id = collector.request_id
        super().begin(collector, abort)

    def join(self, request_id: str, abort: Callable[..., Coroutine[Any, Any, None]]) -> None:
        """Be what vLLM puts the outputs of `request_id` into; `abort`: AsyncLLM's."""
        self.request_id, self.abort = request_id, partial(abort, request_id, internal=True)

    def put(self, output: Any) -> None:
        """See Outputs.put."""
        super().put(output)
        if not self.is_over:
            self._runs[self.request_id] = self

    def _end(self, event: Finished | Error) -> None:
        self._runs.pop(self.request_id, None)
        super()._end(event)

    async def close(self) -> None:
        """See Outputs.close."""
        self._runs.pop(self.request_id, None)
        await super().close()

    def take(self, output: Any) -> None:
        """Take tokens in mid-sequence from vLLM's EngineCoreOutput; a failure here ends this job alone."""
        try:
            self._take_tokens(output)
        except Exception:
            log.exception("a token could not be rendered")
            self.fail()

    def _take_tokens(self, output: Any) -> None:
        ids = output.new_token_ids
        if len(ids) == 1:
            self.take_one(ids[0], output.new_logprobs.logprobs.item(0) if self.has_logprobs else 0.0)
            return
        self.completion_tokens += len(ids)
        if self._is_folded:
            self._folded += ids
        elif self.has_logprobs:
            self._sink(Delta(0, self._text.take(ids), ids, self._read_tokens(output)))
        elif spelled := self._text.spell(ids):
            self._token_sink.token(ids[-1], spelled, 0.0)

    def take_one(self, token_id: int, logprob: float) -> None:
        """Take one token in mid-sequence; one without text becomes a Delta if its log-probability is shown."""
        self.completion_tokens += 1
        if self._is_folded:
            self._folded.append(token_id)
            return
        spelled = self._table[token_id] if self._text.is_clean else None
        if self.has_logprobs and not spelled:
            token = Token(self._vocabulary.choice(token_id, logprob))
            self._sink(Delta(0, self._text.take((token_id,)), [token_id], [token]))
            return
        if spelled is None:
            spelled = self._text.spell((token_id,))
        if spelled:
            self._token_sink.token(token_id, spelled, max(NO_PROBABILITY, logprob))

    def _read_tokens(self, output: Any) -> list[Token]:
        """Read tokens as Outputs._tokens does, from vLLM's raw output."""
        rows, ranks = output.new_logprobs.logprobs, output.new_logprobs.sampled_token_ranks.tolist()
        choice = self._vocabulary.choice
        return [
            Token(choice(token_id, logprob), (), rank)
            for token_id, logprob, rank in zip(output.new_token_ids, rows[:, 0].tolist(), ranks, strict=True)
        ]

    def _send(self, part: Any, prompt: tuple[Token | None, ...]) -> None:
        """See Outputs; the text is our own: the token that ends a sequence has none."""
        ids, finish = self._folded + list(part.token_ids), self._finish(part)
        if self._is_folded and finish is None:
            self._folded = ids
            return
        is_stopped = part.finish_reason == "stop" and not self._has_stop
        text = self._text.take(ids[:-1] if is_stopped else ids)
        self._sink(Delta(part.index, text, ids, self._tokens(part), finish, prompt))


def is_plain(sampling: SamplingParams, token_sink: TokenSink) -> bool:
    """Whether a job can go past vLLM's output objects. A folded answer keeps no log-probabilities."""
    if sampling.n != 1 or sampling.stop or sampling.prompt_logprobs is not None or not sampling.skip_special_tokens:
        return False
    return sampling.logprobs is None or (sampling.logprobs == 0 and not token_sink.is_folded)


class Clock:
    """The engine's clock at this step and at the previous one, in its own seconds; the gaps between tokens."""

    def __init__(self) -> None:
        """Begin before the first step."""
        self.step_at = self.last_step_at = 0.0
        self._waited = 0
        self._others: list[float] = []

    def enter(self, step_at: float) -> None:
        """Begin a step, whose outputs may come in several parts."""
        if step_at != self.step_at:
            self.last_step_at, self.step_at = self.step_at, step_at

    def note(self, run: FastRequest) -> None:
        """Note that a request has an output in this step, as most of those do that had one in the previous one."""
        if run.seen_at == self.last_step_at or not run.seen_at:  # its first output came before it was here
            self._waited += 1
        else:
            self._others.append(self.step_at - run.seen_at)
        run.seen_at = self.step_at

    def count(self, tokens: int, stats: Any) -> None:
        """Add plain tokens to vLLM's IterationStats, and the gaps of the outputs that brought them, one for each."""
        if stats is not None:
            stats.num_generation_tokens += tokens
            stats.inter_token_latencies_iter += [self.step_at - self.last_step_at] * self._waited + self._others
        self._waited, self._others = 0, []


@cache
def _processor() -> Any:
    """Build the subclass of vLLM's OutputProcessor; imported here because the import takes seconds."""
    from vllm.v1.engine.output_processor import OutputProcessor

    class FastOutputProcessor(OutputProcessor):
        """`runs`: the plain requests under way."""

        runs: dict[str, FastRequest]
        clock: Clock

        def process_outputs(
            self, engine_core_outputs: Any, engine_core_timestamp: Any = None, iteration_stats: Any = None, **more: Any
        ) -> Any:
            """Hand plain tokens to their requests; leave all else to vLLM."""
            self.clock.enter(engine_core_timestamp)
            runs, others, tokens = self.runs, [], 0
            for output in engine_core_outputs:
                run = runs.get(output.request_id)
                if run and output.finish_reason is None and output.events is None:
                    self.clock.note(run)
                    run.take(output)
                    tokens += len(output.new_token_ids)
                    continue
                if run:
                    self._settle(run)
                others.append(output)
            self.clock.count(tokens, iteration_stats)
            processed = super().process_outputs(others, engine_core_timestamp, iteration_stats, **more)
            for output in others:
                if run := runs.get(output.request_id):
                    run.seen_at = engine_core_timestamp
            return processed

        def _settle(self, run: FastRequest) -> None:
            """Bring vLLM's marks of a request up to its last token."""
            state = self.request_states.get(run.request_id)
            if state is not None and state.stats is not None:
                state.stats.num_generation_tokens = run.completion_tokens
                state.stats.last_token_ts = run.seen_at or self.clock.last_step_at

    return FastOutputProcessor


def install(engine: Any) -> dict[str, FastRequest] | None:
    """Put the branch into an AsyncLLM that has not begun; return its requests, or None where it does not fit."""
    fault = _incompatibility(engine)
    if fault:
        log.warning("the fast branch is off, every request takes the general path: %s", fault)
        return None
    processor = engine.output_processor
    processor.__class__ = _processor()
    processor.runs, processor.clock = {}, Clock()
    return processor.runs  # type: ignore[no-any-return]


def _incompatibility(engine: Any) -> str:
    """Name the part of vLLM that the branch cannot use, or ""."""
    from vllm.sampling_params import SamplingParams as VllmSamplingParams
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.engine.output_processor import OutputProcessor
    from vllm.v1.metrics.stats import IterationStats

    taken = tuple(inspect.signature(OutputProcessor.process_outputs).parameters)[1:]
    if taken[: len(NEEDED)] != NEEDED:
        return f"process_outputs takes {', '.join(taken)}"
    if missing := FIELDS - set(EngineCoreOutput.__struct_fields__):
        return f"the engine's outputs have no {', '.join(sorted(missing))}"
    if missing := STATS - vars(IterationStats()).keys():
        return f"its statistics have no {', '.join(sorted(missing))}"
    if "detokenize" not in VllmSamplingParams.__struct_fields__:
        return "sampling has no detokenize"
    if type(engine.output_processor) is not OutputProcessor or engine.output_handler is not None:
        return "its output processor is another or runs already"
    if engine.output_processor.stream_interval != 1:
        return "outputs come several steps at a time (stream_interval)"
    return ""
