"""The embedding dialect: parsing, rendering, and the whole way through HTTP around a scripted engine."""

import array
import json
import struct
from base64 import b64decode, b64encode
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import jsonschema_rs
import openai
import openapi_spec_validator
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lmi_chat.chat_template import Template
from lmi_chat.config import settings
from lmi_chat.config.sources import BadSetting
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.engine.vllm import pooling
from lmi_chat.errors import BadField, PromptTooLong
from lmi_chat.http.openapi import document
from lmi_chat.job import Embedding, Finished, PoolingParams, PoolingSpec, PoolingTask
from lmi_chat.limits import Limits
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.server import bootstrap
from tests.http.test_app import send
from tests.support import fakes
from tests.support.fakes import SPACE, deployment, refusal, rendered
from tests.support.scripted import Scripted, Service, embedded, serving

NUMBERS = (0.1, -2.5, 3e-9, 7.0)
CONTEXT = 1024


def parse(body: dict[str, Any], **changes: Any) -> ParsedRequest:
    return fakes.parse(body, deployment(**{"pooler": SPACE} | changes), "r")


def answer(task: ParsedRequest, vectors: Sequence[tuple[int, Sequence[float]]]) -> Any:
    """The document when these vectors come, in this order, of 3 tokens each."""
    events = [Embedding(index, "", [], values=struct.pack(f"<{len(values)}f", *values)) for index, values in vectors]
    (document,) = rendered(task.render, *events, Finished(prompt_tokens=3 * len(vectors), completion_tokens=0))
    return document


def near(values: Sequence[float]) -> Any:
    return pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("ab", [[97, 98]]),
        (["ab", "c"], [[97, 98], [99]]),
        ([97, 98, 99], [[97, 98, 99]]),
        ([[97], [98, 99]], [[97], [98, 99]]),
    ],
)
@pytest.mark.parametrize("key", ["input", "inputs"])
def test_each_shape_of_inputs_gives_a_job_per_input(key: str, given: Any, prompts: list[list[int]]) -> None:
    task = parse({key: given})
    assert [job.prompt_ids for job in task.jobs] == prompts
    assert len({job.id for job in task.jobs}) == len(prompts)
    assert {job.pooling for job in task.jobs} == {PoolingParams()}
    assert not task.is_stream


def test_the_openai_answer_has_vectors_in_the_inputs_order_and_their_tokens() -> None:
    assert answer(parse({"input": ["a", "b"]}), [(1, NUMBERS), (0, (1.0, 2.0))]) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [1.0, 2.0]},
            {"object": "embedding", "index": 1, "embedding": near(NUMBERS)},
        ],
        "model": "tiny",
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }


@pytest.mark.parametrize("given", ["a", ["a"]])
def test_the_lmi_answer_is_a_bare_array_of_vectors(given: Any) -> None:
    assert answer(parse({"inputs": given}), [(0, NUMBERS)]) == [near(NUMBERS)]


def test_base64_is_little_endian_float32() -> None:
    data = answer(parse({"input": "a", "encoding_format": "base64"}), [(0, NUMBERS)])["data"]
    assert b64decode(data[0]["embedding"]) == struct.pack("<4f", *NUMBERS)


def test_numbers_are_written_in_the_fewest_digits_that_give_the_float32_back() -> None:
    values = array.array("f", [0.1, 1 / 3, -1e-7, 16777216.0])
    task = parse({"inputs": "a"})
    task.render.delta(Embedding(0, "", [], values=values.tobytes()))
    (document,) = task.render.done(Finished(prompt_tokens=1, completion_tokens=0))
    assert b"0.1," in document
    assert array.array("f", json.loads(document)[0]) == values


@pytest.mark.parametrize(
    ("body", "changes", "expected"),
    [
        ({}, {}, None),
        ({}, {"is_normalized": False}, False),
        ({"normalize": True}, {"is_normalized": False}, True),
        ({"use_activation": False}, {}, False),
    ],
)
def test_whether_vectors_are_normalised(body: dict[str, Any], changes: dict[str, Any], expected: object) -> None:
    assert parse({"input": "a", **body}, **changes).job.pooling == PoolingParams(is_normalized=expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"normalize": False, "truncate": True}, {"truncate": True, "normalize": False}])
@pytest.mark.parametrize("is_nested", [False, True])
def test_options_stand_beside_the_inputs_or_in_parameters(options: dict[str, Any], *, is_nested: bool) -> None:
    task = parse({"inputs": "a" * 2000} | ({"parameters": options} if is_nested else options))
    assert task.job.pooling == PoolingParams(is_normalized=False)
    assert len(task.job.prompt_ids) == CONTEXT
    assert task.unknown == []


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"truncate": True}, "012"),
        ({"truncate_prompt_tokens": -1}, "012"),
        ({"truncate_prompt_tokens": 2}, "01"),
        ({"truncate_prompt_tokens": 2, "truncation_side": "left"}, "34"),
        ({"truncate": True, "truncation_direction": "Left"}, "234"),
        ({"truncate": True, "truncation_direction": "Right"}, "012"),
    ],
)
@pytest.mark.parametrize("given", ["01234", list(b"01234")])
def test_what_is_kept_of_a_long_input(given: Any, options: dict[str, Any], kept: str) -> None:
    assert bytes(parse({"input": given, **options}, context_tokens=3).job.prompt_ids).decode() == kept


def test_an_input_may_fill_the_context_and_not_one_token_more() -> None:
    assert len(parse({"input": ["a", "b" * CONTEXT]}).jobs[1].prompt_ids) == CONTEXT
    for given in (["a", "b" * (CONTEXT + 1)], [[1], [7] * (CONTEXT + 1)]):
        error = refusal({"input": given}, "embedding", pooler=SPACE)
        assert isinstance(error, PromptTooLong)
        assert error.param == "input[1]"
        assert f"{CONTEXT + 1} tokens" in error.message
        assert f"This model's maximum context length is {CONTEXT} tokens" in error.message


def test_a_deployment_may_take_fewer_tokens_than_the_context_holds() -> None:
    limits = Limits(max_input_tokens=2)
    assert parse({"input": "abc", "truncate": True}, limits=limits).job.prompt_ids == [97, 98]
    error = refusal({"input": "abc"}, "embedding", pooler=SPACE, limits=limits)
    assert (error.param, "3 tokens; this deployment takes at most 2" in error.message) == ("input", True)
    assert f"This model's maximum context length is {CONTEXT} tokens" in error.message


def test_a_text_far_too_long_is_refused_by_its_characters() -> None:
    error = refusal({"input": "a" * 100_000}, "embedding", pooler=SPACE)
    assert isinstance(error, PromptTooLong)
    assert "100000 characters" in error.message
    assert f"This model's maximum context length is {CONTEXT} tokens" in error.message


def test_texts_are_put_in_lower_case_where_the_model_wants_it() -> None:
    assert bytes(parse({"input": "AbC"}, pooler=PoolingSpec(dimensions=4, is_lower_case=True)).job.prompt_ids) == b"abc"


MATRYOSHKA = PoolingSpec(dimensions=8, shorter=range(1, 9))
LISTED = PoolingSpec(dimensions=8, shorter=(2, 4))


def test_a_matryoshka_model_gives_fewer_dimensions() -> None:
    for space in (MATRYOSHKA, LISTED):
        assert parse({"input": "a", "dimensions": 4}, pooler=space).job.pooling == PoolingParams(dimensions=4)


@pytest.mark.parametrize(
    ("body", "space", "param", "words"),
    [
        ({"input": ""}, SPACE, "input", ("empty",)),
        ({"input": []}, SPACE, "input", ("empty",)),
        ({"inputs": ["a", ""]}, SPACE, "inputs[1]", ("empty",)),
        ({"inputs": [[]]}, SPACE, "inputs[0]", ("empty",)),
        ({"input": None}, SPACE, "input", ("string", "null")),
        ({"input": 3}, SPACE, "input", ("string", "3")),
        ({"input": [1, "a"]}, SPACE, "input[1]", ("token id", '"a"')),
        ({"input": [1, 257]}, SPACE, "input[1]", ("256", "257")),
        ({"input": [1, -1]}, SPACE, "input[1]", ("at least 0", "-1")),
        ({"input": "a", "dimensions": 4}, SPACE, "dimensions", ("Matryoshka", "4 numbers")),
        ({"input": "a", "dimensions": 9}, MATRYOSHKA, "dimensions", ("at most 8", "9")),
        ({"input": "a", "dimensions": 0}, MATRYOSHKA, "dimensions", ("at least 1", "0")),
        ({"input": "a", "dimensions": 3}, LISTED, "dimensions", ("2, 4", "3")),
        ({"input": "a", "encoding_format": "hex"}, SPACE, "encoding_format", ("float, base64", '"hex"')),
        ({"input": "a", "encoding_format": 1}, SPACE, "encoding_format", ("float, base64", "1")),
        ({"input": "a", "truncation_side": "up"}, SPACE, "truncation_side", ("right, left", '"up"')),
        ({"input": "a", "truncate_prompt_tokens": 0}, SPACE, "truncate_prompt_tokens", ("at least 1", "0")),
        ({"input": "a", "truncate_prompt_tokens": 1025}, SPACE, "truncate_prompt_tokens", ("1024", "1025")),
        ({"input": "a", "stream": True}, SPACE, "stream", ("whole", "true")),
        ({"inputs": "a", "parameters": {"stream": True}}, SPACE, "parameters.stream", ("whole", "true")),
        ({"inputs": "a", "parameters": 3}, SPACE, "parameters", ("object", "3")),
        ({"inputs": "a", "parameters": {"normalize": 1}}, SPACE, "parameters.normalize", ("true or false", "1")),
        ({"inputs": "a", "normalize": True, "use_activation": False}, SPACE, "use_activation", ("normalize",)),
        ({"input": "a", "padding": "max_length"}, SPACE, "padding", ("not served", "max_length")),
        ({"input": "a", "embed_dtype": "float16"}, SPACE, "embed_dtype", ("float32", "float16")),
        ({"input": "a", "endianness": "big"}, SPACE, "endianness", ("little-endian", "big")),
        ({"input": "a", "prompt_name": "query"}, SPACE, "prompt_name", ("not served", "query")),
        ({"input": "a", "cache_salt": "a/b"}, SPACE, "cache_salt", ("/", "a/b")),
        ({"input": "a", "user": 3}, SPACE, "user", ("string", "3")),
        ({"input": "a", "inputs": "a"}, SPACE, "inputs", ("inputs and input in one body",)),
        ({"messages": [{"role": "user", "content": "a"}]}, SPACE, "messages", ("embeds", "input or inputs")),
        ({"prompt": "a"}, SPACE, "prompt", ("embeds", "input or inputs")),
        ({"requestType": "NEW_SESSION"}, SPACE, "requestType", ("embeds",)),
    ],
)
def test_what_is_refused(body: dict[str, Any], space: PoolingSpec | None, param: str, words: tuple[str, ...]) -> None:
    error = refusal(body, "embedding", pooler=space)
    assert isinstance(error, BadField)
    assert error.param == param
    assert all(word in error.message for word in words), error.message


def test_the_number_of_inputs_is_bounded() -> None:
    limits = Limits(max_inputs=3)
    assert len(parse({"input": ["a"] * 3}, limits=limits).jobs) == 3
    error = refusal({"input": ["a"] * 4}, "embedding", pooler=SPACE, limits=limits)
    assert error.param == "input"
    assert "at most 3" in error.message
    assert "got 4" in error.message


def test_another_model_is_not_found() -> None:
    assert parse({"input": "a", "model": "lmi"}).jobs
    assert refusal({"input": "a", "model": "gpt-4"}, "embedding", pooler=SPACE).status == 404


def test_what_else_a_request_says() -> None:
    body = {"input": ["a", "b"], "user": "Ann", "priority": 3, "cache_salt": "s"}
    task = parse(body, has_priority=True)
    assert (task.user, task.unknown) == ("Ann", [])
    assert {(job.priority, job.cache_salt) for job in task.jobs} == {(3, "s")}
    assert "priority is ignored" in parse(body).unknown[0]


def test_special_tokens_can_be_left_out() -> None:
    at: dict[str, Any] = {"template": Template(OneWordATokenizer())}  # type: ignore[arg-type]
    assert parse({"input": "a b"}, **at).job.prompt_ids == [0, 2, 3, 1]
    assert parse({"input": "a b", "add_special_tokens": False}, **at).job.prompt_ids == [2, 3]
    assert parse({"input": "a b c", "truncate_prompt_tokens": 3}, **at).job.prompt_ids == [0, 2, 1]


def test_unknown_keys_are_named() -> None:
    assert parse({"input": "a", "normalise": True}).unknown == ["normalise is ignored; did you mean normalize?"]


def test_a_deployment_that_streams_still_gives_vectors_whole() -> None:
    assert not parse({"input": "a"}, streams_by_default=True).is_stream


@pytest.fixture
def service() -> Any:
    with serving(
        Scripted(script=embedded, pooler=SPACE), policy=PipelineConfig(limits=Limits(max_inputs=100))
    ) as running:
        yield running


def post(service: Service, body: dict[str, Any], path: str = "/invocations") -> Any:
    return send(service, json.dumps(body).encode(), path=path)


@pytest.mark.parametrize("path", ["/invocations", "/v1/embeddings", "/models/tiny/invoke"])
def test_every_door_embeds(service: Service, path: str) -> None:
    status, headers, document = post(service, {"input": ["ab", "c"]}, path)
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert [item["embedding"] for item in document["data"]] == [[97.0, 2.0, 0.0, 1.0], [99.0, 1.0, 0.0, 1.0]]


def test_more_inputs_than_the_engine_runs_at_once_come_back_in_order(service: Service) -> None:
    _, _, document = post(service, {"inputs": [[token] for token in range(100)]})
    assert [vector[0] for vector in document] == list(range(100))
    assert service.engine.running == 0


def test_the_openai_client_reads_both_encodings(service: Service) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none") as client:
        by_default = client.embeddings.create(model="tiny", input=["ab", "c"])  # it asks for base64
        as_floats = client.embeddings.create(model="tiny", input=["ab", "c"], encoding_format="float")
    assert [item.embedding for item in by_default.data] == [[97.0, 2.0, 0.0, 1.0], [99.0, 1.0, 0.0, 1.0]]
    assert by_default.data == as_floats.data
    assert by_default.usage.prompt_tokens == by_default.usage.total_tokens == 3


def test_the_other_routes_say_that_this_model_embeds(service: Service) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/v1/completions", {"prompt": "a"}),
        ("/invocations", {"messages": []}),
    ):
        status, _, document = post(service, body, path)
        assert status == 400
        assert "the model tiny embeds; send input or inputs" in document["error"]["message"]


def test_a_generating_model_says_that_it_generates() -> None:
    with serving() as generating:
        status, _, document = post(generating, {"input": "a"}, "/v1/embeddings")
        assert status == 400
        assert "generates text" in document["error"]["message"]
        assert document["error"]["param"] == "input"


def test_plain_text_is_embedded(service: Service) -> None:
    _, _, document = send(service, b"ab", headers={"content-type": "text/plain"})
    assert document == [[97.0, 2.0, 0.0, 1.0]]


def test_a_failure_among_the_inputs_is_the_answer() -> None:
    def script(job: Any) -> Any:
        return [PromptTooLong("no room", param="x")] if job.prompt_ids == [98] else embedded(job)

    with serving(Scripted(script=script, pooler=SPACE)) as failing:
        status, _, document = post(failing, {"input": ["a", "b", "c"]})
        assert (status, document["error"]["message"]) == (400, "no room")
        assert failing.engine.running == 0


class OneWordATokenizer:
    """A real Rust tokenizer whose file asks for truncation and padding, as those of embedding models do."""

    chat_template = None
    all_special_ids = (0, 1)

    def __init__(self) -> None:
        words = {"[A]": 0, "[Z]": 1} | {word: place + 2 for place, word in enumerate("abcdef")}
        self.backend_tokenizer = Tokenizer(models.WordLevel(words, unk_token="[Z]"))
        self.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        self.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[A] $A [Z]", special_tokens=[("[A]", 0), ("[Z]", 1)]
        )
        self.backend_tokenizer.enable_truncation(4)
        self.backend_tokenizer.enable_padding(length=4)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.backend_tokenizer.get_vocab())


def test_a_tokenizer_file_that_pads_and_truncates_does_neither_here() -> None:
    template = Template(OneWordATokenizer())  # type: ignore[arg-type]
    assert template.encode("a", add_special_tokens=True) == [0, 2, 1]
    assert template.encode("a b c d e f", add_special_tokens=True) == [0, 2, 3, 4, 5, 6, 7, 1]


@pytest.mark.parametrize(
    ("most", "is_end", "special", "expected"),
    [
        (4, False, True, [0, 2, 3, 1]),
        (4, True, True, [0, 6, 7, 1]),
        (2, False, False, [2, 3]),
        (2, True, False, [6, 7]),
        (9, False, True, [0, 2, 3, 4, 5, 6, 7, 1]),
        (2, False, True, [0, 1]),
        (1, False, True, [0]),
    ],
)
def test_a_part_keeps_its_special_tokens(most: int, expected: list[int], *, is_end: bool, special: bool) -> None:
    template = Template(OneWordATokenizer())  # type: ignore[arg-type]
    assert template.encode_part("a b c d e f", most, is_end=is_end, add_special_tokens=special) == expected


def test_base64_is_what_b64encode_writes() -> None:
    data = answer(parse({"inputs": "a", "encoding_format": "base64"}), [(0, NUMBERS)])
    assert data == [b64encode(struct.pack("<4f", *NUMBERS)).decode()]


@cache
def shown(space: PoolingSpec) -> Any:
    return document(deployment(pooler=space), has_sessions=True, has_async=True)


def test_the_openapi_document_of_a_model_that_embeds() -> None:
    openapi_spec_validator.validate(shown(MATRYOSHKA))
    assert {"/v1/embeddings", "/invocations"} < shown(SPACE)["paths"].keys()
    assert not {"/v1/chat/completions", "/v1/completions"} & shown(SPACE)["paths"].keys()


@pytest.mark.parametrize(
    ("body", "is_valid"),
    [
        ({"input": "a", "encoding_format": "base64", "user": "u", "stream": False}, True),
        ({"input": ["a", [1, 2]], "dimensions": None, "truncation_direction": "Left"}, True),
        ({"input": ""}, False),
        ({"input": []}, False),
        ({"input": [""]}, False),
        ({"input": "a", "encoding_format": "hex"}, False),
        ({"input": "a", "dimensions": 4}, True),
        ({"input": "a", "dimensions": 0}, False),
        ({"input": "a", "dimensions": 9}, False),
        ({"input": "a", "stream": True}, False),
        ({"inputs": "a", "parameters": {"truncate_prompt_tokens": -1}}, True),
        ({"inputs": "a", "parameters": {"truncate_prompt_tokens": 0}}, False),
        ({"inputs": "a", "input": "a"}, False),
        ({}, False),
    ],
)
def test_the_openapi_document_says_what_is_taken(body: dict[str, Any], *, is_valid: bool) -> None:
    for space in (SPACE, MATRYOSHKA, LISTED):
        if "dimensions" not in body or space is not SPACE:
            schema = shown(space)["components"]["schemas"]["EmbeddingRequest"]
            assert jsonschema_rs.Draft202012Validator(schema).is_valid(body) == is_valid
            if is_valid:
                assert parse(body, pooler=space).jobs
            else:
                refusal(body, "embedding", pooler=space)


def of_task(**given: str) -> Any:
    return bootstrap._of_task(settings.read(given, {}, None, {"runner": "str", "convert": "str"}))


def test_lmis_task_is_the_engines_runner() -> None:
    assert of_task() == of_task(task="auto") == {}
    assert of_task(task="text-generation") == {"runner": "generate"}
    embeds = {"runner": "pooling", "convert": "embed"}
    assert [of_task(task=name) for name in ("text-embedding", "feature-extraction", "embed")] == [embeds] * 3
    assert of_task(task="embed", runner="pooling") == embeds
    assert of_task(task="automatic-speech-recognition") == {"runner": "generate"}
    with pytest.raises(BadSetting, match="task = text-embedding and runner = generate"):
        of_task(task="embed", runner="generate")
    pools = {"runner": "pooling"}
    assert [of_task(task=name) for name in ("text-classification", "classify", "score", "rerank")] == [pools] * 4
    assert [of_task(reranking=value) for value in ("true", "false")] == [pools, {}]
    with pytest.raises(BadSetting, match="task must be one of auto, text-generation"):
        of_task(task="plugin")


def spec(task: PoolingTask = "embed", **changes: Any) -> PoolingSpec:
    values = {
        "embedding_size": 8,
        "is_matryoshka": False,
        "matryoshka_dimensions": None,
        "encoder_config": None,
        "hf_config": SimpleNamespace(num_labels=2, id2label={0: "dull", 1: "bright"}),
    }
    return pooling.spec(SimpleNamespace(**values | changes), task)


def test_what_the_engine_says_of_a_models_vectors() -> None:
    assert spec() == PoolingSpec(dimensions=8)
    assert spec("token_embed") == PoolingSpec(dimensions=8, task="token_embed")
    assert spec(is_matryoshka=True) == MATRYOSHKA
    assert spec(is_matryoshka=True, matryoshka_dimensions=[2, 4]) == LISTED
    assert spec(encoder_config={"do_lower_case": True}) == PoolingSpec(dimensions=8, is_lower_case=True)


def test_what_the_engine_says_of_a_models_labels() -> None:
    assert spec("classify") == PoolingSpec(dimensions=2, task="classify", labels=("dull", "bright"))
    nameless = SimpleNamespace(num_labels=3, id2label=None)
    assert spec("token_classify", hf_config=nameless).labels == (None, None, None)
