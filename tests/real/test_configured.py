"""A deployment that has chosen otherwise: names, words, strictness, TGI's shapes, turns."""

import contextlib
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import msgspec
import pytest

from lmi_chat.codec.framing import EVENTS
from tests.real.conftest import FINISH_BEFORE_S, Server
from tests.real.test_answers import FRANCE, chat
from tests.real.test_boto import boto, example

LONG = {"messages": [{"role": "user", "content": "Tell a long story."}], "ignore_eos": True, "temperature": 0}


def test_names_words_and_strictness(other: Server) -> None:
    answer = other.whole(chat("What is the capital of France?", model="other"))
    assert answer["model"] == "own"
    assert answer["choices"][0]["finish_reason"] == "eos_token"
    stopped = other.whole(chat("What is the capital of France?", stop=["Paris"]))
    assert stopped["choices"][0]["finish_reason"] == "stop_sequence"
    assert other.whole(chat("Tell a story.", max_tokens=2))["choices"][0]["finish_reason"] == "length"
    status, _, data = other.post({**chat("Hi"), "max_token": 2})
    assert (status, json.loads(data)["error"]["param"]) == (400, "max_token")
    status, _, data = other.post(chat("Hi", max_tokens=1024))
    assert json.loads(data)["error"]["message"].startswith("max_tokens must be at most")


def test_settings_from_everywhere(other: Server) -> None:
    """As conftest.py gives them; the parsers that count are said at the start, once."""
    [model, *others] = json.loads(other.request("GET", "/v1/models")[2])["data"]
    assert [model["id"], others[0]["id"]] == ["own", "other"]
    assert model["max_model_len"] == 1024
    lines = [line for line in other.log.read_text().splitlines() if "note: " in line or "tools: " in line]
    assert lines == ["lmi-chat  tools: hermes (configured); reasoning: none (configured)"]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert other.post(chat("Hi", tools=[tool]))[0] == 400
    [choice] = other.whole(chat("Hi", max_tokens=1, logprobs=True, top_logprobs=30))["choices"]
    assert len(choice["logprobs"]["content"][0]["top_logprobs"]) == 30
    status, _, data = other.post({"inputs": "a " * 1010, "parameters": {"max_new_tokens": 1}})
    assert status == 400
    assert "this deployment takes at most 1000" in data.decode()


def test_what_the_cache_keeps_is_told_to_who_subscribes(other: Server) -> None:
    """As routers do that send a prompt to where its beginning is cached: by the address that the server names."""
    import zmq
    from vllm.distributed.kv_events import BlockStored, KVEventBatch

    named = json.loads(other.request("GET", "/kv_event_sources")[2])["0"]["endpoint"]
    decode = msgspec.msgpack.Decoder(KVEventBatch).decode
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.connect(named)
        subscriber.subscribe(b"")
        stored: list[BlockStored] = []
        for number in range(60):  # what is said before it has subscribed is lost
            body = chat(f"{number} " + "one two three " * 120, max_tokens=1)
            other.whole(body)
            while subscriber.poll(500):
                _, _, payload = subscriber.recv_multipart()
                stored += [event for event in decode(payload).events if isinstance(event, BlockStored)]
            if stored:
                break
    ids = other.whole({"messages": body["messages"]}, "/tokenize")["tokens"]
    told = stored[-1].token_ids
    assert told
    assert any(ids[place : place + len(told)] == told for place in range(0, len(ids), stored[-1].block_size))


def test_vllms_switch_for_whitespace(other: Server) -> None:
    digit = {"type": "integer", "minimum": 1, "maximum": 9}
    schema = {"type": "array", "items": digit, "minItems": 3, "maxItems": 3}
    fields = {"guided_json": schema, "max_tokens": 60}
    [choice] = other.whole(chat("Three numbers, please.", **fields))["choices"]
    assert re.fullmatch(r"\[\d,\d,\d\]", choice["message"]["content"])
    [choice] = other.whole(chat("Three numbers, please.", **fields, guided_whitespace_pattern=" "))["choices"]
    assert re.fullmatch(r"\[\d , \d , \d\]", choice["message"]["content"])


def test_huggingface_hubs_client(other: Server) -> None:
    """Unmodified, on TGI's shapes: text whole and streamed, with details and without; chat by its OpenAI path."""
    client = huggingface_hub.InferenceClient(f"http://127.0.0.1:{other.port}/invocations")
    prompt = "The capital of France is"
    assert client.text_generation(prompt, max_new_tokens=4) == " Paris.\n\n"
    for path in ("", "/generate"):
        own = huggingface_hub.InferenceClient(f"http://127.0.0.1:{other.port}{path}")
        assert own.text_generation(prompt, max_new_tokens=4) == " Paris.\n\n"
    whole: Any = client.text_generation(prompt, max_new_tokens=4, details=True)
    assert (whole.generated_text, whole.details.finish_reason, whole.details.generated_tokens) == (
        " Paris.\n\n",
        "length",
        4,
    )
    assert [token.text for token in whole.details.tokens] == [" Paris", ".", "\n", "\n"]
    deltas: Any = list(client.text_generation(prompt, max_new_tokens=4, stream=True, details=True))
    assert "".join(delta.token.text for delta in deltas) == " Paris.\n\n" == deltas[-1].generated_text
    assert deltas[-1].details.finish_reason == "length"
    assert list(client.text_generation(prompt, max_new_tokens=2, stream=True)) == [" Paris", "."]
    chats = huggingface_hub.InferenceClient(base_url=f"http://127.0.0.1:{other.port}/v1")
    said = chats.chat_completion(FRANCE, max_tokens=16, temperature=0)
    assert said.choices[0].message.content == "The capital of France is Paris."
    chunks = list(chats.chat_completion(FRANCE, max_tokens=16, temperature=0, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "The capital of France is Paris."


def test_an_asynchronous_request_and_the_example_of_boto3(other: Server) -> None:
    folder = other.log.parent / "async"
    runtime = boto(other)
    with contextlib.closing(runtime):
        (folder / "in.json").write_text(json.dumps({"inputs": "The capital of France is", "parameters": {"n": 0}}))
        reply = runtime.invoke_endpoint_async(EndpointName="e", InputLocation=(folder / "in.json").as_uri())
        failure = Path(reply["FailureLocation"].removeprefix("file://"))
        limit = time.monotonic() + 20
        while not failure.exists():
            assert time.monotonic() < limit
            time.sleep(0.02)
        assert json.loads(failure.read_bytes())["param"] == "parameters.n"
    said = example("boto3_client.py", "--url", f"http://127.0.0.1:{other.port}", "--async-folder", str(folder))
    assert said[0] == "whole: The capital of France is Paris."
    assert said[1].replace("|", "") == "streamed: The capital of France is Paris."
    assert said[-2:] == ["session closed: True", "asynchronous: The capital of France is Paris."]


def first_token_s(server: Server, user: str) -> float:
    began = time.monotonic()
    server.post({**LONG, "max_tokens": 1, "user": user})
    return time.monotonic() - began


@pytest.mark.slow
def test_one_users_flood_does_not_starve_another(other: Server) -> None:
    """Eight run at once. With 64 requests of one user waiting, another's single one is next in turn."""
    idle = min(first_token_s(other, "single") for _ in range(3))
    threads = [
        threading.Thread(target=other.post, args=({**LONG, "max_tokens": 16, "user": "flood"},)) for _ in range(64)
    ]
    for thread in threads:
        thread.start()
    limit = time.monotonic() + 20
    while json.loads(other.request("GET", "/ping")[2])["active"] < 60:
        assert time.monotonic() < limit
        time.sleep(0.02)
    began = time.monotonic()
    busy = first_token_s(other, "single")
    for thread in threads:
        thread.join()
    whole = time.monotonic() - began
    print(
        f"first token: idle {idle:.2f} s, behind a flood {busy:.2f} s, ratio {busy / idle:.1f}; the flood {whole:.1f} s"
    )
    assert busy < whole / 4


@pytest.mark.parametrize("stream", [False, True])
def test_errors_in_tgis_shape(other: Server, stream: bool) -> None:  # noqa: FBT001 pytest's parameter
    status, _, data = other.post({"inputs": "x", "parameters": {"top_p": 2}, "stream": stream})
    assert (status, json.loads(data)["code"]) == (400, 400)


def test_a_line_per_token_when_the_engine_hands_over_several(other: Server) -> None:
    """This deployment guesses tokens ahead (ngram) and hands over three at a time."""
    prompt = "one two three one two three one two three one two three é🌟 one two three one two"
    asked = {"inputs": prompt, "parameters": {"max_new_tokens": 40, "details": True, "top_n_tokens": 2}}
    [whole] = other.whole(asked)
    status, headers, data = other.post({**asked, "stream": True})
    assert (status, headers["content-type"]) == (200, EVENTS.content_type)
    lines = [json.loads(event.removeprefix(b"data: ")) for event in data.split(b"\n\n")[:-1]]
    assert [line["token"]["id"] for line in lines] == [token["id"] for token in whole["details"]["tokens"]]
    assert [line["token"]["logprob"] for line in lines] == [token["logprob"] for token in whole["details"]["tokens"]]
    assert len(lines) == whole["details"]["generated_tokens"] == lines[-1]["details"]["generated_tokens"] == 40
    assert "".join(line["token"]["text"] for line in lines) == whole["generated_text"] == lines[-1]["generated_text"]
    assert all(len(line["top_tokens"]) == 2 for line in lines)
    chunks = other.lines(chat("Repeat: one two three one two three one two three", max_tokens=32, logprobs=True))
    counts = [len(scores["content"]) for chunk in chunks if (scores := chunk["choices"][0]["logprobs"])]
    assert max(counts) > 1, "the engine did hand over several at once"
    assert sum(counts) <= 32


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_ends_in_time_with_what_there_is(other: Server, *, is_stream: bool) -> None:
    """More than the engine can generate in the time: cut, with its usage, and off the engine at once."""
    body = {**LONG, "n": 8, "temperature": 1, "max_tokens": 900, "logprobs": True, "stop": ["@@@@@@@@"]}
    began = time.monotonic()
    if is_stream:
        chunks = other.lines({**body, "stream_options": {"include_usage": True}})
        usage = chunks.pop()["usage"]
        counts = [0] * 8
        reasons: dict[int, str | None] = {}
        for chunk in chunks:
            choice = chunk["choices"][0]
            counts[choice["index"]] += len((choice["logprobs"] or {"content": []})["content"])
            reasons[choice["index"]] = choice["finish_reason"] or reasons.get(choice["index"])
    else:
        whole = other.whole(body)
        usage = whole["usage"]
        counts = [len(choice["logprobs"]["content"]) for choice in whole["choices"]]
        reasons = {choice["index"]: choice["finish_reason"] for choice in whole["choices"]}
    assert time.monotonic() - began > FINISH_BEFORE_S - 0.1
    assert "time_limit" in reasons.values()
    assert set(reasons.values()) <= {"time_limit", "length"}
    assert usage["completion_tokens"] == sum(counts)
    assert other.wait_until_idle(2.0)
