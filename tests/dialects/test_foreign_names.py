"""Other APIs' names of fields: obeyed where they mean something here, else the right hint or none; `parameters` too."""

from typing import Any

import pytest

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.foreign_names import MEANT, NOTHING
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField
from tests.dialects.test_embedding import parse as parse_embedding
from tests.support.fakes import deployment, parse

USER = {"role": "user", "content": "hi"}
DIALECTS: dict[str, Json] = {"chat": {"messages": [USER]}, "completion": {"prompt": "hi"}, "standard": {"inputs": "hi"}}


def ask(dialect: str, fields: Json, *, is_inside: bool = True, **changes: Any) -> ParsedRequest:
    """A request with `fields` among its parameters, or beside its prompt."""
    body = DIALECTS[dialect] | ({"parameters": fields} if is_inside else fields)
    return parse(body, deployment(**changes), "1")


def places() -> list[Any]:
    return [("chat", True), ("chat", False), ("completion", True), ("completion", False), ("standard", True)]


@pytest.mark.parametrize(("dialect", "is_inside"), places())
@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("max_new_tokens", 7, "max_tokens", 7),
        ("max_tokens", 7, "max_tokens", 7),
        ("min_new_tokens", 3, "min_tokens", 3),
        ("stop_strings", ["a", "b"], "stop", ("a", "b")),
        ("stop_sequences", ["a"], "stop", ("a",)),
        ("temperature", 0.5, "temperature", 0.5),
        ("do_sample", False, "temperature", 0.0),
    ],
)
def test_they_are_obeyed(dialect: str, is_inside: bool, name: str, value: Any, field: str, expected: Any) -> None:  # noqa: FBT001
    task = ask(dialect, {name: value}, is_inside=is_inside)
    assert getattr(task.job.sampling, field) == expected
    assert task.unknown == []


@pytest.mark.parametrize(("dialect", "is_inside"), places())
def test_several_sequences(dialect: str, is_inside: bool) -> None:  # noqa: FBT001
    sampled = {"num_return_sequences": 3, "temperature": 1.0, "do_sample": True}
    assert ask(dialect, sampled, is_inside=is_inside).job.width == 3
    with pytest.raises(BadField, match="num_return_sequences must be at least 1 and at most 16, got 17"):
        ask(dialect, {"num_return_sequences": 17}, is_inside=is_inside)
    with pytest.raises(BadField, match=r"num_return_sequences and .*n say the same thing with different values"):
        ask(dialect, {"n": 2, "num_return_sequences": 3}, is_inside=is_inside)


@pytest.mark.parametrize(("dialect", "is_inside"), places())
def test_the_length_of_prompt_and_text(dialect: str, is_inside: bool) -> None:  # noqa: FBT001
    count = len(ask(dialect, {}).job.prompt_ids)
    assert ask(dialect, {"max_length": count + 5}, is_inside=is_inside).job.sampling.max_tokens == 5
    assert ask(dialect, {"max_length": 9999}, is_inside=is_inside).job.sampling.max_tokens == 1024 - count
    given = {"max_length": 1, "max_new_tokens": 9}
    assert ask(dialect, given, is_inside=is_inside).job.sampling.max_tokens == 9, "as in Transformers"
    path = "parameters.max_length" if is_inside else "max_length"
    with pytest.raises(BadField, match=f"^{path} must be above the prompt's {count} tokens, got {count}$") as refused:
        ask(dialect, {"max_length": count}, is_inside=is_inside)
    assert refused.value.param == path


@pytest.mark.parametrize("dialect", ["chat", "completion"])
def test_parameters_beside_messages_and_prompts(dialect: str) -> None:
    task = ask(dialect, {"stream": True, "user": "me", "seed": 7, "response_format": {"type": "json_object"}})
    assert (task.is_stream, task.user, task.job.sampling.seed) == (True, "me", 7)
    assert task.job.sampling.constraint is not None
    bodies: tuple[Json, ...] = ({"parameters": None}, {"parameters": {}}, {})
    for body in bodies:
        plain = parse(DIALECTS[dialect] | body, deployment(), "1")
        assert (plain.job.sampling, plain.unknown) == (ask(dialect, {}).job.sampling, [])
    assert parse(DIALECTS[dialect] | {"seed": 7, "parameters": {"seed": 7}}, deployment(), "1").unknown == []


@pytest.mark.parametrize("dialect", ["chat", "completion"])
@pytest.mark.parametrize(
    ("parameters", "param", "words"),
    [
        (5, "parameters", "must be an object, got 5"),
        ({"top_p": 2}, "parameters.top_p", "must be at least 0 and at most 1, got 2"),
        ({"max_new_tokens": 4, "max_tokens": 5}, "parameters.max_tokens", "and parameters.max_new_tokens say the same"),
        ({"seed": 8}, "parameters.seed", "and seed say the same thing with different values"),
        ({"stop": [None]}, "parameters.stop", "item 0 is null"),
        (
            {"response_format": {"type": "x"}},
            "parameters.response_format.type",
            "must be one of text, json_object, json_schema, json, regex",
        ),
        ({"stream_options": {}}, "parameters.stream_options", "must be absent without stream true"),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "parameters.stream_options.include_usage",
            "must be true or false, got 1",
        ),
    ],
)
def test_what_is_wrong_there_is_named_there(dialect: str, parameters: Any, param: str, words: str) -> None:
    with pytest.raises(BadField, match=words) as refused:
        parse(DIALECTS[dialect] | {"seed": 7, "parameters": parameters}, deployment(), "1")
    assert refused.value.param == param
    assert refused.value.message.startswith(param)


@pytest.mark.parametrize(
    ("metadata", "param", "words"),
    [
        (["a"], "metadata", "must be an object of strings, got "),
        ({str(number): "" for number in range(17)}, "metadata", "must have at most 16 pairs, got 17"),
        ({"team": 5}, "metadata.team", "must be a string, got 5"),
        ({"k" * 65: "x"}, "metadata." + "k" * 61 + "…", "must have a key of at most 64 characters, got 65"),
    ],
)
@pytest.mark.parametrize("is_inside", [False, True])
def test_labels_are_named_where_they_stand(metadata: Any, param: str, words: str, *, is_inside: bool) -> None:
    with pytest.raises(BadField) as refused:
        ask("chat", {"metadata": metadata}, is_inside=is_inside)
    path = f"parameters.{param}" if is_inside else param
    assert refused.value.param == path
    assert refused.value.message.startswith(f"{path} {words}")


@pytest.mark.parametrize("dialect", ["chat", "completion"])
def test_unknown_keys_of_an_object_there_are_told_there(dialect: str) -> None:
    given = {"stream": True, "stream_options": {"include_usages": True, "zzz": 1}}
    assert ask(dialect, given).unknown == [
        "parameters.stream_options.include_usages is ignored; did you mean parameters.stream_options.include_usage?",
        "parameters.stream_options.zzz is ignored",
    ]


@pytest.mark.parametrize("dialect", ["chat", "completion"])
def test_what_is_unknown_there_is_told_there(dialect: str) -> None:
    given = {"tempratur": 1, "details": True, "messages": [], "prompt": "x", "model": "tiny", "top_n": 3}
    assert ask(dialect, given).unknown == [
        "parameters.messages is ignored",
        "parameters.prompt is ignored",
        "parameters.model is ignored",
        "parameters.tempratur is ignored; did you mean temperature?",
        "parameters.details is ignored",
        ask(dialect, {"top_n": 3}).unknown[0],
    ]
    with pytest.raises(BadField, match=r"^parameters.details is not a known key$"):
        ask(dialect, {"details": True}, is_strict=True)


@pytest.mark.parametrize(
    ("dialect", "name", "meant"),
    [
        ("chat", "max_output_tokens", "max_tokens"),
        ("standard", "max_completion_tokens", "parameters.max_tokens"),
        ("completion", "n_predict", "max_tokens"),
        ("chat", "min_length", "min_tokens"),
        ("chat", "num_beams", "use_beam_search"),
        ("standard", "use_beam_search", "parameters.num_beams"),
        ("chat", "eos_token_id", "stop_token_ids"),
        ("standard", "bad_words_ids", "parameters.bad_sequences"),
        ("chat", "top_n_tokens", "top_logprobs"),
        ("completion", "top_logprobs", "logprobs"),
        ("standard", "top_logprobs", "parameters.top_n_tokens"),
        ("chat", "truncate", "truncate_prompt_tokens"),
        ("standard", "truncate_prompt_tokens", "parameters.truncate"),
        ("chat", "sequence_bias", "logit_bias"),
        ("chat", "adapter_id", "adapters"),
        ("chat", "repeat_penalty", "repetition_penalty"),
        ("standard", "maxTokens", "parameters.max_tokens"),
        ("chat", "topK", "top_k"),
        ("standard", "encoder_repetition_penalty", ""),
        ("standard", "num_beam_groups", ""),
        ("chat", "pad_token_id", ""),
        ("chat", "no_repeat_ngram_size", ""),
        ("standard", "max_time", ""),
        ("chat", "typical_p", ""),
        ("chat", "use_cache", ""),
        ("completion", "return_dict_in_generate", ""),
    ],
)
def test_the_right_hint_or_none(dialect: str, name: str, meant: str) -> None:
    said = f"; did you mean {meant}?" if meant else ""
    path = f"parameters.{name}" if dialect == "standard" else name
    assert ask(dialect, {name: 1}, is_inside=dialect == "standard").unknown == [f"{path} is ignored{said}"]


def test_an_embedding_has_hints_of_its_own() -> None:
    told = parse_embedding({"input": "a", "max_length": 5, "do_sample": True}).unknown
    assert told == ["max_length is ignored; did you mean truncate_prompt_tokens?", "do_sample is ignored"]


def test_no_name_stands_in_both_tables() -> None:
    assert not MEANT.keys() & NOTHING
