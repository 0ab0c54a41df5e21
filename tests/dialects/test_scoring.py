"""The dialects score and rerank: parsing, rendering, and the whole way through HTTP around a scripted engine."""

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField, PromptTooLong, Unavailable
from lmi_chat.job import Embedding, Finished, Job, PoolingParams
from lmi_chat.limits import Limits
from lmi_chat.pipeline.pipeline import PipelineConfig
from tests.http.test_app import send
from tests.support import fakes
from tests.support.fakes import LABELS, SCORER, SPACE, TOKENS, JoiningPairs, deployment, refusal, rendered
from tests.support.scripted import Scripted, Service, Step, serving

RANK = {"query": "ab", "documents": ["c", "de", "f"]}


def joint(pairs: JoiningPairs | None = None, **changes: Any) -> dict[str, Any]:
    """A model that reads both texts as one prompt."""
    return {"pooler": SCORER, "pairs": pairs or JoiningPairs()} | changes


def parse(body: dict[str, Any], **changes: Any) -> ParsedRequest:
    return fakes.parse(body, deployment(**(changes or joint())), "r")


def numbers(index: int, *values: float, rows: int | None = None) -> Embedding:
    return Embedding(index, "", [], values=struct.pack(f"<{len(values)}f", *values), rows=rows)


def answer(task: ParsedRequest, *events: Embedding) -> Any:
    (document,) = rendered(task.render, *events, Finished(prompt_tokens=9, completion_tokens=0))
    return document


def scored(task: ParsedRequest, *scores: float) -> Any:
    """The document when the engine gives these numbers, the last one first."""
    return answer(task, *reversed([numbers(place, score) for place, score in enumerate(scores)]))


@pytest.mark.parametrize(
    ("body", "prompts"),
    [
        ({"text_1": "ab", "text_2": "c"}, [b"ab\0c"]),
        ({"text_1": "ab", "text_2": ["c", "de"]}, [b"ab\0c", b"ab\0de"]),
        ({"queries": ["ab", "x"], "documents": ["c", "de"]}, [b"ab\0c", b"x\0de"]),
        ({"queries": ["ab"], "items": ["c", {"text": "de"}]}, [b"ab\0c", b"ab\0de"]),
        ({"data_1": "ab", "data_2": ["c"]}, [b"ab\0c"]),
        ({"text": "ab", "text_pair": "c"}, [b"ab\0c"]),
        ({"query": "ab", "documents": ["c", {"text": "de"}]}, [b"ab\0c", b"ab\0de"]),
        ({"query": "ab", "texts": ["c", ""]}, [b"ab\0c", b"ab\0"]),
    ],
)
def test_each_pair_is_one_prompt_of_a_model_that_reads_both(body: dict[str, Any], prompts: list[bytes]) -> None:
    task = parse(body)
    assert [bytes(job.prompt_ids) for job in task.jobs] == prompts
    places = [prompt.index(0) + 1 for prompt in prompts]
    assert [job.pooling for job in task.jobs] == [PoolingParams(task="classify", second_from=place) for place in places]
    assert len({job.id for job in task.jobs}) == len(prompts)
    assert not task.is_stream


@pytest.mark.parametrize(("pooler", "name"), [(SPACE, "embed"), (TOKENS, "token_embed")])
def test_a_model_that_embeds_reads_each_text_once(pooler: Any, name: Any) -> None:
    task = parse(RANK, pooler=pooler)
    assert [bytes(job.prompt_ids) for job in task.jobs] == [b"ab", b"c", b"de", b"f"]
    assert {job.pooling for job in task.jobs} == {PoolingParams(task=name)}


def test_scores_stand_in_the_pairs_order() -> None:
    shown = scored(parse({"text_1": "ab", "text_2": ["c", "de"]}), 0.25, 0.75)
    assert isinstance(shown.pop("created"), int)
    assert shown == {
        "id": "score-r",
        "object": "list",
        "model": "tiny",
        "data": [{"index": 0, "object": "score", "score": 0.25}, {"index": 1, "object": "score", "score": 0.75}],
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }


def test_lmis_pair_has_a_bare_score() -> None:
    assert scored(parse({"text": "ab", "text_pair": "c"}), 0.25) == [0.25]


def test_documents_are_ranked_and_come_back() -> None:
    assert scored(parse(RANK), 0.25, 0.5, 0.75) == {
        "id": "rerank-r",
        "model": "tiny",
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
        "results": [
            {"index": 2, "document": {"text": "f"}, "relevance_score": 0.75},
            {"index": 1, "document": {"text": "de"}, "relevance_score": 0.5},
            {"index": 0, "document": {"text": "c"}, "relevance_score": 0.25},
        ],
    }


@pytest.mark.parametrize(("top_n", "places"), [(0, [1, 0, 2]), (1, [1]), (2, [1, 0]), (99, [1, 0, 2])])
def test_the_best_few_and_equals_in_the_callers_order(top_n: int, places: list[int]) -> None:
    results = scored(parse({**RANK, "top_n": top_n, "return_documents": False}), 0.25, 0.5, 0.25)["results"]
    assert [result["index"] for result in results] == places
    assert results[0] == {"index": 1, "relevance_score": 0.5}


@pytest.mark.parametrize(
    ("options", "has_text"), [({}, False), ({"return_text": True}, True), ({"return_texts": True}, True)]
)
def test_texts_are_answered_as_text_embeddings_inference_does(options: dict[str, Any], *, has_text: bool) -> None:
    rows = scored(parse({"query": "ab", "texts": ["c", "de"], **options}), 0.25, 0.5)
    assert [(row["index"], row["score"]) for row in rows] == [(1, 0.5), (0, 0.25)]
    assert [row.get("text") for row in rows] == (["de", "c"] if has_text else [None, None])


def test_vectors_are_compared_by_their_cosine_in_whatever_order_they_come() -> None:
    task = parse({"text_1": "ab", "text_2": ["c", "de"]}, pooler=SPACE)
    query, near, far = numbers(0, 3, 4, 0, 0), numbers(1, 6, 8, 0, 0), numbers(2, 0, 0, 5, 0)
    for order in ((query, near, far), (far, query, near), (near, far, query)):
        data = answer(parse({"text_1": "ab", "text_2": ["c", "de"]}, pooler=SPACE), *order)["data"]
        assert [item["score"] for item in data] == pytest.approx([1.0, 0.0])
    pairs = parse({"queries": ["a", "b"], "documents": ["c", "d"]}, pooler=SPACE)
    data = answer(pairs, far, numbers(3, 0, 0, 1, 1), query, numbers(1, 0, 0, 0, 2))["data"]
    assert [item["score"] for item in data] == pytest.approx([0.0, 2**-0.5])
    assert len(task.jobs) == 3


def test_vectors_of_tokens_are_compared_token_by_token() -> None:
    task = parse({"text_1": "ab", "text_2": "cde"}, pooler=TOKENS)
    query = numbers(0, 1, 0, 0, 0, 0, 2, 0, 0, rows=2)
    document = numbers(1, 0.5, 0, 0, 0, 0.25, 1, 0, 0, 0, 3, 0, 0, rows=3)
    assert answer(task, query, document)["data"][0]["score"] == pytest.approx(0.5 + 6.0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, None), ({"use_activation": False}, False), ({"raw_scores": True}, False), ({"raw_scores": False}, True)],
)
def test_whether_scores_are_probabilities(options: dict[str, Any], expected: object) -> None:
    (job,) = parse({"text_1": "ab", "text_2": "c", **options}).jobs
    assert job.pooling
    assert job.pooling.is_normalized is expected


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, {"most": 1025, "side": ""}),
        ({"truncate": True}, {"most": 1024, "side": ""}),
        ({"truncate_prompt_tokens": 3, "truncation_side": "left"}, {"most": 3, "side": "left"}),
        ({"truncate": True, "truncation_direction": "Right"}, {"most": 1024, "side": "right"}),
        ({"max_tokens_per_query": 2, "max_tokens_per_doc": 1}, {"query_tokens": 2, "document_tokens": 1}),
        ({"instruction": "Find."}, {"instruction": "Find."}),
    ],
)
def test_how_a_pair_is_read(options: dict[str, Any], asked: dict[str, Any]) -> None:
    pairs = JoiningPairs(takes_instruction=True)
    parse({"text_1": "abc", "text_2": "defg", **options}, **joint(pairs))
    (given,) = pairs.asked
    nothing = {"most": 1025, "side": "", "query_tokens": 0, "document_tokens": 0, "instruction": ""}
    assert given == nothing | asked


def test_texts_that_stand_alone_are_cut_each() -> None:
    options = {"max_tokens_per_query": 2, "max_tokens_per_doc": 1}
    task = parse({"text_1": "abc", "text_2": "defg", **options}, pooler=SPACE)
    assert [bytes(job.prompt_ids) for job in task.jobs] == [b"ab", b"d"]
    left = {"truncate_prompt_tokens": 2, "truncation_side": "left"}
    task = parse({"text_1": "abc", "text_2": "defg", **left}, pooler=SPACE)
    assert [bytes(job.prompt_ids) for job in task.jobs] == [b"bc", b"fg"]


def test_a_pair_may_fill_the_context_and_not_one_token_more() -> None:
    assert len(parse({"query": "a", "documents": ["b" * 1022]}).job.prompt_ids) == 1024
    error = refusal({"query": "a", "documents": ["b", "b" * 1023]}, "rerank", **joint())
    assert isinstance(error, PromptTooLong)
    assert (error.param, "at least 1025 tokens" in error.message) == ("documents[1]", True)
    pairs = JoiningPairs()
    error = refusal({"query": "a", "documents": ["b" * 1_000_000]}, "rerank", **joint(pairs))
    assert isinstance(error, PromptTooLong)
    assert not pairs.asked, "what cannot fit is not tokenised"
    assert len(parse({"query": "a", "documents": ["b" * 1_000_000], "truncate": True}).job.prompt_ids) == 1024


LONE = {"text_1": "a", "text_2": "b"}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"text_1": "a"}, "text_1", ("text_1 and text_2",)),
        ({**LONE, "documents": ["c"]}, "text_1", ("beside no other",)),
        ({"queries": ["a", "b"], "documents": ["c", "d", "e"]}, "queries", ("as many as documents has (3)", "got 2")),
        ({"text_1": 3, "text_2": "b"}, "text_1", ("a string or an array", "3")),
        ({"text_1": [], "text_2": "b"}, "text_1", ("at least 1", "got 0")),
        ({"text_1": "a", "text_2": ["b", 3]}, "text_2[1]", ("a string or an object with a text", "3")),
        ({"text_1": "a", "text_2": ["b"] * 5}, "text_2", ("at most 4 texts", "got 5")),
        ({"query": "a", "documents": []}, "documents", ("at least 1", "got 0")),
        ({"query": "a", "documents": "b"}, "documents", ("an array of strings", '"b"')),
        ({"query": "", "documents": ["b"]}, "query", ("must not be empty",)),
        ({"query": None, "documents": ["b"]}, "query", ("a string", "null")),
        ({"query": "a", "documents": ["b"], "texts": ["b"]}, "texts", ("texts and documents in one body",)),
        ({**RANK, "top_n": -1}, "top_n", ("at least 0", "-1")),
        ({**RANK, "max_tokens_per_doc": 1024}, "max_tokens_per_doc", ("below the context's 1024", "1024")),
        ({**RANK, "instruction": "Find."}, "instruction", ("no template", "option.chat_template")),
        ({**RANK, "raw_scores": True, "use_activation": True}, "raw_scores", ("say the same thing",)),
        ({**RANK, "stream": True}, "stream", ("whole", "true")),
        ({**RANK, "padding": "max_length"}, "padding", ("not served", "max_length")),
        ({**RANK, "cache_salt": "a/b"}, "cache_salt", ("/", "a/b")),
        ({**RANK, "truncate_prompt_tokens": 2000}, "truncate_prompt_tokens", ("1024", "2000")),
        ({**RANK, "user": 3}, "user", ("string", "3")),
        ({**RANK, "input": "a"}, "input", ("input and query in one body",)),
    ],
)
def test_what_is_refused(body: dict[str, Any], param: str, words: tuple[str, ...]) -> None:
    error = refusal(body, "rerank", **joint(limits=Limits(max_inputs=4)))
    assert isinstance(error, BadField)
    assert error.param == param
    assert all(word in error.message for word in words), error.message


def test_what_else_a_request_says() -> None:
    task = parse({**RANK, "user": "Ann", "priority": 3, "cache_salt": "s", "rank": 1}, **joint(has_priority=True))
    assert (task.user, task.unknown) == ("Ann", ["rank is ignored"])
    assert {(job.priority, job.cache_salt) for job in task.jobs} == {(3, "s")}
    assert "priority" in parse({**RANK, "priority": 3}).unknown[0]
    assert refusal({**RANK, "model": "gpt-4"}, "rerank", **joint()).status == 404


@pytest.mark.parametrize("body", [RANK, LONE])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "the model tiny generates text; send messages, inputs or prompt"),
        ({"pooler": LABELS}, "the model tiny classifies by 3 labels; send input or inputs"),
    ],
)
def test_a_model_that_gives_no_scores_says_what_it_does(
    body: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    error = refusal(body, "rerank", **changes)
    asks = "to rank texts" if body is RANK else "to score pairs of texts"
    key = next(iter(body))
    assert (error.status, error.param) == (400, key)
    assert error.message == f"{key} cannot be served: it asks {asks}, and {words}"


def test_everyday_names_choose_nothing_where_no_scores_are_given() -> None:
    task = parse({"messages": [{"role": "user", "content": "a"}], "text_pair": "b"}, names=frozenset({"tiny"}))
    assert (task.dialect, task.unknown) == ("chat", ["text_pair is ignored"])


def by_length(job: Job) -> Sequence[Step]:
    """The number of a pair is the share of its second text."""
    assert job.pooling
    second = job.pooling.second_from or 0
    share = numbers(0, (len(job.prompt_ids) - second) / 100)
    return [share, Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=0)]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    engine = Scripted(script=by_length, pooler=SCORER, pairs=lambda _: JoiningPairs())
    with serving(engine, policy=PipelineConfig(limits=Limits(max_inputs=200))) as running:
        yield running


def post(service: Service, body: dict[str, Any], path: str) -> Any:
    return send(service, json.dumps(body).encode(), path=path)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/invocations", "/models/tiny/invoke"])
def test_every_path_ranks(service: Service, path: str) -> None:
    status, headers, document = post(service, RANK, path)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert [result["index"] for result in document["results"]] == [1, 0, 2]
    assert document["usage"] == {"prompt_tokens": 13, "total_tokens": 13}


@pytest.mark.parametrize("path", ["/score", "/v1/score", "/invocations"])
def test_every_path_scores(service: Service, path: str) -> None:
    _, _, document = post(service, {"text_1": "a", "text_2": ["b", "cc"]}, path)
    assert [item["score"] for item in document["data"]] == pytest.approx([0.01, 0.02])


def test_more_pairs_than_the_engine_runs_at_once_come_back_in_order(service: Service) -> None:
    _, _, document = post(service, {"text_1": "a", "text_2": ["b" * count for count in range(1, 101)]}, "/score")
    assert [round(item["score"] * 100) for item in document["data"]] == list(range(1, 101))
    assert service.engine.running == 0


def test_a_route_of_another_kind_names_the_kind_and_the_model(service: Service) -> None:
    for path, body, asks in (
        ("/v1/embeddings", {"input": "a"}, "for embeddings"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "to generate text"),
    ):
        status, _, document = post(service, body, path)
        words = f"it asks {asks}, and the model tiny classifies by 1 label; send input or inputs for that"
        assert (status, words in document["error"]["message"]) == (400, True)


def test_an_error_of_one_pair_is_the_answers() -> None:
    def script(job: Job) -> Sequence[Step]:
        return [Unavailable("the engine's queue is full")] if job.prompt_ids[-1] == ord("f") else by_length(job)

    with serving(Scripted(script=script, pooler=SCORER, pairs=lambda _: JoiningPairs())) as failing:
        status, _, document = post(failing, RANK, "/rerank")
        assert (status, document["error"]["message"]) == (503, "the engine's queue is full")
