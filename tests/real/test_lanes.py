"""The fast branch gives what the general path gives, to the byte: the whole line, on vLLM's own output processor.

The engine's core is played, so that any text can come, at any pace: what a model would seldom write is most of it.
"""

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from lmi_chat.chat_template import Template
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.engine import Model
from lmi_chat.engine.vllm.engine import Vllm
from lmi_chat.engine.vllm.fast_path import output_processor
from lmi_chat.engine.vllm.heartbeat import Heartbeat
from lmi_chat.engine.vllm.structured_output.trials import Trials
from lmi_chat.errors import Error
from lmi_chat.pipeline.pipeline import InferenceRequest, Pipeline, PipelineConfig

TEXTS = (
    "Plain words, and then some more of them.",
    "emoji 😀👨‍👩‍👧‍👦🏳️‍🌈 in 🇩🇪 a row ☺️",
    "ภาษาไทยไม่มีช่องว่างระหว่างคำ",
    "tab\t, bell \x07, escape \x1b[0m, null \x00, del \x7f, line\r\n",
    'def f(x: str) -> str:\n    return f"{x!r}\\n" + \'\\t\'  # "quoted" \\ and / ',
    "中文和日本語、한국어",
    "\u2028 and \u2029, \ufeff, \ufffd, é, e\u0301, ﬁ",
    "العربية و עברית",
    "<|im_start|>assistant\n and <|im_end|> as text",
)
Step = tuple[list[int], bool]
"""New tokens, and whether the engine tells of an event beside them."""


class Core:
    """As AsyncLLM, with its own output processor; what the engine's core would send comes from a script."""

    errored = False
    output_handler = None

    def __init__(self, tokenizer: Any) -> None:
        from vllm.v1.engine.output_processor import OutputProcessor

        self.tokenizer = tokenizer
        self.output_processor = OutputProcessor(tokenizer, log_stats=True)
        self.steps: list[Step] = []
        self.ends_by: int | str | None = None
        self.taken: Counter[str] = Counter()
        self.generated, self.latencies = 0, 0
        self.metrics: Any = None
        self._counter = itertools.count()
        self._playing: set[asyncio.Task[None]] = set()

    async def add_request(self, name: str, prompt: Any, params: Any, priority: int) -> Any:
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.engine.output_processor import RequestOutputCollector

        params.update_from_tokenizer(self.tokenizer)
        self.taken["plain" if not params.detokenize else "general"] += 1
        own = f"{name}-{next(self._counter)}"
        request = EngineCoreRequest(
            own, prompt["prompt_token_ids"], None, params, None, time.time(), None, None, None, priority=priority
        )
        request.external_req_id = name
        collector = RequestOutputCollector(params.output_kind, own)
        self.output_processor.add_request(request, prompt["prompt"], None, 0, collector)
        task = asyncio.create_task(self._play(own, params))
        self._playing.add(task)
        task.add_done_callback(self._playing.discard)
        return collector

    async def abort(self, name: str, *, internal: bool) -> None:
        self.output_processor.abort_requests([name], internal=internal)

    async def idle(self) -> None:
        """Until nothing is played any more."""
        while self._playing:
            await asyncio.sleep(0)

    async def _play(self, name: str, params: Any) -> None:
        from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, EngineCoreOutput, FinishReason
        from vllm.v1.metrics.stats import IterationStats

        place, clock = 0, 100.0
        for number, (ids, has_event) in enumerate(self.steps):
            is_last = number == len(self.steps) - 1
            reason = (FinishReason.STOP if self.ends_by is not None else FinishReason.LENGTH) if is_last else None
            output = EngineCoreOutput(name, list(ids), finish_reason=reason)  # vLLM cuts it at a stop string
            if is_last and isinstance(self.ends_by, int):
                output.stop_reason = self.ends_by
            if params.logprobs is not None:
                output.new_logprobs = _logprobs(ids, place, params.logprobs)
            if has_event or not number:
                kind = EngineCoreEventType.PREEMPTED if number else EngineCoreEventType.QUEUED
                output.events = [EngineCoreEvent.new_event(kind, clock)]
            stats = IterationStats()
            state = self.output_processor.request_states.get(name)
            self.metrics = state.stats if state else self.metrics
            self.output_processor.process_outputs([output], clock, stats, weight_version=None)
            self.generated += stats.num_generation_tokens
            self.latencies += len(stats.inter_token_latencies_iter)
            place, clock = place + len(ids), clock + 1.0
            if number % 3 == 0:
                await asyncio.sleep(0)


def _logprobs(ids: Sequence[int], place: int, top: int) -> Any:
    """As the core sends them: the token's own first, then the likeliest; some are −inf."""
    from vllm.v1.outputs import LogprobsLists

    generator = np.random.default_rng([place, len(ids), top])
    values = -generator.exponential(2.0, (len(ids), top + 1)).astype(np.float32)
    values[generator.random(values.shape) < 0.05] = -np.inf
    others = generator.integers(0, 40_000, (len(ids), top + 1))
    others[:, 0] = ids
    others[:, 1:] += np.arange(top)  # a token stands there once
    return LogprobsLists(others, values, generator.integers(1, 50, len(ids)), None)


class Kept:
    """An Out that keeps each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    async def whole(self, body: bytes, content_type: str) -> None:
        self.writes.append(content_type.encode() + b" " + body)

    async def start(self, content_type: str) -> None:
        self.writes.append(content_type.encode())

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def fail(self, error: Error, frame: bytes) -> None:
        self.writes.append(repr(error).encode() + frame)

    async def end(self) -> None:
        self.writes.append(b"end")


async def _line(tokenizer: Any, *, is_fast: bool) -> tuple[Pipeline, Core]:
    core = Core(tokenizer)
    ids = tokenizer.encode(" Paris.")
    core.steps = [([each], False) for each in ids]
    model = Model(
        name="tiny",
        names=frozenset({"tiny"}),
        tokenizer=tokenizer,
        context_tokens=4096,
        vocabulary_tokens=len(tokenizer),
        max_running=8,
        fingerprint="vllm",
    )
    plain = output_processor.install(core) if is_fast else None
    assert (plain is not None) == is_fast
    deployment = Deployment(
        model="tiny",
        names=model.names,
        template=Template(tokenizer),
        context_tokens=4096,
        vocabulary_tokens=len(tokenizer),
    )
    line = Pipeline(PipelineConfig())
    await line.open(Vllm(core, model, Heartbeat(), cast("Trials", None), plain), deployment)  # no guide comes here
    core.taken.clear()
    return line, core


def _steps(chance: random.Random, tokenizer: Any) -> list[Step]:
    """A text's own tokens, some of them cut out or from anywhere, mostly one per step."""
    text = "".join(chance.choice(TEXTS) for _ in range(chance.randint(1, 4)))
    ids = tokenizer.encode(text)
    for _ in range(chance.choice([0, 0, 1, 4])):
        place = chance.randrange(len(ids) + 1)
        ids[place : place + chance.randint(0, 2)] = [chance.randrange(len(tokenizer))]
    steps: list[Step] = []
    while ids:
        count = 1 if chance.random() < 0.9 else chance.randint(1, 4)
        steps.append((ids[:count], chance.random() < 0.03))
        ids = ids[count:]
    return steps or [([5], False)]


def _body(chance: random.Random, dialect: str) -> dict[str, Any]:
    """Random fields of a dialect; what has no place beside another field is refused alike."""

    def some(**fields: Any) -> dict[str, Any]:
        return {name: chance.choice(values) for name, values in fields.items() if chance.random() < 0.3}

    common = some(
        temperature=[0, 0.7, 1.5],
        top_p=[0.5, 1],
        seed=[1, 7],
        stop=[["words"], ["\n", "é"], "}"],
        ignore_eos=[True, False],
        stop_token_ids=[[5, 9]],
        include_stop_str_in_output=[True],
        skip_special_tokens=[True, False],
        n=[1, 2],
    )
    prompt = chance.choice([*TEXTS, "hi"])
    is_stream = chance.random() < 0.7
    if dialect == "chat":
        own = some(
            stream_options=[{"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}],
            logprobs=[True],
            return_token_ids=[True],
            max_tokens=[400],
        )
        return {"messages": [{"role": "user", "content": prompt}], "stream": is_stream} | common | own
    if dialect == "completion":
        own = some(
            logprobs=[0, 2],
            echo=[True],
            return_token_ids=[True],
            return_tokens_as_token_ids=[True],
            stream_options=[{"include_usage": True}],
        )
        return (
            {"prompt": chance.choice([prompt, [prompt, "hi"]]), "stream": is_stream, "max_tokens": 400} | common | own
        )
    parameters = some(
        details=[True],
        return_full_text=[True],
        top_n_tokens=[0, 2],
        do_sample=[True],
        stop_sequences=[["words"]],
        ignore_eos_token=[True],
        temperature=[0.3],
    )
    return {
        "inputs": chance.choice([prompt, prompt, [prompt, "hi"]]),
        "parameters": {"max_new_tokens": 400, "seed": 3, **parameters},
        "stream": is_stream,
    }


@pytest.fixture
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmi_chat.dialects.openai.time.time", lambda: 1.0)


@pytest.mark.usefixtures("_clock")
async def test_200_random_requests_give_the_same_bytes_by_either_way(tokenizer: Any) -> None:
    lines = [await _line(tokenizer, is_fast=is_fast) for is_fast in (True, False)]
    refused = streamed = 0
    for seed in range(200):
        chance = random.Random(seed)
        body = _body(chance, chance.choice(["chat", "completion", "standard"]))
        steps, ends_by = _steps(chance, tokenizer), chance.choice([None, None, 5, "eos"])
        accept = chance.choice(["", "text/event-stream", "application/jsonlines"])
        outs = []
        for line, core in lines:
            core.steps, core.ends_by, out = steps, ends_by, Kept()
            try:
                await line.answer(InferenceRequest(body=json.dumps(body).encode(), id="one", accept=accept), out)
            except Error as error:
                out.writes.append(repr((error.status, error.message)).encode())
            await core.idle()
            outs.append(out.writes)
        assert outs[0] == outs[1], (seed, body, steps)
        refused += len(outs[0]) == 1 and not outs[0][0].startswith(b"application/json")
        streamed += len(outs[0]) > 3
    fast, general = (core for _, core in lines)
    assert fast.generated == general.generated, "vLLM's own count of tokens"
    assert fast.latencies == general.latencies, "one for each token but the first"
    assert fast.taken["plain"] > 50
    assert general.taken["plain"] == 0
    assert (refused < 40, streamed > 80) == (True, True)


async def _asked(line: Pipeline, core: Core, body: dict[str, Any]) -> list[Any]:
    """The JSON texts of an answer; no reader of lines finds more of them than there are."""
    out = Kept()
    await line.answer(InferenceRequest(body=json.dumps(body).encode(), id="one", accept="application/jsonlines"), out)
    await core.idle()
    sent = [write.removeprefix(b"application/json ").decode() for write in out.writes]
    sent = [each for each in sent if each not in {"application/jsonlines", "end"}]
    assert [len(each.splitlines()) for each in sent] == [1] * len(sent)
    return [json.loads(each) for each in sent]


@pytest.mark.parametrize("is_fast", [True, False])
async def test_the_tokens_of_a_text_are_the_text_whatever_ends_it(tokenizer: Any, is_fast: bool) -> None:  # noqa: FBT001
    """In a chat's log-probabilities by their bytes, in the standard schema by their texts; whole, and as it streams."""
    line, core = await _line(tokenizer, is_fast=is_fast)
    stopped = 0
    for seed in range(40):
        chance = random.Random(seed)
        text = "".join(chance.choice(TEXTS) for _ in range(chance.randint(1, 3)))
        stop = chance.choice([[], ["never seen"], ["more of"], ["\n", "é"], ["语"], ["️‍", "ช่อง"], [text[-2:]]])
        ids = tokenizer.encode(text, add_special_tokens=False)
        core.steps = [([each], False) for each in ids]
        core.ends_by = chance.choice([None, None, "eos"])
        if core.ends_by:
            core.steps.append(([tokenizer.eos_token_id], False))
        asked = {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "stop": stop, "max_tokens": 900}
        [whole] = await _asked(line, core, asked)
        listed = whole["choices"][0]["logprobs"]["content"]
        said = whole["choices"][0]["message"]["content"]
        joined = b"".join(bytes(token["bytes"]) for token in listed)
        assert joined.decode("utf-8", "replace") == said, (seed, text, stop)
        stopped += isinstance(whole["choices"][0]["stop_reason"], str)
        *chunks, end = [chunk["choices"][0] for chunk in await _asked(line, core, asked | {"stream": True})]
        assert [token for chunk in chunks for token in chunk["logprobs"]["content"]] == listed
        assert "".join(chunk["delta"]["content"] for chunk in chunks) == said
        assert (end["delta"], end["logprobs"]) == ({}, None)
        parameters = {"details": True, "max_new_tokens": 900, "stop": stop}
        [whole] = await _asked(line, core, {"inputs": "hi", "parameters": parameters})
        tokens, text = whole["details"]["tokens"], whole["generated_text"]
        assert "".join(token["text"] for token in tokens) == text
        lines = await _asked(line, core, {"inputs": "hi", "parameters": parameters, "stream": True})
        assert [line["token"] for line in lines] == tokens
        core.steps = core.steps[: len(tokens)]
        core.ends_by = None
        [free] = await _asked(line, core, {"inputs": "hi", "parameters": parameters | {"stop": []}})
        own = [token["text"] for token in free["details"]["tokens"]]
        own = own if whole["details"]["finish_reason"] != "stop_sequence" else own[:1]
        assert [token["text"] for token in tokens][: len(own)] == own, (seed, text, stop)
    assert stopped > 5


async def test_vllms_marks_of_a_request_are_those_of_the_general_path(tokenizer: Any) -> None:
    marks = []
    for is_fast in (True, False):
        line, core = await _line(tokenizer, is_fast=is_fast)
        core.steps = [([each], False) for each in tokenizer.encode("one two three four five")]
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        await line.answer(InferenceRequest(body=json.dumps(body).encode(), id="one"), Kept())
        marks.append((core.metrics.num_generation_tokens, core.metrics.first_token_ts, core.metrics.last_token_ts))
        assert not core.output_processor.request_states
        if is_fast:
            assert not core.output_processor.runs
    assert marks[0] == marks[1]


async def test_a_token_that_cannot_be_rendered_ends_its_own_answer_alone(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, core = await _line(tokenizer, is_fast=True)
    core.steps = [([each], False) for each in tokenizer.encode("one two three four")]
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    out, take = Kept(), output_processor.FastRequest.take_one

    def broken(run: output_processor.FastRequest, token_id: int, logprob: float) -> None:
        if run.completion_tokens == 2:
            raise RuntimeError("broken")
        take(run, token_id, logprob)

    monkeypatch.setattr(output_processor.FastRequest, "take_one", broken)
    await line.answer(InferenceRequest(body=body, id="one"), out)
    assert b"internal error while the answer was written" in out.writes[-2]
    assert not core.output_processor.request_states
    monkeypatch.setattr(output_processor.FastRequest, "take_one", take)
    out = Kept()
    await line.answer(InferenceRequest(body=body, id="two"), out)
    assert b"".join(out.writes).count(b'"content":" two"') == 1


def test_an_engine_that_is_not_as_needed_serves_by_the_general_path(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    core = Core(tokenizer)
    core.output_processor.stream_interval = 4
    assert output_processor.install(core) is None
    assert "the fast branch is off" in caplog.text
    assert "stream_interval" in caplog.text
