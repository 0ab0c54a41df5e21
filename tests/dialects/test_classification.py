"""The dialect classification: vLLM's `input`, LMI's and TEI's `inputs`, and the whole way through HTTP."""

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField
from lmi_chat.job import Embedding, Finished, Job, PoolingParams
from lmi_chat.limits import Limits
from tests.http.test_app import send
from tests.support import fakes
from tests.support.fakes import LABELS, SPACE, JoiningPairs, deployment, refusal, rendered
from tests.support.scripted import Scripted, Service, Step, serving

MODEL: dict[str, Any] = {"pooler": LABELS, "pairs": JoiningPairs()}
NUMBERS = (0.25, 0.125, 0.625)
RANKED = [{"label": "bright", "score": 0.625}, {"label": "dull", "score": 0.25}, {"label": "LABEL_1", "score": 0.125}]


def parse(body: dict[str, Any], forced: str | None = None, **changes: Any) -> ParsedRequest:
    return fakes.parse(body, deployment(**MODEL | changes), "r", forced=forced)


def numbers(index: int = 0, values: Sequence[float] = NUMBERS) -> Embedding:
    return Embedding(index, "", [], values=struct.pack(f"<{len(values)}f", *values))


def answer(task: ParsedRequest, *events: Embedding) -> Any:
    (document,) = rendered(task.render, *events, Finished(prompt_tokens=9, completion_tokens=0))
    return document


@pytest.mark.parametrize(
    ("given", "prompts"),
    [("ab", [b"ab"]), (["ab", "c"], [b"ab", b"c"]), ([97, 98], [b"ab"]), ([[97], "c"], [b"a", b"c"])],
)
def test_vllms_input_gives_a_job_each(given: Any, prompts: list[bytes]) -> None:
    task = parse({"input": given})
    assert [bytes(job.prompt_ids) for job in task.jobs] == prompts
    assert {job.pooling for job in task.jobs} == {PoolingParams(task="classify")}


def test_vllms_answer_has_the_likeliest_label_and_all_numbers() -> None:
    shown = answer(parse({"input": ["a", "b"]}), numbers(1), numbers(0, (0.5, 1.0, 0.0)))
    assert isinstance(shown.pop("created"), int)
    assert shown == {
        "id": "classify-r",
        "object": "list",
        "model": "tiny",
        "data": [
            {"index": 0, "label": None, "probs": [0.5, 1.0, 0.0], "num_classes": 3},
            {"index": 1, "label": "bright", "probs": [0.25, 0.125, 0.625], "num_classes": 3},
        ],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }


@pytest.mark.parametrize(
    ("given", "prompts", "is_several"),
    [
        ("ab", [b"ab"], False),
        ({"text": "ab"}, [b"ab"], False),
        ({"text": "ab", "text_pair": "c"}, [b"ab\0c"], False),
        (["ab"], [b"ab"], True),
        (["ab", {"text": "c", "text_pair": ""}], [b"ab", b"c\0"], True),
    ],
)
def test_lmis_inputs_are_answered_by_ranked_labels(given: Any, prompts: list[bytes], *, is_several: bool) -> None:
    task = parse({"inputs": given})
    assert [bytes(job.prompt_ids) for job in task.jobs] == prompts
    assert answer(task, *map(numbers, range(len(prompts)))) == ([RANKED] * len(prompts) if is_several else RANKED)


@pytest.mark.parametrize(
    ("given", "prompts", "is_several"),
    [
        ("ab", [b"ab"], False),
        (["ab"], [b"ab"], False),
        (["ab", "c"], [b"ab\0c"], False),
        ([["ab"], ["c", "d"], "e"], [b"ab", b"c\0d", b"e"], True),
    ],
)
def test_of_predict_two_strings_are_a_pair(given: Any, prompts: list[bytes], *, is_several: bool) -> None:
    task = parse({"inputs": given}, "predict")
    assert [bytes(job.prompt_ids) for job in task.jobs] == prompts
    assert answer(task, *map(numbers, range(len(prompts)))) == ([RANKED] * len(prompts) if is_several else RANKED)


@pytest.mark.parametrize("is_nested", [False, True])
def test_options_stand_beside_the_inputs_or_in_parameters(*, is_nested: bool) -> None:
    options = {"raw_scores": True, "top_k": 2, "truncate": True, "add_special_tokens": True}
    task = parse({"inputs": "a" * 2000} | ({"parameters": options} if is_nested else options))
    assert (len(task.job.prompt_ids), task.job.pooling) == (1024, PoolingParams(task="classify", is_normalized=False))
    assert answer(task, numbers()) == RANKED[:2]
    assert task.unknown == []


@pytest.mark.parametrize(
    ("options", "expected"), [({}, None), ({"use_activation": True}, True), ({"raw_scores": False}, True)]
)
def test_whether_numbers_are_probabilities(options: dict[str, Any], expected: object) -> None:
    assert parse({"input": "a", **options}).job.pooling == PoolingParams(task="classify", is_normalized=expected)  # type: ignore[arg-type]


def test_a_pair_is_cut_as_one_prompt() -> None:
    cut = {"truncate_prompt_tokens": 3, "truncation_side": "left"}
    task = parse({"inputs": {"text": "ab", "text_pair": "cde"}, **cut})
    assert bytes(task.job.prompt_ids) == b"cde"
    right = {"truncate_prompt_tokens": 3, "truncation_direction": "Right"}
    assert bytes(parse({"inputs": "abcde", **right}).job.prompt_ids) == b"abc"


@pytest.mark.parametrize(
    ("body", "changes", "param", "words"),
    [
        ({"inputs": ""}, {}, "inputs", ("not empty", '""')),
        ({"inputs": []}, {}, "inputs", ("at least 1 and at most 4", "got 0")),
        ({"inputs": ["a"] * 5}, {}, "inputs", ("at most 4", "got 5")),
        ({"inputs": ["a", 3]}, {}, "inputs[1]", ("text and text_pair", "3")),
        ({"inputs": ["a", ["b", "c"]]}, {}, "inputs[1]", ("text and text_pair",)),
        ({"inputs": {"text": "a", "other": "b"}}, {}, "inputs", ("text and text_pair",)),
        ({"inputs": {"text": "a", "text_pair": "b"}}, {"pairs": None}, "inputs", ("tiny reads no pairs",)),
        ({"input": "a", "inputs": "a"}, {}, "inputs", ("inputs and input in one body",)),
        ({"input": ""}, {}, "input", ("empty",)),
        ({"inputs": "a", "top_k": 0}, {}, "top_k", ("at least 1", "0")),
        ({"inputs": "a", "parameters": 3}, {}, "parameters", ("object", "3")),
        ({"inputs": "a", "raw_scores": True, "use_activation": True}, {}, "raw_scores", ("say the same thing",)),
        ({"inputs": "a", "stream": True}, {}, "stream", ("whole", "true")),
        ({"inputs": "a", "padding": "max_length"}, {}, "padding", ("not served",)),
        ({"inputs": "a", "cache_salt": "a/b"}, {}, "cache_salt", ("/",)),
        ({"inputs": "a", "user": 3}, {}, "user", ("string", "3")),
    ],
)
def test_what_is_refused(body: dict[str, Any], changes: dict[str, Any], param: str, words: tuple[str, ...]) -> None:
    error = refusal(body, "classification", **MODEL | {"limits": Limits(max_inputs=4)} | changes)
    assert isinstance(error, BadField)
    assert error.param == param
    assert all(word in error.message for word in words), error.message


def test_what_else_a_request_says() -> None:
    task = parse({"input": "a", "user": "Ann", "priority": 3, "cache_salt": "s"})
    assert (task.user, task.job.priority, task.job.cache_salt) == ("Ann", 3, "s")
    assert "priority" in task.unknown[0]
    assert refusal({"input": "a", "model": "gpt-4"}, "classification", **MODEL).status == 404


def script(job: Job) -> Sequence[Step]:
    return [numbers(), Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=0)]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(Scripted(script=script, pooler=LABELS, pairs=lambda _: JoiningPairs())) as running:
        yield running


def post(service: Service, body: dict[str, Any], path: str) -> Any:
    return send(service, json.dumps(body).encode(), path=path)


@pytest.mark.parametrize(
    ("path", "body", "shown"),
    [
        ("/classify", {"inputs": "a"}, RANKED),
        ("/predict", {"inputs": ["a", "b"]}, RANKED),
        ("/invocations", {"inputs": ["a", "b"]}, [RANKED, RANKED]),
        ("/models/tiny/invoke", {"inputs": "a"}, RANKED),
    ],
)
def test_every_path_classifies(service: Service, path: str, body: dict[str, Any], shown: Any) -> None:
    assert post(service, body, path)[::2] == (200, shown)


@pytest.mark.parametrize("path", ["/classify", "/invocations"])
def test_vllms_body_at_every_path(service: Service, path: str) -> None:
    _, _, document = post(service, {"input": ["a", "b"]}, path)
    assert [(item["index"], item["label"]) for item in document["data"]] == [(0, "bright"), (1, "bright")]
    assert document["usage"]["prompt_tokens"] == 2


def test_text_plain_is_classified(service: Service) -> None:
    status, _, document = send(service, b"a text", {"content-type": "text/plain"})
    assert (status, document) == (200, RANKED)


def test_a_model_that_does_not_classify_says_so() -> None:
    for pooler, does in ((None, "generates text"), (SPACE, "embeds")):
        with pytest.raises(BadField) as caught:
            fakes.parse({"input": "a"}, deployment(pooler=pooler), "r", forced="classification")
        words = f"input cannot be served: it asks to classify texts, and the model tiny {does}; send "
        assert caught.value.message.startswith(words)
