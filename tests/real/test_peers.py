"""What LMI, TGI and vLLM get wrong or answer, asked of the real engine. The quick ones are in tests/http/test_peers.py.

`lmi_answers.jsonl` has what LMI (djl-serving d21927c4, vLLM 0.23) answers with the same model: request and answer,
whole or line by line.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Server

ANSWERS = [json.loads(line) for line in (Path(__file__).parent / "lmi_answers.jsonl").read_text().splitlines()]
EMPTY: tuple[object, ...] = (None, [])


def leaves(value: object, path: str = "") -> Iterator[tuple[str, type]]:
    """Each key that says something, as its path without numbers, with the type of its value."""
    match value:
        case dict():
            for name, inner in value.items():
                yield from leaves(inner, f"{path}.{name}")
        case list():
            for inner in value:
                yield from leaves(inner, path + "[]")
        case _ if value not in EMPTY:
            yield path, type(value)


def text_of(answers: list[Any]) -> str:
    """What was generated, from a whole answer or from the joined pieces of a stream, in whichever schema."""
    return "".join(_texts(answers))


def _texts(answers: list[Any]) -> Iterator[str]:
    for answer in answers:
        for choice in answer.get("choices", []):
            yield choice.get("text") or choice.get("message", choice.get("delta", {})).get("content") or ""
        yield answer["token"]["text"] if "token" in answer else answer.get("generated_text", "")


@pytest.mark.parametrize("case", ANSWERS, ids=[answer["name"] for answer in ANSWERS])
def test_whatever_an_answer_of_lmi_says_stands_there_too(server: Server, case: dict[str, Any]) -> None:
    """Under the same key and in the same type; only keys that LMI leaves empty may be missing. The text is the same."""
    ask = case["ask"]
    ours = server.lines(ask) if ask.get("stream") else [server.whole(ask)]
    theirs = dict(leaves(case["answer"]))
    here = dict(leaves(ours))
    assert {path: here.get(path) for path in theirs} == theirs
    assert text_of(ours) == text_of(case["answer"])


def standard(prompt: object, **parameters: Any) -> dict[str, Any]:
    return {"inputs": prompt, "parameters": {"max_new_tokens": 8, "details": True, **parameters}}


def test_a_list_of_inputs_gets_an_answer_each(server: Server) -> None:
    """LMI answers the first."""
    prompts = ["The capital of France is", "1, 2, 3, 4,", "Once upon a time"]
    alone = [server.whole(standard(prompt, do_sample=False)) for prompt in prompts]
    together = server.whole(standard(prompts, do_sample=False))
    assert [answer["generated_text"] for answer in together] == [answer["generated_text"] for answer in alone]
    lines = server.lines(standard(prompts, do_sample=False))
    for index, answer in enumerate(alone):
        own = [line for line in lines if line["index"] == index]
        assert "".join(line["token"]["text"] for line in own) == answer["generated_text"] == own[-1]["generated_text"]


def test_sequences_of_a_stream_do_not_mix(server: Server) -> None:
    """LMI puts them all into one history."""
    lines = server.lines(standard("Once upon a time", do_sample=True, temperature=1.5, n=3, seed=5))
    texts = []
    for index in range(3):
        own = [line for line in lines if line["index"] == index]
        assert [line["generated_text"] is None for line in own] == [True] * (len(own) - 1) + [False]
        assert "".join(line["token"]["text"] for line in own) == own[-1]["generated_text"]
        assert own[-1]["details"]["generated_tokens"] == len(own)
        texts.append(own[-1]["generated_text"])
    assert len(set(texts)) == 3


def test_why_a_sequence_ended_is_said(server: Server) -> None:
    """LMI: null for the end of the sequence and for the limit, whole; OpenAI's words, streamed."""
    prompt = "1, 2, 3, 4,"
    for stop, finish in (([], "length"), ([" 6"], "stop_sequence")):
        asked = standard(prompt, max_new_tokens=20, do_sample=False, stop_sequences=stop)
        whole = server.whole(asked)
        assert whole["details"]["finish_reason"] == server.lines(asked)[-1]["details"]["finish_reason"] == finish
        assert (" 6" in whole["generated_text"]) == (finish == "length")
    chat = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ended = server.whole(standard(chat, max_new_tokens=30, do_sample=False))
    assert (ended["generated_text"], ended["details"]["finish_reason"]) == (
        "The capital of France is Paris.",
        "eos_token",
    )
    asked = {
        "messages": [{"role": "user", "content": "Count from 1 to 9, with commas."}],
        "stop": ["5"],
        "temperature": 0,
    }
    assert server.whole(asked)["choices"][0]["stop_reason"] == "5"
    assert server.lines(asked)[-1]["choices"][0]["stop_reason"] == "5"


def test_the_best_of_several_is_the_likeliest(server: Server) -> None:
    """LMI drops best_of and num_beams without a word."""
    asked = standard("Once upon a time", do_sample=True, temperature=1.5, seed=5, best_of=3)
    details = server.whole(asked)["details"]

    def mean(sequence: Any) -> float:
        return float(sum(token["logprob"] for token in sequence["tokens"]) / len(sequence["tokens"]))

    means = [mean(details), *(mean(other) for other in details["best_of_sequences"])]
    assert len(means) == 3
    assert means == sorted(means, reverse=True)
    greedy, beams = (
        server.whole(standard("Once upon a time", **more)) for more in ({"do_sample": False}, {"num_beams": 4})
    )
    total = [sum(token["logprob"] for token in answer["details"]["tokens"]) for answer in (greedy, beams)]
    assert total[1] >= total[0]
