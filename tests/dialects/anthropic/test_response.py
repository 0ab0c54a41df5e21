"""Answers in Anthropic's form: a whole one is the fold of the stream of the same deltas."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from lmi_chat.dialects.anthropic.response import Events, Whole, read_input
from lmi_chat.job import CallPart, Delta, Finish, Finished, Job, ParsingParams
from tests.support.fakes import deployment


def scripted(seed: int) -> list[Delta]:
    """Runs of text, thought and calls in any order, in pieces of any length, some without text."""
    draw, deltas, place = random.Random(seed), list[Delta](), -1
    for _ in range(draw.randrange(5)):
        match draw.choice(("content", "reasoning", "call")):
            case "call":
                place += 1
                deltas.append(Delta(0, "", [1], kind="call", call=CallPart(place, f"c{place}", "tool")))
                text = json.dumps({"a": draw.choice(["ü", "x" * 9, 7])})
                text = text[: draw.choice([len(text), 5])]
                deltas += [Delta(0, one, [2], kind="call", call=CallPart(place)) for one in text]
            case kind:
                pieces = [draw.choice(["", "a", 'b"\n', "ü"]) for _ in range(draw.randrange(4))]
                deltas += [Delta(0, one, [3], kind=kind) for one in pieces]
    finish = draw.choice([Finish("stop"), Finish("length"), Finish("stop", "X"), Finish("stop", 7)])
    return [*deltas, Delta(0, draw.choice(["", "z"]), [], finish=finish)]


def folded(payloads: list[Any]) -> Any:  # noqa: C901 as many kinds of events as there are
    """The message that a client makes of a stream's events, as Anthropic's documentation has it."""
    message: Any = None
    for event in payloads:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"] | {"json": ""})
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] = delta["signature"]
                    case "input_json_delta":
                        block["json"] += delta["partial_json"]
            case "content_block_stop":
                block = message["content"][event["index"]]
                text = block.pop("json")
                if block["type"] == "tool_use":
                    block["input"] = read_input(text)
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
    return message


@pytest.mark.parametrize("is_parsed", [True, False])
def test_a_whole_answer_is_the_fold_of_its_stream(is_parsed: bool) -> None:  # noqa: FBT001
    done = Finished(prompt_tokens=3, completion_tokens=9, cached_tokens=1, reasoning_tokens=2)
    job = Job(id="a", prompt_ids=[1, 2, 3], prompt_text="", parsing=ParsingParams() if is_parsed else None)
    kinds = set()
    for seed in range(300):
        deltas = [delta for delta in scripted(seed) if is_parsed or delta.kind == "content"]
        events, whole = Events(job, deployment()), Whole(job, deployment())
        told = [json.loads(one) for delta in deltas for one in events.delta(delta)]
        told += [json.loads(one) for one in events.done(done)]
        assert not [one for delta in deltas for one in whole.delta(delta)]
        [document] = whole.done(done)
        assert folded(told) == json.loads(document), seed
        kinds |= {block["type"] for block in json.loads(document)["content"]}
        starts = [event["type"] for event in told]
        assert starts.count("content_block_start") == starts.count("content_block_stop")
        assert starts[-2:] == ["message_delta", "message_stop"]
    assert kinds == ({"text", "thinking", "tool_use"} if is_parsed else {"text"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", {}), ('{"a":1}', {"a": 1}), ('{"a":1,"b":"x', {"a": 1}), ("[1]", {}), ("nothing", {})],
)
def test_the_input_of_a_call_that_was_cut(text: str, expected: Any) -> None:
    assert read_input(text) == expected


def test_calls_that_come_at_once_are_blocks_one_after_the_other() -> None:
    def piece(place: int, text: str = "", name: str = "") -> Delta:
        return Delta(0, text, [1], kind="call", call=CallPart(place, name and f"c{place}", name))

    begun = [piece(0, name="a"), piece(1, name="b"), piece(0, '{"x":'), piece(1, '{"y":2}')]
    end = piece(0, "1}", "")
    job = Job(id="a", prompt_ids=[1], prompt_text="", parsing=ParsingParams())
    done = Finished(prompt_tokens=1, completion_tokens=5)
    for finish in (Finish("stop"), None):
        last = [replace(end, finish=finish)] if finish else [end, Delta(0, "", [], finish=Finish("stop"))]
        events, whole = Events(job, deployment()), Whole(job, deployment())
        told = [json.loads(one) for delta in [*begun, *last] for one in events.delta(delta)]
        told += [json.loads(one) for one in events.done(done)]
        for delta in [*begun, *last]:
            whole.delta(delta)
        [document] = whole.done(done)
        assert folded(told) == json.loads(document)
        inputs = [(block["id"], block["name"], block["input"]) for block in json.loads(document)["content"]]
        assert inputs == [("c0", "a", {"x": 1}), ("c1", "b", {"y": 2})]
        open_blocks = 0
        for event in told:  # one at a time: clients look for a block's end before the next one's begin
            open_blocks += (event["type"] == "content_block_start") - (event["type"] == "content_block_stop")
            assert open_blocks <= 1
