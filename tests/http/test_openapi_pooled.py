"""The OpenAPI document of models that pool takes the bodies that are taken, and their answers keep to it."""

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import jsonschema_rs
import openapi_spec_validator
import pytest

from lmi_chat.codec.json_text import Json
from lmi_chat.errors import Error
from lmi_chat.http.openapi import document
from lmi_chat.job import Embedding, Finished, Job
from lmi_chat.limits import Limits
from tests.http.test_app import send
from tests.support.fakes import LABELS, SCORER, SPACE, TOKENS, JoiningPairs, deployment, parse
from tests.support.scripted import Scripted, Service, Step, serving

pytestmark = pytest.mark.processes

FEW = Limits(max_inputs=3)
MODELS: dict[str, dict[str, Any]] = {
    "embeds": {"pooler": SPACE},
    "scores": {"pooler": SCORER, "pairs": JoiningPairs()},
    "instructed": {"pooler": SCORER, "pairs": JoiningPairs(takes_instruction=True)},
    "labels": {"pooler": LABELS, "pairs": JoiningPairs()},
    "tokens": {"pooler": TOKENS},
}
DOCUMENTS = {
    name: document(deployment(limits=FEW, **model), has_sessions=False, has_async=False)
    for name, model in MODELS.items()
}
SCORING = {"/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"}


@pytest.mark.parametrize(
    ("model", "there", "absent"),
    [
        ("embeds", {"/v1/embeddings", "/pooling", *SCORING}, {"/classify", "/predict"}),
        ("scores", {"/classify", "/predict", "/pooling", *SCORING}, {"/v1/embeddings"}),
        ("labels", {"/classify", "/predict", "/pooling"}, {"/v1/embeddings", *SCORING}),
        ("tokens", {"/pooling", *SCORING}, {"/v1/embeddings", "/classify"}),
    ],
)
def test_each_kind_of_model_shows_its_own_paths(model: str, there: set[str], absent: set[str]) -> None:
    openapi_spec_validator.validate(DOCUMENTS[model])
    paths = DOCUMENTS[model]["paths"].keys()
    assert there <= paths
    assert not absent & paths


PAIR = {"text_1": "a", "text_2": ["b"]}
RANK = {"query": "a", "documents": ["b"]}
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("ScoreRequest", PAIR),
    ("ScoreRequest", {"text_1": ["a"], "text_2": "b", "use_activation": None}),
    ("ScoreRequest", {"queries": ["a"], "items": [{"text": "b"}, "c"]}),
    ("ScoreRequest", {"text": "a", "text_pair": "b"}),
    ("ScoreRequest", {"text": "", "text_pair": "b"}),
    ("ScoreRequest", {"text_1": "a"}),
    ("ScoreRequest", {**PAIR, "documents": ["c"]}),
    ("ScoreRequest", {**PAIR, "documents": None}),
    ("ScoreRequest", {"text_1": [], "text_2": "b"}),
    ("ScoreRequest", {"text_1": "a", "text_2": ["b"] * 4}),
    ("ScoreRequest", {"text_1": "a", "text_2": [3]}),
    ("ScoreRequest", {"text_1": "a", "text_2": [{"tex": "b"}]}),
    ("ScoreRequest", {**PAIR, "max_tokens_per_doc": 1024}),
    ("ScoreRequest", {**PAIR, "truncate_prompt_tokens": 0}),
    ("ScoreRequest", {**PAIR, "instruction": "Find."}),
    ("ScoreRequest", {**PAIR, "instruction": ""}),
    ("RerankRequest", RANK),
    ("RerankRequest", {"query": "a", "texts": [{"text": "b"}], "return_text": True}),
    ("RerankRequest", {"query": "a", "documents": "b"}),
    ("RerankRequest", {"query": "", "documents": ["b"]}),
    ("RerankRequest", {"query": "a"}),
    ("RerankRequest", {"query": "a", "documents": ["b"], "texts": ["b"]}),
    ("RerankRequest", {**RANK, "top_n": -1}),
    ("RerankRequest", {**RANK, "top_n": None}),
    ("RerankRequest", {**RANK, "stream": False, "padding": "do_not_pad"}),
    ("ClassificationRequest", {"input": ["a", [1]]}),
    ("ClassificationRequest", {"inputs": {"text": "a", "text_pair": "b"}}),
    ("ClassificationRequest", {"inputs": ["a", {"text": "b"}], "parameters": {"top_k": 1}}),
    ("ClassificationRequest", {"inputs": ["a", ["b"]]}),
    ("ClassificationRequest", {"inputs": ""}),
    ("ClassificationRequest", {"inputs": "a", "top_k": 0}),
    ("ClassificationRequest", {"input": "a", "inputs": "a"}),
    ("PredictRequest", {"inputs": ["a", "b"]}),
    ("PredictRequest", {"inputs": ["a"]}),
    ("PredictRequest", {"inputs": [["a", "b"], "c"]}),
    ("PredictRequest", {"inputs": [["a", "b", "c"]]}),
    ("PredictRequest", {"inputs": ["a", "b", "c"]}),
    ("PoolingRequest", {"input": "a", "encoding_format": "base64"}),
    ("PoolingRequest", {"inputs": ["a"], "parameters": {"normalize": False}}),
    ("PoolingRequest", {"input": "a", "task": "token_classify"}),
    ("PoolingRequest", {"input": "a", "task": None}),
]
FORMS = {
    "ScoreRequest": "score",
    "RerankRequest": "rerank",
    "ClassificationRequest": "classification",
    "PredictRequest": "predict",
    "PoolingRequest": "pooling",
}


def is_taken(body: dict[str, Any], name: str, model: str) -> bool:
    try:
        return bool(parse(body, deployment(limits=FEW, **MODELS[model]), forced=FORMS[name]).jobs)
    except Error:
        return False


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "body"), BODIES, ids=str)
def test_the_document_takes_the_bodies_that_are_taken(name: str, body: dict[str, Any], model: str) -> None:
    schemas = DOCUMENTS[model]["components"]["schemas"]
    if name in schemas:
        assert jsonschema_rs.Draft202012Validator(schemas[name]).is_valid(body) == is_taken(body, name, model)
    else:
        assert not is_taken(body, name, model)


def test_what_is_valid_and_what_is_not_is_both_among_the_bodies() -> None:
    verdicts = {(name, is_taken(body, name, "instructed")) for name, body in BODIES}
    assert verdicts == {(name, is_right) for name in FORMS for is_right in (True, False)}


def played(job: Job) -> Sequence[Step]:
    """Three numbers for a prompt, or one for each of its tokens, or for a model that scores one."""
    count = {"classify": 1 if job.pooling and job.pooling.second_from is not None else 3}
    task = job.pooling.task if job.pooling else "embed"
    rows = len(job.prompt_ids) if task == "token_embed" else None
    total = (rows or 1) * count.get(task, 4)
    values = struct.pack(f"<{total}f", *(place / 8 for place in range(total)))
    return [Embedding(0, "", [], values=values, rows=rows), Finished(prompt_tokens=1, completion_tokens=0)]


@pytest.fixture(scope="module", params=["embeds", "scores", "labels", "tokens"])
def service(request: pytest.FixtureRequest) -> Iterator[tuple[str, Service]]:
    model = MODELS[request.param]
    with serving(Scripted(script=played, pooler=model["pooler"], pairs=lambda _: JoiningPairs())) as running:
        yield request.param, running


SENT: list[tuple[str, Json]] = [
    ("/score", PAIR),
    ("/score", {"text": "a", "text_pair": "b"}),
    ("/rerank", RANK),
    ("/rerank", {"query": "a", "texts": ["b"], "return_text": True}),
    ("/classify", {"input": ["a"]}),
    ("/classify", {"inputs": "a"}),
    ("/predict", {"inputs": [["a", "b"]]}),
    ("/pooling", {"input": ["a", "bc"]}),
    ("/pooling", {"inputs": "a", "encoding_format": "base64"}),
]


@pytest.mark.parametrize(("path", "body"), SENT, ids=str)
def test_answers_keep_to_the_document(service: tuple[str, Service], path: str, body: Json) -> None:
    model, running = service
    shown = DOCUMENTS[model]
    status, _, answered = send(running, json.dumps(body).encode(), path=path)
    assert (status == 200) == (path in shown["paths"])
    if status == 200:
        schema = shown["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        whole = {**schema, "components": shown["components"]}
        jsonschema_rs.Draft202012Validator(whole).validate(answered)
