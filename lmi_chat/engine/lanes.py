"""The fast branch: the tokens of plain jobs go from the engine's message to the answer, past vLLM's output objects.

A plain job is one sequence whose text nothing has to look at: no stop strings, no alternatives, no prompt's
log-probabilities, special tokens left out. Its first output and its last go the general way, as does any that carries
more than tokens; between them a token costs a look into two tables and the write.

Leans on: `OutputProcessor.process_outputs` being handed the engine's outputs step by step, `request_states` with
vLLM's marks of each request, `detokenize=False` leaving text alone. `install` looks whether that holds.
"""

import inspect
import logging
from functools import cache
from typing import Any

from lmi_chat.engine.outputs import Outputs
from lmi_chat.engine.spelling import Spelling
from lmi_chat.engine.tokens import NO_PROBABILITY, Vocabulary
from lmi_chat.job import Job, Lane, Piece, Sampling, Sink, Token

NEEDED = ("engine_core_outputs", "engine_core_timestamp", "iteration_stats")
FIELDS = {"request_id", "new_token_ids", "new_logprobs", "finish_reason", "events"}
STATS = {"num_generation_tokens", "inter_token_latencies_iter"}
log = logging.getLogger(__name__)


class Plain(Outputs):
    """One plain job. `request_id` is vLLM's own, by which its outputs come."""

    has_text = False

    def __init__(
        self, job: Job, sink: Sink, vocabulary: Vocabulary, spelling: Spelling, lane: Lane, runs: dict[str, "Plain"]
    ) -> None:
        """Enter `runs` with the first output, leave it with the last."""
        super().__init__(job, sink, vocabulary)
        self._text, self._table = spelling.begin(job.prompt_ids), spelling.table
        self._has_logprobs = job.sampling.logprobs is not None
        self._has_stop = job.sampling.include_stop_str_in_output
        self._token_to = lane.token
        self._folded: list[int] = []
        self._runs = runs
        self.request_id = ""

    def begin(self, collector: Any, abort: Any) -> None:
        """See Outputs.begin."""
        self.request_id = collector.request_id
        super().begin(collector, abort)

    def put(self, output: Any) -> None:
        """See Outputs.put."""
        super().put(output)
        if not self.is_over:
            self._runs[self.request_id] = self
        else:
            self._runs.pop(self.request_id, None)

    def fail(self) -> None:
        """See Outputs.fail."""
        self._runs.pop(self.request_id, None)
        super().fail()

    async def leave(self) -> None:
        """See Outputs.leave."""
        self._runs.pop(self.request_id, None)
        await super().leave()

    def take(self, output: Any) -> None:
        """Tokens in mid-sequence, from vLLM's EngineCoreOutput."""
        ids = output.new_token_ids
        self.completion_tokens += len(ids)
        if self._token_to is None:
            self._folded += ids
            return
        spelled = self._table[ids[0]] if len(ids) == 1 and self._text.is_clean else None
        if not self._has_logprobs:
            spelled = self._text.spell(ids) if spelled is None else spelled
            if spelled:
                self._token_to(ids[-1], spelled, 0.0)
        elif spelled:
            self._token_to(ids[0], spelled, max(NO_PROBABILITY, output.new_logprobs.logprobs.item(0)))
        else:
            self._sink(Piece(0, self._text.take(ids), ids, self._read_tokens(output)))

    def _read_tokens(self, output: Any) -> list[Token]:
        """As Outputs._tokens, before vLLM has made anything of it."""
        rows, ranks = output.new_logprobs.logprobs, output.new_logprobs.sampled_token_ranks.tolist()
        choice = self._vocabulary.choice
        return [
            Token(choice(token_id, logprob), (), rank)
            for token_id, logprob, rank in zip(output.new_token_ids, rows[:, 0].tolist(), ranks, strict=True)
        ]

    def _give(self, part: Any, prompt: tuple[Token | None, ...]) -> None:
        """As Outputs._give, with our own text: the token that ends a sequence has none."""
        ids, finish = self._folded + list(part.token_ids), self._finish(part)
        if self._token_to is None and finish is None:
            self._folded = ids
            return
        is_stopped = part.finish_reason == "stop" and not self._has_stop
        text = self._text.take(ids[:-1] if is_stopped else ids)
        self._sink(Piece(part.index, text, ids, self._tokens(part), finish, prompt))


def is_plain(sampling: Sampling, lane: Lane) -> bool:
    """Whether a job can go past vLLM's output objects. A folded answer keeps no log-probabilities."""
    if sampling.n != 1 or sampling.stop or sampling.prompt_logprobs is not None or not sampling.skip_special_tokens:
        return False
    return sampling.logprobs is None or (sampling.logprobs == 0 and lane.token is not None)


@cache
def _processor() -> Any:
    """The OutputProcessor of vLLM with the branch; imported here because the import takes seconds."""
    from vllm.v1.engine.output_processor import OutputProcessor

    class Lanes(OutputProcessor):
        """`runs`: the plain jobs under way; `stepped_at`: the engine's clock at the last step."""

        runs: dict[str, Plain]
        stepped_at: float

        def process_outputs(
            self, engine_core_outputs: Any, engine_core_timestamp: Any = None, iteration_stats: Any = None, **more: Any
        ) -> Any:
            """Plain tokens to their jobs; all else as vLLM does it."""
            runs, others, tokens = self.runs, [], 0
            for output in engine_core_outputs:
                run = runs.get(output.request_id)
                if run is None:
                    others.append(output)
                elif output.finish_reason is not None or output.events is not None:
                    self._settle(run)
                    others.append(output)
                else:
                    tokens += len(output.new_token_ids)
                    try:
                        run.take(output)
                    except Exception:
                        log.exception("a token could not be rendered")
                        run.fail()
            if iteration_stats is not None and tokens:
                iteration_stats.num_generation_tokens += tokens
                # once per step, not per sequence: they all waited for the same step
                iteration_stats.inter_token_latencies_iter.append(engine_core_timestamp - self.stepped_at)
            done = super().process_outputs(others, engine_core_timestamp, iteration_stats, **more)
            self.stepped_at = engine_core_timestamp
            return done

        def _settle(self, run: Plain) -> None:
            """Bring vLLM's marks of a request up to its last token."""
            state = self.request_states.get(run.request_id)
            if state is not None and state.stats is not None:
                state.stats.num_generation_tokens = run.completion_tokens
                state.stats.last_token_ts = self.stepped_at

    return Lanes


def install(engine: Any) -> dict[str, Plain] | None:
    """Put the branch into an AsyncLLM that has not begun; gives its jobs, or None where it does not fit."""
    fault = _fault(engine)
    if fault:
        log.warning("the fast branch is off, every request takes the general path: %s", fault)
        return None
    processor = engine.output_processor
    processor.__class__ = _processor()
    processor.runs, processor.stepped_at = {}, 0.0
    return processor.runs  # type: ignore[no-any-return]


def _fault(engine: Any) -> str:
    """What of vLLM is not as the branch needs it, or ""."""
    from vllm.sampling_params import SamplingParams
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
    if "detokenize" not in SamplingParams.__struct_fields__:
        return "sampling has no detokenize"
    if type(engine.output_processor) is not OutputProcessor or engine.output_handler is not None:
        return "its output processor is another or runs already"
    if engine.output_processor.stream_interval != 1:
        return "outputs come several steps at a time (stream_interval)"
    return ""
