"""An unmodified boto3, and the examples of other clients, against the real engine."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.real.conftest import Server

ROOT = Path(__file__).parents[2]
FRANCE = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
PARIS = "The capital of France is Paris."


def boto(server: Server) -> Any:
    return boto3.client(
        "sagemaker-runtime",
        endpoint_url=f"http://127.0.0.1:{server.port}",
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
    )


def example(name: str, *words: str, **environment: str) -> list[str]:
    """The lines that a script of examples/ prints; what it needs is found by PYTHONPATH first."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / name), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def runtime(server: Server) -> Iterator[Any]:
    with contextlib.closing(boto(server)) as client:
        yield client


def test_whole_and_streamed_say_the_same(runtime: Any) -> None:
    whole = runtime.invoke_endpoint(EndpointName="e", Body=json.dumps(FRANCE))
    assert json.loads(whole["Body"].read())["choices"][0]["message"]["content"] == PARIS
    for accept, rest, prefix in (
        ("application/jsonlines", "", b""),
        ("text/event-stream", "; charset=utf-8", b"data: "),
    ):
        body = json.dumps({**FRANCE, "stream": True})
        reply = runtime.invoke_endpoint_with_response_stream(EndpointName="e", Body=body, Accept=accept)
        assert reply["ContentType"] == accept + rest
        parts = [event["PayloadPart"]["Bytes"] for event in reply["Body"]]
        if prefix:
            assert parts.pop() == b"data: [DONE]\n\n"
        chunks = [json.loads(part.removeprefix(prefix)) for part in parts]
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == PARIS


def test_errors_are_typed(runtime: Any) -> None:
    with pytest.raises(runtime.exceptions.ModelError) as caught:
        runtime.invoke_endpoint(EndpointName="e", Body=json.dumps({**FRANCE, "max_tokens": 0}))
    assert caught.value.response["OriginalStatusCode"] == 400
    assert "max_tokens must be at least 1" in caught.value.response["OriginalMessage"]


def test_the_example_of_openai(server: Server) -> None:
    said = example("openai_client.py", "--url", f"http://127.0.0.1:{server.port}")
    assert said[0] == f"whole: {PARIS}"
    assert said[1].replace("|", "") == f"streamed: {PARIS}"
    assert said[2] == "refused: Error code: 400 - temperature must be at least 0 and at most 2, got 3"


@pytest.mark.slow
def test_the_examples_of_litellm_and_langchain(server: Server, tmp_path: Path) -> None:
    """They want older versions of what is installed here, so that they get a folder of their own."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--target", str(tmp_path)]
    subprocess.run([*install, "litellm", "langchain-aws", "boto3"], check=True, timeout=500)
    found = {"PYTHONPATH": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    url = ("--url", f"http://127.0.0.1:{server.port}")
    said = example("litellm_client.py", *url, **found)
    assert said[0] == f"sagemaker_chat: {PARIS}"
    assert said[1].replace("|", "") == f"sagemaker_chat, streamed: {PARIS}"
    assert said[2].startswith("sagemaker: ")
    assert said[3].replace("|", "").removeprefix("sagemaker, streamed: ") == said[2].removeprefix("sagemaker: ")
    said = example("langchain_client.py", *url, **found)
    assert said[0].startswith("whole:  Paris.")
    whole, streamed = "".join(said).split("streamed:")
    assert streamed.replace("|", "").strip() == whole.removeprefix("whole:").strip()
