"""Legacy completions through the real engine: text and ids, whole and streamed, echoed and scored."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.real.conftest import Server

FRANCE = "The capital of France is"
PROMPTS = [FRANCE, "1, 2, 3, 4,", "Příliš žluťoučký kůň 🌟 日本"]


def asked(prompt: Any = FRANCE, **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "temperature": 0, "max_tokens": 12, **fields}


def texts(chunks: list[Any]) -> dict[int, str]:
    joined: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        joined[choice["index"]] = joined.get(choice["index"], "") + choice["text"]
    return joined


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none") as own:
        yield own


def test_knows_the_capital_of_france(server: Server) -> None:
    answer = server.whole({"prompt": FRANCE, "max_tokens": 4, "temperature": 0})
    assert (answer["object"], answer["choices"][0]["finish_reason"]) == ("text_completion", "length")
    assert answer["choices"][0]["text"].startswith(" Paris")
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (5, 4)
    assert server.whole({"prompt": FRANCE})["usage"]["completion_tokens"] <= 16


def test_streams_are_the_whole_answers(server: Server) -> None:
    fields = {"logprobs": 2, "echo": True}
    whole = server.whole(asked(PROMPTS, **fields))
    chunks = server.lines(asked(PROMPTS, **fields, stream_options={"include_usage": True}))
    assert texts(chunks) == texts([whole])
    assert len(whole["choices"]) == len(PROMPTS)
    counted = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [chunks[-1]["usage"][name] for name in counted] == [whole["usage"][name] for name in counted]
    for choice in whole["choices"]:
        own = [each for chunk in chunks for each in chunk["choices"] if each["index"] == choice["index"]]
        shown = choice["logprobs"]
        for name, items in shown.items():
            streamed = [item for each in own for item in each["logprobs"][name]]
            near = name == "token_logprobs"
            assert (streamed == pytest.approx(items, abs=0.01, nan_ok=True)) if near else len(streamed) == len(items)
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        assert [
            choice["text"][at:].startswith(one)
            for at, one in zip(shown["text_offset"], shown["tokens"], strict=True)
            if one and "\ufffd" not in one
        ].count(False) == 0


def test_ids_are_the_text_they_stand_for(server: Server, tokenizer: Any) -> None:
    ids = [tokenizer.encode(prompt) for prompt in PROMPTS]
    of_text = server.whole(asked(PROMPTS, echo=True))
    of_ids = server.whole(asked(ids, echo=True))
    assert texts([of_ids]) == texts([of_text])
    assert of_ids["usage"]["prompt_tokens"] == of_text["usage"]["prompt_tokens"] == sum(map(len, ids))
    assert texts([server.whole(asked(ids[0]))]) == texts([server.whole(asked(FRANCE))])
    cut = server.whole(asked("nonsense " * 50 + FRANCE, truncate_prompt_tokens=5, echo=True))
    assert cut["choices"][0]["text"].startswith(" " + FRANCE)
    assert cut["usage"]["prompt_tokens"] == 5
    status, _, data = server.post(asked([49152]))
    assert status == 400
    assert b"prompt[0] must be a token id of at least 0 and at most 49151" in data


def test_a_prompt_is_scored(server: Server) -> None:
    """Without generation: the sums are those of the same tokens when they were generated."""
    generated = server.whole(asked(logprobs=0, max_tokens=6))["choices"][0]
    text = FRANCE + generated["text"]
    scored = server.whole(asked(text, logprobs=3, echo=True, max_tokens=0))
    [choice] = scored["choices"]
    assert (choice["text"], choice["finish_reason"], scored["usage"]["completion_tokens"]) == (text, "length", 0)
    shown = choice["logprobs"]
    assert "".join(shown["tokens"]) == text
    assert shown["token_logprobs"][0] is None
    assert shown["top_logprobs"][0] is None
    assert len(shown["tokens"]) == scored["usage"]["prompt_tokens"] == 11
    assert sum(shown["token_logprobs"][5:]) == pytest.approx(sum(generated["logprobs"]["token_logprobs"]), abs=0.05)
    for token, tops in zip(shown["tokens"][5:], shown["top_logprobs"][5:], strict=True):
        assert max(tops, key=lambda each: tops[each]) == token
        assert len(tops) == 3
    assert all(3 <= len(tops) <= 4 for tops in shown["top_logprobs"][1:])
    [streamed] = server.lines(asked(text, logprobs=3, echo=True, max_tokens=0))
    assert streamed["choices"][0]["logprobs"]["token_logprobs"][1:] == pytest.approx(
        shown["token_logprobs"][1:], abs=0.01
    )
    one = server.whole(asked("The", logprobs=0, echo=True, max_tokens=0))["choices"][0]["logprobs"]
    assert (one["tokens"], one["token_logprobs"], one["text_offset"]) == (["The"], [None], [0])


def test_several_sequences_of_several_prompts(server: Server) -> None:
    answer = server.whole(asked(PROMPTS[:2], n=2, best_of=3, temperature=1, seed=1, logprobs=0))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    means = [sum(own := choice["logprobs"]["token_logprobs"]) / len(own) for choice in answer["choices"]]
    assert means[0] >= means[1]
    assert means[2] >= means[3]
    chunks = server.lines(asked(PROMPTS[:2], n=2, temperature=1, seed=1, echo=True, logprobs=1))
    streamed = texts(chunks)
    for index in range(4):
        own = [each["logprobs"] for chunk in chunks for each in chunk["choices"] if each["index"] == index]
        assert "".join(token for one in own for token in one["tokens"]).startswith(PROMPTS[index // 2])
        assert [logprob for one in own for logprob in one["token_logprobs"]].count(None) == 1
    assert [streamed[index].startswith(PROMPTS[index // 2]) for index in range(4)] == [True] * 4
    assert streamed[0] != streamed[1]
    beams = server.whole(asked(n=2, use_beam_search=True, max_tokens=4, echo=True))["choices"]
    assert [choice["text"].startswith(FRANCE) for choice in beams] == [True, True]
    assert beams[0]["text"] != beams[1]["text"]
    copies = server.whole(asked(n=2, echo=True, logprobs=1))["choices"]
    assert copies[0] | {"index": 1} == copies[1]


def test_the_openai_client(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="", prompt=FRANCE, temperature=0, max_tokens=8, logprobs=2)
    choice = whole.choices[0]
    assert choice.text.startswith(" Paris")
    assert choice.logprobs is not None
    assert [len(tops) for tops in choice.logprobs.top_logprobs or []] == [2] * 8
    assert "".join(choice.logprobs.tokens or []) == choice.text
    stream = client.completions.create(model="", prompt=FRANCE, temperature=0, max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == choice.text
    several = client.completions.create(model="", prompt=PROMPTS, temperature=1, max_tokens=8, n=2, seed=3)
    assert [each.index for each in several.choices] == list(range(6))
    assert several.usage is not None
    assert several.usage.completion_tokens <= 48
    with pytest.raises(openai.BadRequestError, match="suffix is not supported by the served model"):
        client.completions.create(model="", prompt=FRANCE, suffix="!")
    with pytest.raises(openai.NotFoundError, match="nope"):
        client.completions.create(model="nope", prompt=FRANCE)


def test_a_guide_holds_for_completions_too(server: Server) -> None:
    asked = {"prompt": "The sky is", "max_tokens": 8, "temperature": 0, "guided_choice": ["blue", "green"]}
    assert server.whole(asked, "/v1/completions")["choices"][0]["text"] in {"blue", "green"}
