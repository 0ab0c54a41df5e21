"""Turn vLLM's outputs of one job into events: the general path, on which vLLM makes the text."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar

from lmi_chat.engine.vllm.errors import given_up, translate
from lmi_chat.engine.vllm.vocabulary import Vocabulary
from lmi_chat.errors import Bug, Error
from lmi_chat.job import Delta, Finish, Finished, Job, Reason, Sink, Times, Token

log = logging.getLogger(__name__)


class Outputs:
    """Turns vLLM's outputs of one job into events. `has_text`: vLLM makes their text."""

    has_text: ClassVar[bool] = True

    def __init__(self, job: Job, sink: Sink, vocabulary: Vocabulary) -> None:
        """Send the events of `job` to `sink`."""
        self._sink, self._sampling = sink, job.sampling
        self._vocabulary = vocabulary
        self._top, self._prompt_top = job.sampling.logprobs, job.sampling.prompt_logprobs or 0
        self._prompt_logprobs: tuple[Token | None, ...] = ()
        self._media_tokens = job.media.tokens if job.media else {}
        self._reasons: list[Reason] = []
        self._cutting: asyncio.Task[None] | None = None
        self.completion_tokens = 0
        self.is_over = False
        self.abort: Callable[[], Coroutine[Any, Any, None]]

    def begin(self, collector: Any, abort: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Take the outputs that vLLM has put into `collector`, then each further one as it comes."""
        self.abort = abort
        collector.put = self.put
        if collector.output is not None:
            self.put(collector.output)

    def cut(self) -> None:
        """See Run.cut. vLLM answers an abort with a last output, which has the text held back for stop strings."""
        if not self.is_over and self._cutting is None:
            self._cutting = asyncio.create_task(self.abort())

    async def close(self) -> None:
        """Take the job off the engine if it is not over; returns when the engine has been asked to."""
        if not self.is_over:
            self.is_over = True
            await asyncio.shield(self.abort())
        elif self._cutting is not None:
            await asyncio.wait({self._cutting})

    def put(self, output: Any) -> None:
        """Take one output from vLLM's loop; a failure here ends this job alone, never the loop."""
        if self.is_over:
            return
        try:
            if isinstance(output, Exception):
                self._end(translate(output))
            else:
                self._take(output)
        except Exception:
            log.exception("an output could not be rendered")
            self.fail()

    def fail(self) -> None:
        """End the job with an error, on the engine too."""
        if self._cutting is None:
            self._cutting = asyncio.create_task(self.abort())
        self._end(Bug("internal error while the answer was written"))

    def _end(self, event: Finished | Error) -> None:
        self.is_over = True
        self._sink(event)

    def _take(self, output: Any) -> None:
        prompt = self._read_prompt(output) if output.prompt_logprobs else ()
        self._prompt_logprobs = prompt or self._prompt_logprobs
        for part in output.outputs:
            self.completion_tokens += len(part.token_ids)
            if part.finish_reason == "error":
                self._end(given_up(self._sampling))
                return
            self._send(part, prompt)
        if output.finished:
            done = Finished(
                prompt_tokens=len(output.prompt_token_ids),
                completion_tokens=self.completion_tokens,
                cached_tokens=output.num_cached_tokens or 0,
                prompt_logprobs=self._prompt_logprobs,
                reasons=tuple(self._reasons),
                times=_times(output.metrics),
                media_tokens=self._media_tokens,
            )
            self._end(done)

    def _send(self, part: Any, prompt: tuple[Token | None, ...]) -> None:
        ids = list(part.token_ids)
        self._sink(Delta(part.index, part.text, ids, self._tokens(part), self._finish(part), prompt))

    def _tokens(self, part: Any) -> list[Token]:
        if self._top is None or not part.logprobs:
            return []
        pairs = zip(part.token_ids, part.logprobs, strict=True)
        return [self._token(token_id, entry, self._top) for token_id, entry in pairs]

    def _finish(self, part: Any) -> Finish | None:
        if part.finish_reason is None:
            return None
        given_up: Reason = "abort" if self._cutting is None else "time_limit"
        reason: Reason = part.finish_reason if part.finish_reason in {"stop", "length"} else given_up
        self._reasons.append(reason)
        return Finish(reason, part.stop_reason)

    def _token(self, token_id: int, entry: Mapping[int, Any], top: int) -> Token:
        """Build a Token; `entry` holds the chosen token and the `top` likeliest, each with its rank from 1."""
        ranked = sorted((item for item in entry.items() if item[1].rank <= top), key=lambda item: item[1].rank)
        choices = tuple(self._vocabulary.choice(other, logprob.logprob) for other, logprob in ranked)
        own = entry[token_id]
        return Token(self._vocabulary.choice(token_id, own.logprob), choices, own.rank or 0)

    def _read_prompt(self, output: Any) -> tuple[Token | None, ...]:
        pairs = zip(output.prompt_token_ids, output.prompt_logprobs, strict=False)
        return tuple(
            None if entry is None else self._token(token_id, entry, self._prompt_top) for token_id, entry in pairs
        )


def _times(stats: Any) -> Times | None:
    """Compute a request's Times from vLLM's timestamps, in seconds of the engine's clock; 0 where one is missing."""
    if stats is None or not stats.first_token_ts:
        return None
    return Times(
        queue_s=stats.scheduled_ts - stats.queued_ts,
        prefill_s=stats.first_token_ts - stats.scheduled_ts,
        decode_s=stats.last_token_ts - stats.first_token_ts,
    )
