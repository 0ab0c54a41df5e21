"""Adapters on the real engine, as SageMaker's, OpenAI's and TGI's clients ask for them, out of an archive."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import openai
import pytest

from tests.real.conftest import LoraServer

MESSAGES: Any = [{"role": "user", "content": "Name the colours of the rainbow."}]
CHAT: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 12, "temperature": 0}
HEADER = "X-Amzn-SageMaker-Adapter-Identifier"
CODE = """
from djl_python.output_formatter import output_formatter

@output_formatter
def own(answer):
    return {"mine": answer["choices"][0]["message"]["content"]}
"""


@pytest.fixture
def served(lora: LoraServer, tmp_path: Path) -> Iterator[LoraServer]:
    """Two adapters: one out of an archive, as an inference component's artefact is, and one with code of its own."""
    with tarfile.open(tmp_path / "french.tar.gz", "w:gz") as archive:
        archive.add(lora.four[0], "adapter")
    (tmp_path / "german").mkdir()
    for path in lora.four[1].iterdir():
        (tmp_path / "german" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "german" / "model.py").write_text(CODE)
    for name, src in (("french", "french.tar.gz"), ("german", "german")):
        assert lora.post({"name": name, "src": str(tmp_path / src)}, "/adapters")[0] == 200
    yield lora
    for name in ("french", "german"):
        assert lora.request("DELETE", f"/adapters/{name}")[0] == 200


def test_every_client_gets_the_adapter_that_it_asks_for(served: LoraServer) -> None:
    base = served.whole(CHAT)
    french = served.whole(CHAT | {"adapters": "french"})
    text = french["choices"][0]["message"]["content"]
    assert (base["model"] != "french", french["model"]) == (True, "french")
    assert text != base["choices"][0]["message"]["content"]
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="none", max_retries=0)
    given: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    assert client.chat.completions.create(model="french", **given).choices[0].message.content == text
    with client.chat.completions.create(model="french", stream=True, **given) as stream:
        chunks = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(chunks) == text
    cards = {card.id: card for card in client.models.list()}
    assert cards["french"].model_extra is not None
    assert cards["french"].model_extra["parent"] in cards
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="italian", **given)
    assert by_boto3(served, CHAT) == text
    client.close()


def by_boto3(served: LoraServer, body: dict[str, Any]) -> str:
    """What boto3 gets, where the platform adds the header of an adapter's inference component."""
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=f"http://127.0.0.1:{served.port}",
        region_name="eu-west-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
    )

    def add(request: Any, **_: object) -> None:
        request.headers.add_header(HEADER, "french")

    runtime.meta.events.register("before-sign.sagemaker-runtime.*", add)
    answer = runtime.invoke_endpoint(
        EndpointName="e", InferenceComponentName="french", ContentType="application/json", Body=json.dumps(body)
    )
    runtime.close()
    return str(json.load(answer["Body"])["choices"][0]["message"]["content"])


def test_an_adapters_own_formatter_writes_its_answers(served: LoraServer) -> None:
    found = served.whole(CHAT | {"model": "german"})
    assert found.keys() == {"mine"}
    assert found["mine"]
    assert "choices" in served.whole(CHAT | {"model": "french"})
    assert "choices" in served.whole(CHAT)


def test_tgis_clients_and_records_name_adapters(served: LoraServer) -> None:
    body = {"inputs": "The colours of the rainbow are", "parameters": {"max_new_tokens": 12, "do_sample": False}}
    texts = [served.whole(body | {"adapters": name})["generated_text"] for name in ("", "french")]
    assert texts[0] != texts[1]
    tgi = {**body, "parameters": {**body["parameters"], "adapter_id": "french"}}  # type: ignore[dict-item]
    assert served.whole(tgi)["generated_text"] == texts[1]


def test_its_requests_are_counted_by_name(served: LoraServer) -> None:
    served.whole(CHAT | {"model": "french"})
    text = served.request("GET", "/metrics")[2].decode()
    assert 'lmi_chat_adapter_requests_total{adapter="french",status="200"}' in text
    assert "lmi_chat_adapters 2.0" in text
