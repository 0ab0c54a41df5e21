"""A job that is cut, through vLLM's own output processor: what the engine had generated comes back, with its reason."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import pytest

from lmi_chat.engine.vllm.request import Outputs
from lmi_chat.engine.vllm.sampling import params
from lmi_chat.engine.vllm.vocabulary import Vocabulary
from lmi_chat.job import Delta, Event, Finished, Job, SamplingParams

PROMPT = [1, 2, 3]


class Bench:
    """vLLM's output processor, fed by hand where EngineCore would."""

    def __init__(self, tokenizer: Any, job: Job, stream_interval: int) -> None:
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
        from vllm.v1.engine.parallel_sampling import ParentRequest

        self.processor = OutputProcessor(tokenizer, log_stats=True, stream_interval=stream_interval)
        self.events: list[Event] = []
        self.run = Outputs(job, self.events.append, Vocabulary(tokenizer))
        wanted = params(job.sampling)
        wanted.update_from_tokenizer(tokenizer)
        collector = RequestOutputCollector(wanted.output_kind, "own")
        collector.put = self.run.put
        request = EngineCoreRequest("own", PROMPT, None, wanted, None, time.time(), None, None, None)
        request.external_req_id = job.id
        parent = ParentRequest(request) if wanted.n > 1 else None
        for index in range(wanted.n):
            each = request
            if parent is not None:
                name, own = parent.get_child_info(index)
                each = EngineCoreRequest(name, PROMPT, None, own, None, time.time(), None, None, None)
                each.external_req_id = job.id
            self.processor.add_request(each, None, parent, index, collector)
        self.names = [f"{index}_own" for index in range(wanted.n)] if wanted.n > 1 else ["own"]
        self.run.abort = self.abort

    async def abort(self) -> None:
        self.processor.abort_requests(["own"], internal=True)

    def step(self, tokens: Iterable[int]) -> None:
        from vllm.v1.engine import EngineCoreOutput

        outputs = [EngineCoreOutput(name, [token]) for name, token in zip(self.names, tokens, strict=True)]
        self.processor.process_outputs(outputs)


@pytest.mark.parametrize("stream_interval", [1, 3])
@pytest.mark.parametrize("count", [1, 2])
async def test_a_cut_job_gives_what_there_was(tokenizer: Any, count: int, stream_interval: int) -> None:
    """Every token once, the text held back for a stop string too, and counts that fit; nothing after the end."""
    words = tokenizer.encode(" Paris is the capital of France")
    sampling = SamplingParams(n=count, max_tokens=50, stop=("capital of Spain, no doubt",))
    bench = Bench(tokenizer, Job(id="j", prompt_ids=PROMPT, prompt_text="p", sampling=sampling), stream_interval)
    for token in words:
        bench.step([token] * count)
    assert not any(isinstance(event, Finished) for event in bench.events)
    assert bench.run.completion_tokens > 0
    bench.run.cut()
    bench.run.cut()
    await asyncio.sleep(0)
    *deltas, done = bench.events
    for index in range(count):
        own = [delta for delta in deltas if isinstance(delta, Delta) and delta.index == index]
        assert "".join(delta.text for delta in own) == " Paris is the capital of France"
        assert [token for delta in own for token in delta.ids] == words
        assert [delta.finish.reason for delta in own if delta.finish] == ["time_limit"]
        assert own[-1].finish is not None
    assert isinstance(done, Finished)
    assert (done.completion_tokens, done.reasons) == (count * len(words), ("time_limit",) * count)
    assert bench.run.is_over
    assert not bench.processor.has_unfinished_requests()
