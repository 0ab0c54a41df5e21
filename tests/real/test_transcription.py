"""A real Whisper of random weights on the real engine, beside vLLM's own speech server on the same engine."""

import base64
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import openai
import pytest

from tests.real.conftest import Server, end, start
from tests.support import pages, speech, whisper_folder
from tests.support.speech import FORM, noise, recording, written

SPECIAL = re.compile(r"<\|[a-z]+\|>")
PATH = "/v1/audio/transcriptions"
NUMBERS = {"temperature": float, "seed": int, "max_completion_tokens": int}


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("whisper")
    model = whisper_folder.make(folder / "model")
    words = ("--model-id", str(model), "--served-model-name", "whisper")
    running = start(folder / "log", *words, command=("tests.support.beside_vllm", "serve"))
    yield running
    end(running)


def ask(server: Server, fields: Mapping[str, str], file: bytes, path: str = PATH) -> tuple[int, str, bytes]:
    status, headers, data = server.request("POST", path, speech.form(fields, file), {"content-type": FORM})
    return status, headers["content-type"], data


def heard(server: Server, fields: Mapping[str, str], file: bytes, path: str = PATH) -> Any:
    status, _, data = ask(server, fields, file, path)
    assert status == 200, data
    return json.loads(data)


def reference(server: Server, fields: Mapping[str, str], file: bytes, task: str = "transcribe") -> bytes:
    """What vLLM's own server answers."""
    given: dict[str, Any] = {name: NUMBERS.get(name, str)(text) for name, text in fields.items()}
    given |= {"model": "whisper", "audio": base64.b64encode(file).decode()} | (
        {"stream": True} if "stream" in given else {}
    )
    status, _, data = server.request("POST", f"/reference/{task}", json.dumps(given).encode())
    assert status == 200, data
    return data


def quiet_between(seconds: float) -> bytes:
    """Noise with half a second of silence near each half minute, where a recording may be cut."""
    samples = noise(seconds)
    for at in (29.3, 58.2):
        samples[int(at * 16_000) : int((at + 0.5) * 16_000)] = 0
    return written(samples.tobytes())


SHORT, LONG = recording(3), quiet_between(70)


@pytest.mark.parametrize("file", [SHORT, LONG], ids=["one clip", "three clips"])
def test_vllms_own_server_says_the_same(whisper: Server, file: bytes) -> None:
    """Given languages and found ones, greedy and drawn, with spaces between clips and without; streamed as well."""
    cases: list[dict[str, str]] = [
        {},
        {"language": "en"},
        {"language": "ja", "max_completion_tokens": "20"},
        {"language": "de", "temperature": "0.8", "seed": "7"},
    ]
    texts = []
    for fields in cases:
        answer = heard(whisper, fields, file)
        assert answer == json.loads(reference(whisper, fields, file)), fields
        texts.append(answer["text"])
        _, content_type, data = ask(whisper, {**fields, "stream": "true"}, file)
        assert content_type.startswith("text/event-stream")
        events = [json.loads(event.removeprefix("data: ")) for event in data.decode().split("\n\n")[:-2]]
        told = reference(whisper, {**fields, "stream": "true"}, file).decode().split("\n\n")[:-2]
        chunks = [json.loads(event.removeprefix("data: ")) for event in told]
        said = "".join(choice["delta"]["content"] for event in events for choice in event["choices"])
        assert said == "".join(choice["delta"]["content"] for event in chunks for choice in event["choices"])
        assert events[-1]["text"] == said
    assert len(set(texts)) == len(cases)


@pytest.mark.parametrize("file", [SHORT, LONG], ids=["one clip", "three clips"])
def test_times_are_those_of_vllms_own_server(whisper: Server, file: bytes) -> None:
    """Segments in which nothing is said are left out here, and what no time closes is not lost."""
    fields = {"response_format": "verbose_json", "temperature": "1", "seed": "3", "language": "en"}
    ours, theirs = heard(whisper, fields, file), json.loads(reference(whisper, fields, file))
    assert (ours["language"], ours["duration"]) == (theirs["language"], pytest.approx(theirs["duration"]))
    special = {place for place, one in enumerate(theirs["segments"]) if SPECIAL.search(one["text"])}
    told = [one for place, one in enumerate(theirs["segments"]) if one["text"] and place not in special]
    by_start = {(one["start"], one["end"], one["text"]): one for one in ours["segments"]}
    assert len(told) > 5
    for one in told:
        mine = by_start[round(one["start"], 2), round(one["end"], 2), one["text"]]
        assert mine["tokens"] == one["tokens"]
        assert mine["avg_logprob"] == pytest.approx(one["avg_logprob"], abs=1e-4)
        assert mine["compression_ratio"] == pytest.approx(one["compression_ratio"])
        assert mine["temperature"] == one["temperature"]
    _, content_type, data = ask(whisper, {**fields, "response_format": "srt"}, file)
    assert content_type.startswith("application/x-subrip")
    assert len(re.findall(r"^\d\d:\d\d:\d\d,\d{3} --> ", data.decode(), re.MULTILINE)) == len(ours["segments"])


def test_translations(whisper: Server) -> None:
    path = "/v1/audio/translations"
    translated = heard(whisper, {"language": "de"}, SHORT, path)
    assert translated["text"] == json.loads(reference(whisper, {"language": "de"}, SHORT, "translate"))["text"]
    assert translated["text"] != heard(whisper, {"language": "de"}, SHORT)["text"]


def test_a_prompt_is_one(whisper: Server) -> None:
    """It stands behind the token that the tokenizer has for it; one that has no room is refused."""
    plain = heard(whisper, {"language": "en"}, SHORT)["text"]
    assert heard(whisper, {"language": "en", "prompt": "Dr. Zoë"}, SHORT)["text"] != plain
    status, _, data = ask(whisper, {"language": "en", "prompt": "a" * 1000}, SHORT)
    assert status == 400, data


def test_another_rate_and_two_channels_are_resampled(whisper: Server) -> None:
    both = np.repeat(noise(2, 44_100), 2)
    answer = heard(whisper, {"language": "en"}, written(both.tobytes(), rate=44_100, channels=2))
    assert answer["usage"] == {"type": "duration", "seconds": 2}
    one = heard(whisper, {"language": "en"}, written(noise(2, 44_100).tobytes(), rate=44_100))
    assert answer == one


def test_the_openai_client(whisper: Server) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{whisper.port}/v1", api_key="none") as client:
        given: dict[str, Any] = {"model": "whisper", "file": ("a.wav", SHORT), "language": "en"}
        whole = client.audio.transcriptions.create(**given)
        events = list(client.audio.transcriptions.create(**given, stream=True))
        assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == whole.text
        assert events[-1].text == whole.text


def test_boto3_sends_a_form(whisper: Server) -> None:
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=f"http://127.0.0.1:{whisper.port}",
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
    )
    form = {"EndpointName": "any", "ContentType": FORM, "Body": speech.form({"language": "en"}, SHORT)}
    reply = runtime.invoke_endpoint(**form, CustomAttributes=f"route={PATH}")
    assert json.loads(reply["Body"].read()) == heard(whisper, {"language": "en"}, SHORT)
    runtime.close()


def test_a_client_that_goes_is_taken_off_the_engine(whisper: Server, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(recording(200))
    url = f"http://127.0.0.1:{whisper.port}{PATH}"
    with subprocess.Popen(
        ["curl", "-sN", url, "-F", f"file=@{tmp_path}/a.wav", "-F", "stream=true"], stdout=-1
    ) as curl:
        assert curl.stdout
        curl.stdout.read(1)
        curl.kill()
    assert whisper.wait_until_idle(10)
    assert heard(whisper, {}, SHORT)["text"]


def test_what_the_model_cannot_do_is_said(whisper: Server) -> None:
    for body in ({"messages": [{"role": "user", "content": "a"}]}, {"inputs": "a"}, {"prompt": "a"}):
        status, _, data = whisper.post(body)
        assert status == 400
        assert "the served model whisper writes what is said in recordings" in json.loads(data)["error"]["message"]
    status, _, data = whisper.request("GET", "/openapi.json")
    assert (status, PATH in json.loads(data)["paths"]) == (200, True)
    assert "Traceback" not in whisper.log.read_text()


@pytest.mark.parametrize("block", [one for one in pages.EXAMPLES if one.mark == pages.SPEECH], ids=str)
def test_the_pages_examples(
    whisper: Server, tmp_path: Path, block: pages.Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "speech.wav").write_bytes(recording(2))
    monkeypatch.chdir(tmp_path)
    assert block.shown
    assert pages.said_by(block, whisper.port, tmp_path).strip() == block.shown.strip()
