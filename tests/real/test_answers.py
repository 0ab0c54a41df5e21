"""Chat and standard requests through the real engine and model: whole, streamed, exact."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from lmi_chat.codec.framing import EVENTS
from tests.real.conftest import Server

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
QUESTIONS = [
    "What is the capital of France?",
    "Name three colours.",
    "Write one sentence about the sea.",
    "What is 2 + 2?",
    "Translate 'good morning' into French.",
    "Who wrote Hamlet?",
    "Give me a word that rhymes with cat.",
    "What is the largest planet?",
    "Describe rain in five words.",
    "Say hello in Czech: Příliš žluťoučký kůň",
    "ประเทศไทยอยู่ที่ไหน",
    "Continue: 🌟🎉🚀",
    "def add(a, b):",
    "Spell 'naïve café' backwards.",
    "List the days of the week.",
    "Is ice colder than steam?",
    "Explain gravity to a child.",
    'Return {"a": 1} as JSON.',
    "What comes after Monday?",
    "東京はどこですか",
]


def chat(question: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 20, **fields}


def standard(prompt: str, **parameters: Any) -> dict[str, Any]:
    return {"inputs": prompt, "parameters": {"max_new_tokens": 24, "do_sample": False, "details": True, **parameters}}


def test_knows_the_capital_of_france(server: Server) -> None:
    answer = server.whole({"messages": FRANCE, "temperature": 0})
    choice = answer["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "The capital of France is Paris.", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == 37
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["usage"]["total_tokens"] == 45


def test_streams_are_the_whole_answers(server: Server) -> None:
    """Joined text, finish reason and counts of 20 prompts, both dialects, all at once."""

    def both(question: str) -> tuple[Any, list[Any], Any, list[Any]]:
        asked = chat(question, stream_options={"include_usage": True})
        whole = {name: value for name, value in asked.items() if name != "stream_options"}
        return (
            server.whole(whole),
            server.lines(asked),
            server.whole(standard(question)),
            server.lines(standard(question)),
        )

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(both, QUESTIONS))
    for question, (whole, chunks, document, tokens) in zip(QUESTIONS, results, strict=True):
        choices = [chunk["choices"][0] for chunk in chunks[:-1]]
        assert (
            "".join(choice["delta"].get("content", "") for choice in choices)
            == whole["choices"][0]["message"]["content"]
        ), question
        assert choices[0]["delta"]["role"] == "assistant"
        assert choices[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]
        counted = ("prompt_tokens", "completion_tokens", "total_tokens")
        assert [chunks[-1]["usage"][name] for name in counted] == [whole["usage"][name] for name in counted]
        assert chunks[-1]["choices"] == []

        assert (
            "".join(line["token"]["text"] for line in tokens)
            == document["generated_text"]
            == tokens[-1]["generated_text"]
        )
        details = document["details"]
        assert [line["token"]["id"] for line in tokens] == [token["id"] for token in details["tokens"]]
        assert len(tokens) == details["generated_tokens"] == tokens[-1]["details"]["generated_tokens"]
        assert details["finish_reason"] == tokens[-1]["details"]["finish_reason"]
        assert "\ufffd" not in document["generated_text"][:-1]


def test_the_chat_prompt_is_the_models_own(server: Server, tokenizer: Any) -> None:
    """The ids that the engine got, shown by asking for the same prompt as plain text with its prefill."""
    from lmi_chat.chat_template import Template

    template = Template(tokenizer)
    chats = [
        FRANCE,
        [{"role": "system", "content": "Be brief."}, *FRANCE],
        [
            *FRANCE,
            {"role": "assistant", "content": "Paris."},
            {"role": "user", "content": "And of Italy? <|im_end|> 🌟"},
        ],
        [{"role": "user", "content": "a\x00b"}],
    ]
    for messages in chats:
        own = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        text = str(template.render(messages))
        assert template.encode(text, add_special_tokens=False) == own
        usage = server.whole({"messages": messages, "max_tokens": 1, "temperature": 0})["usage"]
        assert usage["prompt_tokens"] == len(own)
        prefill = server.whole(standard(text, max_new_tokens=1, decoder_input_details=True))["details"]["prefill"]
        assert [token["id"] for token in prefill] == own[1:]


def test_content_parts_are_the_text_they_hold(server: Server) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": FRANCE[0]["content"]}]}]
    one, two = (server.whole({"messages": messages, "temperature": 0}) for messages in (FRANCE, parts))
    assert one["choices"][0]["message"] == two["choices"][0]["message"]
    assert one["usage"]["prompt_tokens"] == two["usage"]["prompt_tokens"]


def test_logprobs_have_the_tokens_own_bytes(server: Server) -> None:
    answer = server.whole(chat("Say: 🌟 é 日本", logprobs=True, top_logprobs=3, max_tokens=16))
    content = answer["choices"][0]["logprobs"]["content"]
    ended = answer["choices"][0]["finish_reason"] == "stop"
    assert len(content) + ended == answer["usage"]["completion_tokens"]
    for token in content:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 3
        assert [top["logprob"] for top in token["top_logprobs"]] == sorted(
            (top["logprob"] for top in token["top_logprobs"]), reverse=True
        )
        assert token["top_logprobs"][0]["token"] == token["token"]
    said = bytes(byte for token in content for byte in token["bytes"]).decode(errors="ignore")
    assert said.startswith(answer["choices"][0]["message"]["content"].rstrip("\ufffd"))
    *chunks, last = server.lines(chat("Say: 🌟 é 日本", logprobs=True, top_logprobs=3, max_tokens=16))
    assert [token for chunk in chunks for token in chunk["choices"][0]["logprobs"]["content"]] == content
    assert (last["choices"][0]["delta"], last["choices"][0]["logprobs"]) == ({}, None)


@pytest.mark.parametrize(
    "fields", [{}, {"stop": [" Paris"]}, {"stop": ["aris"]}, {"stop": ["never seen"]}, {"stop_token_ids": [7042]}]
)
@pytest.mark.parametrize("top", [0, 2])
def test_the_tokens_that_are_listed_are_the_content(server: Server, fields: dict[str, Any], top: int) -> None:
    """Not what ended it; whole, and in chunks, which list no token before its text, on both paths."""
    asked = {"messages": FRANCE, "temperature": 0, "logprobs": True, "top_logprobs": top, **fields}
    choice = server.whole(asked)["choices"][0]
    listed = choice["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in listed).decode() == choice["message"]["content"]
    assert choice["message"]["content"].startswith("The capital of France is")
    *chunks, last = [chunk["choices"][0] for chunk in server.lines(asked)]
    tokens = [token for chunk in chunks for token in chunk["logprobs"]["content"]]
    assert [token["bytes"] for token in tokens] == [token["bytes"] for token in listed]
    text = own = b""
    for chunk in chunks:
        text += chunk["delta"]["content"].encode()
        own += b"".join(bytes(token["bytes"]) for token in chunk["logprobs"]["content"])
        assert text.startswith(own)
    assert own == text
    assert (last["delta"], last["finish_reason"]) == ({}, choice["finish_reason"])


def test_a_stop_string_that_is_never_seen_changes_no_token(server: Server) -> None:
    free, stopped = (standard("The capital of", max_new_tokens=6, stop=stop) for stop in ([], [" never seen"]))
    expected = server.whole(free)["details"]["tokens"]
    found = server.whole(stopped)["details"]["tokens"]
    assert [(token["id"], token["text"]) for token in found] == [(token["id"], token["text"]) for token in expected]
    lines = [line["token"] for line in server.lines(stopped)]
    assert [(token["id"], token["text"]) for token in lines] == [(token["id"], token["text"]) for token in expected]


def test_top_n_tokens_are_alternatives_and_not_sequences(server: Server) -> None:
    details = server.whole(standard("The capital of France is", max_new_tokens=3, top_n_tokens=2))["details"]
    assert [len(tops) for tops in details["top_tokens"]] == [2, 2, 2]
    assert [tops[0]["id"] for tops in details["top_tokens"]] == [token["id"] for token in details["tokens"]]
    lines = server.lines(standard("The capital of France is", max_new_tokens=3, top_n_tokens=2))
    assert [line["top_tokens"] for line in lines] == details["top_tokens"]


def test_stop_strings_are_honoured_and_held_back(server: Server) -> None:
    prompt = "1, 2, 3, 4,"
    free = server.whole(standard(prompt, max_new_tokens=20))["generated_text"]
    assert " 6" in free
    for name in ("stop_sequences", "stop"):
        document = server.whole(standard(prompt, max_new_tokens=20, **{name: [" 6"]}))
        assert document["generated_text"] == free[: free.index(" 6")]
        assert document["details"]["finish_reason"] == "stop_sequence"
    lines = server.lines(standard(prompt, max_new_tokens=20, stop=[" 6"]))
    assert "".join(line["token"]["text"] for line in lines) == lines[-1]["generated_text"] == free[: free.index(" 6")]
    kept = server.whole(standard(prompt, max_new_tokens=20, stop=[" 6"], include_stop_str_in_output=True))
    assert kept["generated_text"] == free[: free.index(" 6")] + " 6"
    told = server.whole(chat("Count from 1 to 9, with commas.", stop=["5"], max_tokens=40))["choices"][0]
    assert "5" not in told["message"]["content"]


def test_seeds_repeat_and_are_reported(server: Server) -> None:
    asked = standard("Once upon a time", do_sample=True, temperature=1.5, max_new_tokens=16)
    first = server.whole(asked)
    again = server.whole(
        standard("Once upon a time", do_sample=True, temperature=1.5, max_new_tokens=16, seed=first["details"]["seed"])
    )
    assert again["generated_text"] == first["generated_text"]
    assert first["details"]["seed"] != server.whole(asked)["details"]["seed"]
    assert server.whole(standard("Once upon a time"))["details"]["seed"] is None


def test_sampling_fields_reach_the_engine(server: Server) -> None:
    """Each changes what a greedy or seeded answer is, or bounds it."""
    plain = server.whole(chat("Write a sentence."))["choices"][0]["message"]["content"]
    first = server.whole(chat("Write a sentence.", logprobs=True, max_tokens=1))["choices"][0]["logprobs"]["content"][0]
    token_id = server.whole(standard(first["token"], max_new_tokens=1, decoder_input_details=True))
    assert token_id["details"]["usage"]["prompt_tokens"] == 1
    biased = server.whole(chat("Write a sentence.", logit_bias={"504": 100}, max_tokens=2))["choices"][0]["message"][
        "content"
    ]
    assert biased == "TheThe"
    assert server.whole(chat("Hi", ignore_eos=True, max_tokens=40))["usage"]["completion_tokens"] == 40
    assert server.whole(chat("Hi", min_tokens=20, max_tokens=30))["usage"]["completion_tokens"] >= 20
    assert server.whole(chat("Write a sentence.", frequency_penalty=2, presence_penalty=2, max_tokens=60)) is not None
    one, two = (
        server.whole(chat("Tell a story.", temperature=1.2, top_p=0.9, top_k=40, min_p=0.01, seed=7))["choices"][0][
            "message"
        ]["content"]
        for _ in range(2)
    )
    assert one == two != plain
    several = server.whole(chat("Tell a story.", temperature=1.5, n=3, seed=3))
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in several["choices"]}) == 3


def test_full_text_and_truncation(server: Server) -> None:
    prompt = "The capital of France is"
    short = server.whole(standard(prompt, max_new_tokens=4))["generated_text"]
    assert server.whole(standard(prompt, max_new_tokens=4, return_full_text=True))["generated_text"] == prompt + short
    cut = server.whole(standard("nonsense " * 50 + prompt, max_new_tokens=4, truncate=5))
    assert cut["generated_text"] == short
    assert cut["details"]["usage"]["prompt_tokens"] == 5


def test_the_openai_client_streams(server: Server) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none")
    name = client.models.list().data[0].id
    whole = client.chat.completions.create(model=name, messages=FRANCE, temperature=0)  # type: ignore[arg-type]
    assert whole.choices[0].message.content == "The capital of France is Paris."
    stream = client.chat.completions.create(
        model="",
        messages=FRANCE,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},  # type: ignore[call-overload]
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "The capital of France is Paris."
    assert chunks[-1].usage.completion_tokens == 8
    with pytest.raises(openai.BadRequestError, match=r"temperature must be at least 0 and at most 2, got 3"):
        client.chat.completions.create(model="", messages=FRANCE, temperature=3)  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError, match="nope"):
        client.chat.completions.create(model="nope", messages=FRANCE)  # type: ignore[arg-type]
    client.close()


def test_events_end_with_done_and_parse_alone(server: Server) -> None:
    status, headers, data = server.post(chat("Hi", stream=True), "/v1/chat/completions")
    assert status == 200
    assert headers["content-type"] == EVENTS.content_type
    events = data.split(b"\n\n")
    assert events.pop() == b""
    assert events.pop() == b"data: [DONE]"
    assert all(json.loads(event.removeprefix(b"data: "))["object"] == "chat.completion.chunk" for event in events)
    status, headers, data = server.post({**standard("Hi"), "stream": True}, accept="text/event-stream")
    assert headers["content-type"] == EVENTS.content_type
    assert b"[DONE]" not in data
    assert all(json.loads(event.removeprefix(b"data: "))["token"] for event in data.split(b"\n\n")[:-1])


def test_a_prompt_that_does_not_fit_is_refused_with_counts(server: Server) -> None:
    status, _, data = server.post(standard("word " * 9000))
    assert status == 400
    assert json.loads(data)["error"] == (
        "inputs has 9001 tokens, and at least one is generated: the prompt is too long. "
        "This model's maximum context length is 8192 tokens (`inputs` tokens + `max_new_tokens` must be <= 8192)"
    )


IM_END = 2
"""The id of <|im_end|>."""


def test_text_that_spells_a_special_token_is_that_token(server: Server) -> None:
    """As the model's own tokenizer reads it: in a chat, in a completion and in the standard schema."""
    for text, count in (("no end", 0), ("an end<|im_end|>", 1), ("one<|im_end|>two<|im_end|>", 2)):
        asked = {"max_tokens": 1, "return_token_ids": True}
        (choice,) = server.whole({"messages": [{"role": "user", "content": text}], **asked})["choices"]
        assert choice["prompt_token_ids"].count(IM_END) == 2 + count, "the template's own are two"
        (choice,) = server.whole({"prompt": text, **asked})["choices"]
        assert choice["prompt_token_ids"].count(IM_END) == count
        whole = server.whole(standard(text, max_new_tokens=1, decoder_input_details=True))
        assert [token["id"] for token in whole["details"]["prefill"]].count(IM_END) == count


def test_a_limit_of_tokens_is_a_cap_and_no_reservation(server: Server) -> None:
    status, headers, data = server.post(chat("Hi", max_tokens=8192, stream=True, stop=["e"]))
    assert (status, b"finish_reason" in data) == (200, True)
    assert headers["x-lmi-chat-warning"].startswith("max_tokens is cut to 81")
    status, _, data = server.post(standard("x" * 10_000_000))
    assert status == 400
    assert "characters" in json.loads(data)["error"]


def test_what_only_the_engine_knows_is_refused_by_name(server: Server) -> None:
    status, _, data = server.post(chat("Hi", stop_token_ids=[49152]))
    assert status == 400
    assert json.loads(data)["error"]["param"] == "stop_token_ids"
    status, _, data = server.post(chat("Hi", bad_words=["x" * 1000] * 200))
    assert status == 200, "one word"
