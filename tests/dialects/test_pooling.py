"""The dialect pooling: the model's own numbers, of a text or of each token."""

import json
import struct
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField
from lmi_chat.job import Embedding, Finished, PoolingParams, PoolingSpec
from lmi_chat.limits import Limits
from tests.http.test_app import send
from tests.support import fakes
from tests.support.fakes import LABELS, SPACE, TOKENS, deployment, refusal, rendered
from tests.support.scripted import Scripted, Service, embedded, serving

MATRYOSHKA = PoolingSpec(dimensions=4, shorter=range(1, 5))
VALUES = struct.pack("<4f", 0.5, 1, 2, 3)


def parse(body: dict[str, Any], forced: str | None = None, **changes: Any) -> ParsedRequest:
    return fakes.parse(body, deployment(**{"pooler": TOKENS} | changes), "r", forced=forced)


def answer(task: ParsedRequest, rows: int | None = 2) -> Any:
    event = Embedding(0, "", [], values=VALUES, rows=rows)
    (document,) = rendered(task.render, event, Finished(prompt_tokens=2, completion_tokens=0))
    return document


@pytest.mark.parametrize("pooler", [SPACE, LABELS, TOKENS])
def test_each_kind_of_model_gives_its_own_numbers(pooler: PoolingSpec) -> None:
    task = parse({"input": ["ab", [99]]}, "pooling", pooler=pooler)
    assert [bytes(job.prompt_ids) for job in task.jobs] == [b"ab", b"c"]
    assert {job.pooling for job in task.jobs} == {PoolingParams(task=pooler.task)}
    assert parse({"input": "a", "task": pooler.task}, "pooling", pooler=pooler).jobs


def test_vllms_document() -> None:
    shown = answer(parse({"input": "ab"}))
    assert isinstance(shown.pop("created"), int)
    assert shown == {
        "id": "pool-r",
        "object": "list",
        "model": "tiny",
        "data": [{"index": 0, "object": "pooling", "data": [[0.5, 1.0], [2.0, 3.0]]}],
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }
    assert answer(parse({"input": "ab"}), rows=None)["data"][0]["data"] == [0.5, 1.0, 2.0, 3.0]


def test_inputs_have_a_bare_array() -> None:
    assert answer(parse({"inputs": "ab"})) == [[[0.5, 1.0], [2.0, 3.0]]]


@pytest.mark.parametrize("is_nested", [False, True])
def test_options_stand_beside_the_inputs_or_in_parameters(*, is_nested: bool) -> None:
    options = {"encoding_format": "base64", "normalize": False, "truncate_prompt_tokens": 1, "add_special_tokens": True}
    task = parse({"inputs": "ab"} | ({"parameters": options} if is_nested else options))
    assert task.job.pooling == PoolingParams(task="token_embed", is_normalized=False)
    assert bytes(task.job.prompt_ids) == b"a"
    assert answer(task) == [b64encode(VALUES).decode()]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"truncate": True}, b"012"),
        ({"truncate_prompt_tokens": 2, "truncation_side": "left"}, b"34"),
        ({"truncate": True, "truncation_direction": "Left"}, b"234"),
    ],
)
def test_what_is_kept_of_a_long_input(options: dict[str, Any], kept: bytes) -> None:
    assert bytes(parse({"input": "01234", **options}, context_tokens=3).job.prompt_ids) == kept


def test_dimensions_and_activation_reach_the_job() -> None:
    task = parse({"input": "a", "dimensions": 2, "use_activation": True}, "pooling", pooler=MATRYOSHKA)
    assert task.job.pooling == PoolingParams(dimensions=2, is_normalized=True)


def test_vectors_of_tokens_are_bounded() -> None:
    limits = Limits(max_pooled_numbers=24)
    assert len(parse({"input": ["abc", "def"]}, limits=limits).jobs) == 2
    error = refusal({"input": ["abc", "defg"]}, "pooling", pooler=TOKENS, limits=limits)
    assert error.param == "input[0]"
    assert "28 numbers (tokens × 4), at most 24 are given (option.max_pooled_numbers)" in error.message
    assert parse({"input": ["abc", "defg"]}, "pooling", pooler=SPACE, limits=limits).jobs, (
        "a vector each has no such bound"
    )


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"input": "a", "task": "classify"}, "task", ("token_embed", "tiny", "classify", "option.pooler_config")),
        ({"input": "a", "task": "encode"}, "task", ("one of embed", "encode")),
        ({"input": "a", "dimensions": 2}, "dimensions", ("Matryoshka",)),
        ({"input": "a", "inputs": "a"}, "inputs", ("inputs and input in one body",)),
        ({"inputs": "a", "parameters": 3}, "parameters", ("object", "3")),
        ({"input": "a", "encoding_format": "bytes"}, "encoding_format", ("float, base64", "bytes")),
        ({"input": "a", "embed_dtype": "float16"}, "embed_dtype", ("float32",)),
        ({"input": "a", "endianness": "big"}, "endianness", ("little-endian",)),
        ({"input": "a", "stream": True}, "stream", ("whole",)),
        ({"input": "a", "padding": "max_length"}, "padding", ("not served",)),
        ({"input": "a", "cache_salt": "a/b"}, "cache_salt", ("/",)),
        ({"input": "a", "user": 3}, "user", ("string",)),
        ({"messages": []}, "messages", ("the model tiny embeds each token",)),
    ],
)
def test_what_is_refused(body: dict[str, Any], param: str, words: tuple[str, ...]) -> None:
    error = refusal(body, "pooling", pooler=TOKENS)
    assert isinstance(error, BadField)
    assert error.param == param
    assert all(word in error.message for word in words), error.message


def test_what_else_a_request_says() -> None:
    task = parse({"input": "a", "user": "Ann", "priority": 3, "cache_salt": "s"}, has_priority=True)
    assert (task.user, task.job.priority, task.job.cache_salt, task.unknown) == ("Ann", 3, "s", [])
    assert refusal({"input": "a", "model": "gpt-4"}, "pooling", pooler=TOKENS).status == 404


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(Scripted(script=embedded, pooler=TOKENS)) as running:
        yield running


@pytest.mark.parametrize("path", ["/pooling", "/invocations"])
def test_every_path_pools(service: Service, path: str) -> None:
    _, _, document = send(service, json.dumps({"input": ["ab", "c"]}).encode(), path=path)
    assert [item["data"] for item in document["data"]] == [[[97, 2, 0, 1], [98, 2, 0, 1]], [[99, 1, 0, 1]]]
