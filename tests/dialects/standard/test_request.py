"""The standard dialect: inputs and parameters become a Job or one refusal; events become LMI's lines and documents."""

import contextlib
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_chat.chat_template import Template
from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.standard import request as standard
from lmi_chat.dialects.standard.body import Parameters
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField, EngineDown, Error, NotFound, PromptTooLong
from lmi_chat.job import Delta, Finish, Finished, SamplingParams, Token, TokenLogprob
from lmi_chat.limits import Limits
from tests.support.fakes import ByteTokenizer, brief, delta, deployment, parse, refusal, rendered, token

DONE = Finished(prompt_tokens=4, completion_tokens=3, cached_tokens=2)
GREEDY = {"temperature": 0.0}
REACHING: dict[str, tuple[Any, str, Any]] = {
    "max_new_tokens": (9, "max_tokens", 9),
    "max_tokens": (9, "max_tokens", 9),
    "min_new_tokens": (3, "min_tokens", 3),
    "stop_strings": ("a", "stop", ("a",)),
    "temperature": (0.5, "temperature", 0.5),
    "top_p": (0.9, "top_p", 0.9),
    "top_k": (5, "top_k", 5),
    "min_p": (0.1, "min_p", 0.1),
    "repetition_penalty": (1.1, "repetition_penalty", 1.1),
    "presence_penalty": (-1, "presence_penalty", -1.0),
    "frequency_penalty": (1, "frequency_penalty", 1.0),
    "seed": (-7, "seed", -7),
    "stop": ("a", "stop", ("a",)),
    "stop_sequences": (["a", "日本"], "stop", ("a", "日本")),
    "stop_token_ids": ([1, 2], "stop_token_ids", (1, 2)),
    "include_stop_str_in_output": (True, "include_stop_str_in_output", True),
    "skip_special_tokens": (False, "skip_special_tokens", False),
    "spaces_between_special_tokens": (False, "spaces_between_special_tokens", False),
    "min_tokens": (3, "min_tokens", 3),
    "min_length": (3, "min_tokens", 3),
    "logit_bias": ({"7": 5}, "logit_bias", {7: 5.0}),
    "ignore_eos": (True, "ignore_eos", True),
    "ignore_eos_token": (True, "ignore_eos", True),
    "bad_sequences": (["no"], "bad_words", ("no",)),
    "prompt_logprobs": (2, "prompt_logprobs", 2),
    "logprobs": (3, "logprobs", 3),
    "top_n_tokens": (4, "logprobs", 4),
}
PLACES = deployment().checkers[Parameters].places
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
ANY_PARAMETERS = st.dictionaries(st.sampled_from(sorted(PLACES)), ANY_JSON, max_size=5) | ANY_JSON
ANY_BODY = st.fixed_dictionaries(
    {"inputs": st.just("Once") | ANY_JSON}, optional={"parameters": ANY_PARAMETERS, "stream": ANY_JSON, "zzz": ANY_JSON}
)


def body(parameters: Any = None, **fields: Any) -> Json:
    return {"inputs": "Once", "parameters": parameters} | fields


def ask(parameters: Json | None = None, **fields: Any) -> ParsedRequest:
    return parse(body(parameters, **fields), deployment(), "1")


def sampling(**parameters: Any) -> SamplingParams:
    return ask(parameters).job.sampling


SHOWN_IN_DETAILS = ("prompt_logprobs", "logprobs", "top_n_tokens")


def refused(parameters: Any = None, **fields: Any) -> Error:
    return refusal(body(parameters, **fields), "standard")


def answer(*events: Any, parameters: Json | None = None, stream: bool = False, **changes: Any) -> list[Any]:
    return rendered(parse(body(parameters, stream=stream), deployment(**changes), "1").render, *events)


def lines(*events: Any, **parameters: Any) -> list[Any]:
    return answer(*events, parameters=parameters, stream=True)


# What is asked for


@pytest.mark.parametrize(
    "sent",
    [
        {"inputs": "Once"},
        body(),
        body({}),
        body(adapters=[]),
        body(adapters=None),
        body(stream=None, model=""),
        {"inputs": ["Once"]},
    ],
)
def test_the_smallest_request(sent: Json) -> None:
    task = parse(sent, deployment(), "1")
    assert (task.dialect, task.is_stream, task.has_end, task.unknown) == ("standard", False, False, [])
    assert (task.job.prompt_text, task.job.prompt_ids) == ("Once", list(b"Once"))
    assert task.job.sampling == SamplingParams(max_tokens=30, temperature=0.0)


@pytest.mark.parametrize("name", REACHING)
def test_each_parameter_reaches_sampling(name: str) -> None:
    value, field, expected = REACHING[name]
    others = {"details": name in SHOWN_IN_DETAILS} | ({"do_sample": True} if name == "seed" else {})
    assert getattr(sampling(**{name: value}, **others), field) == expected
    assert getattr(sampling(**others), field) != expected


@pytest.mark.parametrize("name", [*SHOWN_IN_DETAILS, "decoder_input_details"])
def test_what_only_details_show_is_not_asked_of_the_engine_without(name: str) -> None:
    value = True if name == "decoder_input_details" else 2
    task = ask({name: value})
    assert task.job == ask().job
    assert task.unknown == [f"parameters.{name} is ignored: it needs details true"]
    assert ask({name: value, "details": True}).unknown == []
    assert ask({name: None}).unknown == []


def test_no_parameter_was_forgotten() -> None:
    own = {name for name, (_, is_sampling) in PLACES.items() if is_sampling}
    assert own | {"logprobs", "top_n_tokens"} == REACHING.keys()


@pytest.mark.parametrize("name", sorted(PLACES))
def test_null_is_absent(name: str) -> None:
    task = ask({name: None})
    assert (task.job, task.is_stream, task.unknown) == (ask().job, False, [])


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({}, 0.0),
        ({"do_sample": None}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": 0.5}, 0.5),
        ({"do_sample": False, "temperature": 0.5}, 0.0),
        ({"do_sample": False, "top_p": 0.5}, 0.0),
        ({"temperature": 0.5}, 0.5),
        ({"temperature": 0}, 0.0),
        ({"top_p": 0.5}, 1.0),
        ({"top_k": 5}, 1.0),
        ({"min_p": 0.1}, 1.0),
        ({"typical_p": 0.9}, 1.0),
        ({"top_k": None, "seed": 7, "repetition_penalty": 1.2}, 0.0),
    ],
)
def test_whether_to_sample(parameters: Json, temperature: float) -> None:
    assert sampling(**parameters).temperature == temperature


def test_the_models_own_defaults_stand_below_the_request() -> None:
    here = deployment(defaults={"temperature": 0.6, "top_p": 0.9})
    chosen = parse(body({"do_sample": True, "top_p": 0.5}), here, "1").job.sampling
    assert (chosen.temperature, chosen.top_p) == (0.6, 0.5)
    assert parse(body(), here, "1").job.sampling.temperature == 0.0


@pytest.mark.parametrize(
    ("sent", "default", "expected"),
    [
        (body(stream=True), False, True),
        (body({"stream": True}), False, True),
        (body({"stream": True}, stream=None), False, True),
        (body({"stream": True}, stream=False), False, False),
        (body(), True, True),
        (body(stream=False), True, False),
    ],
)
def test_whether_to_stream(sent: Json, default: bool, expected: bool) -> None:  # noqa: FBT001
    assert parse(sent, deployment(streams_by_default=default), "1").is_stream is expected


def test_tokens_are_asked_of_the_engine_only_where_they_are_shown() -> None:
    assert sampling().logprobs is None
    assert sampling(details=True).logprobs == 0
    assert ask(stream=True).job.sampling.logprobs == 0
    assert sampling(details=True, top_n_tokens=2, logprobs=3).logprobs == 3
    assert sampling(details=True).prompt_logprobs is None
    assert sampling(details=True, decoder_input_details=True).prompt_logprobs == 0


def test_a_seed_is_chosen_where_it_will_be_reported() -> None:
    first, second = (sampling(details=True, do_sample=True).seed for _ in range(2))
    assert first != second
    assert sampling(details=True, do_sample=True, seed=5).seed == 5
    assert sampling(details=True).seed is None
    assert sampling(details=True, do_sample=True, seed=-1).seed not in (-1, None)
    assert sampling(do_sample=True, seed=-1).seed is None


@pytest.mark.parametrize(
    "greedy",
    [{}, {"temperature": 0}, {"temperature": 0.001}, {"top_p": 0}, {"num_beams": 2, "temperature": 0.7}],
)
def test_where_nothing_is_drawn_there_is_no_seed(greedy: Json) -> None:
    assert sampling(details=True, do_sample=True if greedy else None, **greedy).seed is None
    assert sampling(details=True, seed=5, **greedy).seed is None


def test_the_prompt_gets_the_models_special_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    here = deployment()
    monkeypatch.setattr(here.template, "encode", lambda text, add_special_tokens: [add_special_tokens, *text.encode()])
    assert parse(body(), here, "1").job.prompt_ids == [True, *b"Once"]
    chat = parse({"messages": [{"role": "user", "content": "x"}]}, here, "1")
    assert chat.job.prompt_ids[0] is False


def test_the_prompt_is_kept_to_its_last_tokens() -> None:
    assert ask({"truncate": 2}).job.prompt_ids == list(b"ce")
    assert ask({"truncate": 1_000_000}).job.prompt_ids == list(b"Once")


def test_a_limit_is_a_cap_and_no_reservation() -> None:
    prompt = "x" * 1004
    usual = parse({"inputs": prompt}, deployment(), "1")
    assert (usual.job.sampling.max_tokens, usual.unknown) == (20, []), "the default is nobody's wish"
    for is_stream in (False, True):
        sent = {"inputs": [prompt, "Once"], "parameters": {"max_new_tokens": 21, "stream": is_stream}}
        task = parse(sent, deployment(), "1")
        assert [job.sampling.max_tokens for job in task.jobs] == [20, 21]
        words = "parameters.max_new_tokens is cut to 20: inputs[0] has 1004 of the context's 1024 tokens"
        assert task.unknown == [words]
    error = refusal({"inputs": prompt, "parameters": {"max_new_tokens": 21}}, "standard", is_strict=True)
    assert isinstance(error, PromptTooLong)
    assert error.param == "parameters.max_new_tokens"
    assert error.message.startswith("parameters.max_new_tokens must be at most 20, got 21: inputs has 1004 of")


def test_a_deployment_caps_every_answer() -> None:
    here = deployment(limits=Limits(max_output_tokens=9))
    assert parse(body(), here).job.sampling.max_tokens == 9
    task = parse(body({"max_new_tokens": 10}), here)
    told = "parameters.max_new_tokens is cut to 9: this deployment generates no more (option.max_output_tokens)"
    assert (task.job.sampling.max_tokens, task.unknown) == (9, [told])


# What is refused


@pytest.mark.parametrize(
    ("sent", "param", "words"),
    [
        (body(inputs=None), "inputs", "must be a string, a chat (array of messages) or an array of these, got null"),
        (body(inputs=7), "inputs", "got 7"),
        (body(inputs=""), "inputs", "must not be empty"),
        (body(inputs=[]), "inputs", "at least 1 and at most 64 prompts, got 0"),
        (body(inputs=["a"] * 65), "inputs", "at least 1 and at most 64 prompts, got 65"),
        (body(inputs=["a", 7]), "inputs[1]", "must be a string or a chat (array of messages), got 7"),
        (body(inputs=["a", ""]), "inputs[1]", "must not be empty"),
        (body([]), "parameters", "must be an object, got an array"),
        (body("x"), "parameters", 'must be an object, got "x"'),
        (body(stream="yes"), "stream", 'must be true or false, got "yes"'),
        (body({"stream": 1}), "parameters.stream", "must be true or false, got 1"),
        (body({"max_new_tokens": 0}), "parameters.max_new_tokens", "at least 1"),
        (body({"max_new_tokens": "many"}), "parameters.max_new_tokens", 'must be an integer, got "many"'),
        (body({"temperature": -3}), "parameters.temperature", "at least 0 and at most 2, got -3"),
        (body({"do_sample": 1}), "parameters.do_sample", "must be true or false, got 1"),
        (body({"details": "x"}), "parameters.details", 'got "x"'),
        (body({"stop_sequences": [""]}), "parameters.stop_sequences", "item 0 is empty"),
        (body({"top_n_tokens": 21}), "parameters.top_n_tokens", "at most 20, got 21"),
        (body({"logprobs": "1"}), "parameters.logprobs", 'must be an integer, got "1"'),
        (body({"prompt_logprobs": -1}), "parameters.prompt_logprobs", "at least 0"),
        (body({"stop_token_ids": [257]}), "parameters.stop_token_ids", "the vocabulary ends at 256"),
        (body({"logit_bias": {"257": 1}}), "parameters.logit_bias", "token 257"),
        (body({"min_length": 31}), "parameters.min_length", "must be at most 30, got 31"),
        (body({"min_tokens": 9, "max_new_tokens": 8}), "parameters.min_tokens", "must be at most 8, got 9"),
        (body({"stop": "a", "stop_sequences": ["b"]}), "parameters.stop_sequences", "different values"),
        (body({"best_of": 2}, stream=True), "parameters.best_of", "must be 1 with stream true, got 2"),
        (body({"num_beams": 4}, stream=True), "parameters.num_beams", "must be 1 with stream true, got 4"),
        (body({"n": 3, "best_of": 2}), "parameters.n", "must be at most best_of = 2, got 3"),
        (body({"num_beams": 2, "best_of": 2}), "parameters.num_beams", "must be 1 with best_of = 2"),
        (body({"typical_p": 0}), "parameters.typical_p", "must be above 0 and at most 1, got 0"),
        (body({"watermark": 1}), "parameters.watermark", "must be true or false, got 1"),
        (body({"decoder_input_details": True}, stream=True), "parameters.decoder_input_details", "stream true"),
        (body({"prompt_logprobs": 0}, stream=True), "parameters.prompt_logprobs", "must be absent with stream true"),
        (body({"early_stopping": "never"}), "parameters.early_stopping", "must be true or false"),
        (body({"num_beams": 2, "bad_sequences": ["a"]}), "parameters.num_beams", "beside parameters.bad_sequences"),
        (body({"num_beams": 2, "repetition_penalty": 1.1}), "parameters.num_beams", "parameters.repetition_penalty"),
        (body({"length_penalty": 11}), "parameters.length_penalty", "at most 10, got 11"),
        (body(model=["x"]), "model", "must be a string"),
    ],
)
def test_a_bad_field_is_named(sent: Json, param: str, words: str) -> None:
    error = refusal(sent, "standard")
    assert (type(error), error.status, error.param) == (BadField, 400, param)
    assert error.message.startswith(param)
    assert words in error.message
    assert standard.error_body(error) == {
        "error": error.message,
        "code": 400,
        "type": "invalid_request_error",
        "param": param,
    }


@pytest.mark.parametrize(
    "parameters", [{"n": 1}, {"best_of": 1, "num_beams": 1}, {"typical_p": 1.0}, {"watermark": False}]
)
def test_what_asks_for_nothing_is_not_refused(parameters: Json) -> None:
    assert ask(parameters).unknown == []


def test_typical_sampling_is_told_and_refused_where_strict() -> None:
    task = ask({"typical_p": 0.95})
    assert task.unknown == ["parameters.typical_p is ignored: the engine has no typical sampling"]
    assert task.job.sampling.temperature == 1.0, "asking for a way of sampling samples"
    assert ask({"typical_p": 1}).unknown == []
    error = refusal(body({"typical_p": 0.95}), "standard", is_strict=True)
    assert (error.param, "no typical sampling; got 0.95" in error.message) == ("parameters.typical_p", True)


def test_a_watermark_is_told_and_refused_where_strict() -> None:
    task = ask({"watermark": True})
    assert task.unknown == ["parameters.watermark is ignored: the engine writes no watermark"]
    assert task.job == ask().job
    error = refusal(body({"watermark": True}), "standard", is_strict=True)
    assert error.param == "parameters.watermark"
    assert error.message == "parameters.watermark must be false: the engine writes no watermark; got true"


def test_several_problems_are_named_together() -> None:
    error = refused({"temperature": 3, "top_p": -1}, inputs=7)
    assert [part.split()[0] for part in error.message.split("; ")] == [
        "parameters.temperature",
        "parameters.top_p",
        "inputs",
    ]
    assert error.param == "parameters.temperature"


def test_a_flood_of_problems_is_answered_briefly() -> None:
    wrong = dict.fromkeys(PLACES.keys() - {"adapter_id"}, '"\\\n€' * 250_000)
    assert "more" in refused(wrong).message
    flood = {f"{'é' * 1000}{number}": 1 for number in range(12_000)}
    assert ask(flood).unknown[8:] == ["so are at least 92 more"]
    error = refusal(body(flood), "standard", is_strict=True)
    assert "more" in error.message
    assert error.message.count("é") <= 200


def test_unknown_keys_are_ignored_with_a_word() -> None:
    task = ask({"max_output_tokens": 5, "zzz": 1}, max_new_tokens=5, paramters={}, strean=True)
    assert task.unknown == [
        "max_new_tokens is ignored; did you mean parameters.max_new_tokens?",
        "paramters is ignored; did you mean parameters?",
        "strean is ignored; did you mean stream?",
        "parameters.max_output_tokens is ignored; did you mean parameters.max_tokens?",
        "parameters.zzz is ignored",
    ]
    assert task.job == ask().job
    error = refusal(body({"max_output_tokens": 5}), "standard", is_strict=True)
    assert (error.param, error.status) == ("parameters.max_output_tokens", 400)


def test_names_of_the_model() -> None:
    assert ask(model="lmi").job == ask(model="").job
    error = refused(model="gpt2")
    assert isinstance(error, NotFound)
    assert standard.error_body(error)["code"] == 404


def test_a_prompt_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(inputs="x" * 1024)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "inputs")
    words = (
        "inputs has 1024 tokens, and at least one is generated: the prompt is too long. "
        "This model's maximum context length is 1024 tokens (`inputs` tokens + `max_new_tokens` must be <= 1024)"
    )
    assert error.message == words
    here = deployment()
    monkeypatch.setattr(here.template, "encode", None)
    with pytest.raises(
        PromptTooLong, match=r"inputs has 1000000 .* at most 10240: the prompt is too long\. This model's maximum"
    ):
        parse({"inputs": " " * 1_000_000}, here, "1")


def test_a_prompt_without_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    here = deployment()
    monkeypatch.setattr(here.template, "encode", lambda _, add_special_tokens: [] if add_special_tokens else [1])
    with pytest.raises(BadField, match="inputs must have at least 1 token"):
        parse(body(), here, "1")


@pytest.mark.parametrize("sent", [{}, {"parameters": {}}, {"inputs": None}])
def test_a_forced_dialect_needs_its_key_too(sent: Json) -> None:
    with pytest.raises(BadField, match=r"inputs must be a string, a chat .* or an array of these, got null"):
        parse(sent, deployment(), "1", forced="standard")


@brief
@given(ANY_BODY, st.booleans())
def test_any_body_gives_a_task_or_one_refusal(sent: Json, is_strict: bool) -> None:  # noqa: FBT001
    with contextlib.suppress(Error):
        task = parse(sent, deployment(is_strict=is_strict), "1")
        assert task.job.sampling.max_tokens >= 1
        return
    refusal(sent, "standard", is_strict=is_strict)


# What is answered


def test_a_whole_answer() -> None:
    events = [delta(" Par"), Delta(0, "", []), delta("is.\n", finish="length"), DONE]
    assert answer(*events) == [{"generated_text": " Paris.\n"}]
    assert answer(*events, parameters={"return_full_text": True}) == [{"generated_text": "Once Paris.\n"}]


def test_a_whole_answer_with_details() -> None:
    events = [Delta(0, "ab", [97, 98], [token(b"a", -0.25), token(b"b")]), delta("", b"", finish="stop"), DONE]
    [reply] = answer(*events, parameters={"details": True, "seed": 5, "do_sample": True})
    assert reply["generated_text"] == "ab"
    details = reply["details"]
    assert details["tokens"] == [
        {"id": 97, "text": "a", "log_prob": -0.25, "logprob": -0.25, "special": False},
        {"id": 98, "text": "b", "log_prob": -0.5, "logprob": -0.5, "special": False},
        {"id": 256, "text": "", "log_prob": -0.5, "logprob": -0.5, "special": True},
    ]
    assert (details["finish_reason"], details["generated_tokens"]) == ("eos_token", 3)
    assert (details["inputs"], details["seed"], details["prefill"]) == ("Once", 5, [])
    assert details["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7, "cached_tokens": 2}
    assert "top_tokens" not in details


def test_the_prompts_own_tokens() -> None:
    prompt = (None, Token(TokenLogprob(99, -1.5, b"c")), Token(TokenLogprob(226, -9999.0, b"\xe2")))
    done = Finished(prompt_tokens=3, completion_tokens=1, prompt_logprobs=prompt)
    parameters = {"details": True, "decoder_input_details": True}
    [reply] = answer(delta("x", finish="stop"), done, parameters=parameters)
    assert reply["details"]["prefill"] == [
        {"id": 99, "text": "c", "log_prob": -1.5, "logprob": -1.5},
        {"id": 226, "text": "\ufffd", "log_prob": -9999.0, "logprob": -9999.0},
    ]


def test_the_prompts_logprobs_with_alternatives() -> None:
    prompt = (None, Token(TokenLogprob(99, -1.5, b"c"), (TokenLogprob(120, -0.5, b"x"),), 7))
    done = Finished(prompt_tokens=2, completion_tokens=1, prompt_logprobs=prompt)
    [reply] = answer(delta("x", finish="stop"), done, parameters={"details": True, "prompt_logprobs": 1})
    assert reply["details"]["prompt_logprobs"] == [
        None,
        {
            "99": {"logprob": -1.5, "rank": 7, "decoded_token": "c"},
            "120": {"logprob": -0.5, "rank": 1, "decoded_token": "x"},
        },
    ]
    assert [token["id"] for token in reply["details"]["prefill"]] == [99]
    [plain] = answer(delta("x", finish="stop"), done, parameters={"details": True, "decoder_input_details": True})
    assert "prompt_logprobs" not in plain["details"]


def test_a_reply_holds_so_many_of_the_prompts_logprobs() -> None:
    limits = Limits(max_prompt_logprobs=8)
    parameters = {"details": True, "decoder_input_details": True}
    assert parse({"inputs": ["abcd"] * 2, "parameters": parameters}, deployment(limits=limits), "1").jobs
    error = refusal({"inputs": ["abcd"] * 3, "parameters": parameters}, "standard", limits=limits)
    assert (error.param, "asks for 12" in error.message) == ("parameters.decoder_input_details", True)
    asked = {"inputs": "abcd", "parameters": {"details": True, "prompt_logprobs": 2}}
    assert refusal(asked, "standard", limits=limits).param == "parameters.prompt_logprobs"


def test_beam_search_reaches_the_job() -> None:
    job = ask({"num_beams": 3, "length_penalty": 2, "early_stopping": True}).job
    assert (job.beams, job.width, job.length_penalty, job.stops_early) == (3, 3, 2.0, True)
    assert (ask({"num_beams": 2}).job.stops_early, ask().job.beams) == (False, 0)


@pytest.mark.parametrize(
    ("finish", "word"),
    [
        (Finish("length"), "length"),
        (Finish("stop"), "eos_token"),
        (Finish("stop", 7), "eos_token"),
        (Finish("stop", "END"), "stop_sequence"),
        (Finish("abort"), "abort"),
    ],
)
def test_words_for_an_end(finish: Finish, word: str) -> None:
    last = Delta(0, "x", [120], [token(b"x")], finish)
    assert answer(last, DONE, parameters={"details": True})[0]["details"]["finish_reason"] == word
    assert lines(last, DONE, details=True)[-1]["details"]["finish_reason"] == word


def test_a_stream_is_a_line_per_token() -> None:
    events = [delta("a", b"a"), delta("bc"), delta("d", finish="length"), DONE]
    shown = lines(*events)
    assert [line["token"]["text"] for line in shown] == ["a", "b", "c", "d"]
    assert [line["token"]["id"] for line in shown] == list(b"abcd")
    assert [line["generated_text"] for line in shown] == [None, None, None, "abcd"]
    assert [line["details"] for line in shown] == [None] * 4
    assert shown[0] == {
        "index": 0,
        "token": {"id": 97, "text": "a", "log_prob": -0.5, "logprob": -0.5, "special": False},
        "generated_text": None,
        "details": None,
    }
    assert lines(*events, return_full_text=True)[-1]["generated_text"] == "Onceabcd"


def test_details_of_a_stream() -> None:
    *_, last = lines(delta("ab"), delta("c", finish="stop", stop="c"), DONE, details=True, seed=5, do_sample=True)
    expected = {"finish_reason": "stop_sequence", "generated_tokens": 3, "seed": 5, "input_length": 4}
    assert last["details"] == expected


HELD_BACK: list[tuple[list[Delta], list[list[str]], str]] = [
    # the steps, the texts of the tokens that each tells, the whole text
    ([delta("", b"5"), delta("5,", b","), delta("", b"6", finish="stop", stop="6")], [[], ["5", ","], [""]], "5,"),
    ([delta("", b"5"), delta("5,", b", 6!", finish="stop", stop=" 6")], [[], ["5", ","]], "5,"),
    ([delta("", b" the"), delta(" the Uni", b" Uni")], [[], [" the", " Uni"]], ""),
    (
        [delta("", b" the"), delta(" the U", b" Uni"), delta("ni!", b"!", finish="length")],
        [[], [" the"], [" Uni", "!"]],
        "",
    ),
    ([delta("", b" the"), delta(" the", b"", finish="stop")], [[], [" the", ""]], " the"),
    (
        [delta("", b"\xc3"), delta("", b"\xa9a"), delta("\xe9ab", b"b", finish="length")],
        [[], [], ["", "\xe9a", "b"]],
        "",
    ),
    ([delta("", b"ab"), Delta(0, "ab", [], finish=Finish("time_limit"))], [[], ["ab"]], "ab"),
    ([delta("ab", b"ab"), Delta(0, "", [], finish=Finish("abort"))], [["ab"], [""]], "ab"),
]


@pytest.mark.parametrize(("deltas", "texts", "said"), HELD_BACK)
@pytest.mark.parametrize("is_tgi", [False, True])
def test_a_token_waits_for_text_that_is_held_back_for_a_stop_string(
    deltas: list[Delta],
    texts: list[list[str]],
    said: str,
    is_tgi: bool,  # noqa: FBT001
) -> None:
    """Its text is its own, as without stop strings; those of a stop string have none. Joined they are the text."""
    parameters: Json = {"stop": [" 6", "6"], "details": True}
    render = parse(body(parameters, stream=True), deployment(is_tgi=is_tgi)).render
    shown = [[json.loads(line) for line in render.delta(each)] for each in deltas]
    assert [[line["token"]["text"] for line in lines] for lines in shown] == texts
    if deltas[-1].finish is None:
        return
    [whole] = answer(*deltas, DONE, parameters=parameters)
    told = [line["token"] for lines in shown for line in lines if line["token"]["id"] >= 0]
    assert (whole["details"]["tokens"], whole["generated_text"]) == (told, "".join(one["text"] for one in told))
    assert shown[-1][-1]["generated_text"] == whole["generated_text"]
    assert shown[-1][-1]["details"]["generated_tokens"] == len(told)
    if said:
        assert whole["generated_text"] == said


def test_special_tokens_that_are_shown_have_their_text() -> None:
    end = Token(TokenLogprob(256, -0.5, b"<|im_end|>", is_special=True))
    events = [delta("a"), Delta(0, "<|im_end|>b", [256, 98], [end, token(b"b")], Finish("length")), DONE]
    for stop in ([], ["never seen"]):
        parameters = {"details": True, "skip_special_tokens": False, "stop": stop}
        [whole] = answer(*events, parameters=parameters)
        assert [one["text"] for one in whole["details"]["tokens"]] == ["a", "<|im_end|>", "b"]


@pytest.mark.parametrize(
    ("deltas", "texts"),
    [
        ([("€", b"\xe2", b"\x82", b"\xac")], ["", "", "€"]),
        ([("", b"\xe2"), ("€a", b"\x82\xac", b"a")], ["", "€", "a"]),
        ([("", b"\xe2"), ("", b"\x82"), ("€", b"\xac"), ("ab", b"a", b"b")], ["", "", "€", "a", "b"]),
        ([("日本", b"\xe6", b"\x97\xa5\xe6", b"\x9c\xac")], ["", "日", "本"]),
        ([("x", b"x", b"")], ["x", ""]),
        ([("a<|im_end|>", b"a", b"")], ["a", "<|im_end|>"]),
        ([("\ufffd", b"\xe2", b"a")], ["", "\ufffd"]),
    ],
)
def test_a_character_may_be_split_over_tokens(deltas: list[tuple[Any, ...]], texts: list[str]) -> None:
    events = [delta(*each) for each in deltas]
    assert [line["token"]["text"] for line in lines(*events)] == texts
    [reply] = answer(*events, DONE, parameters={"details": True})
    assert [each["text"] for each in reply["details"]["tokens"]] == texts
    assert reply["generated_text"] == "".join(texts)


def test_an_end_without_a_token_has_its_own_line() -> None:
    first = Delta(0, "a", [97], [token(b"a", top=[(b"a", -0.5), (b"b", -2.0)])])
    [_, last] = lines(first, Delta(0, "b", [], finish=Finish("abort")), DONE, top_n_tokens=2)
    assert last == {
        "index": 0,
        "token": {"id": -1, "text": "b", "log_prob": 0.0, "logprob": 0.0, "special": True},
        "generated_text": "ab",
        "details": None,
    }


def test_the_likeliest_tokens() -> None:
    one = Delta(0, "ab", [97, 98], [token(b"a", top=[(b"a", -0.5), (b"x", -9999.0)]), token(b"b", top=[(b"b", -0.5)])])
    two = Delta(0, "c", [99], [token(b"c", top=[(b"c", -0.5)])], Finish("stop"))
    expected = [
        [
            {"id": 97, "text": "a", "logprob": -0.5, "special": False},
            {"id": 120, "text": "x", "logprob": -9999.0, "special": False},
        ],
        [{"id": 98, "text": "b", "logprob": -0.5, "special": False}],
        [{"id": 99, "text": "c", "logprob": -0.5, "special": False}],
    ]
    assert [line["top_tokens"] for line in lines(one, two, DONE, top_n_tokens=2)] == expected
    [reply] = answer(one, two, DONE, parameters={"details": True, "top_n_tokens": 2})
    assert reply["details"]["top_tokens"] == expected


def test_an_error_in_place_of_the_rest() -> None:
    [_, last] = lines(delta("a"), EngineDown("the engine\nis gone"))
    assert last == {
        "token": {"id": -1, "text": "", "log_prob": -1, "special_token": True},
        "generated_text": "a",
        "details": {"finish_reason": "error", "generated_tokens": 1},
        "error": "the engine is gone",
        "code": 503,
        "type": "unavailable_error",
        "param": None,
    }
    [whole] = answer(delta("a"), EngineDown("x"))
    assert whole == {"error": "x", "code": 503, "type": "unavailable_error", "param": None}
    assert standard.error_body(KeyError("/secret"))["error"] == "internal error"


@st.composite
def pieces_of_text(draw: st.DrawFn) -> list[Delta]:
    """A text cut into tokens anywhere, even inside characters, and the tokens into steps anywhere."""
    data = draw(st.text(min_size=1, max_size=12)).encode()
    cuts = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=12))})
    parts = [data[low:high] for low, high in pairwise(cuts)]
    ends = sorted({len(parts), *draw(st.lists(st.integers(1, len(parts)), max_size=6))})
    deltas, told = [], ""
    for low, high in pairwise([0, *ends]):
        so_far = b"".join(parts[:high]).decode("utf-8", "ignore")
        deltas.append(delta(so_far.removeprefix(told), *parts[low:high], finish="stop" if high == len(parts) else None))
        told = so_far
    return deltas


@brief
@given(pieces_of_text())
def test_the_stream_joined_is_the_whole_answer(deltas: list[Delta]) -> None:
    shown = lines(*deltas, DONE, details=True)
    [whole] = answer(*deltas, DONE, parameters={"details": True})
    joined = "".join(line["token"]["text"] for line in shown)
    assert joined == shown[-1]["generated_text"] == whole["generated_text"]
    assert [line["token"] for line in shown] == whole["details"]["tokens"]
    assert shown[-1]["details"]["generated_tokens"] == whole["details"]["generated_tokens"] == len(shown)
    assert not any("\ufffd" in line["token"]["text"] for line in shown if "\ufffd" not in joined)


CHAT = [{"role": "system", "content": "Be short."}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
CHAT_PROMPT = "system\nBe short.<|im_end|>\nuser\nhi<|im_end|>\nassistant\n"


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_chat_is_an_input(is_stream: bool) -> None:  # noqa: FBT001
    """JumpStart's clients send one as `[[…]]`, others as `[…]`; the answer is a standard one."""
    events: list[Any] = [delta("He"), delta("y", finish="stop"), DONE]
    [job] = ask(inputs=CHAT, stream=is_stream).jobs
    assert (job.prompt_text, job.sampling.max_tokens) == (CHAT_PROMPT, 30)
    assert bytes(token for token in job.prompt_ids if token < 256).decode() == CHAT_PROMPT.replace("<|im_end|>", "")
    single = rendered(ask(inputs=CHAT, stream=is_stream).render, *events)
    several = rendered(ask(inputs=[CHAT], stream=is_stream).render, *events)
    if is_stream:
        assert [line["generated_text"] for line in single][-1] == "Hey"
        assert single == several
    else:
        assert single == [{"generated_text": "Hey"}]
        assert several == [single]


def test_chats_and_texts_may_stand_beside_each_other() -> None:
    jobs = ask({"truncate": 5}, inputs=["Once", CHAT]).jobs
    assert [job.prompt_text for job in jobs] == ["Once", CHAT_PROMPT]
    assert [len(job.prompt_ids) for job in jobs] == [4, 5]
    full = rendered(ask({"return_full_text": True}, inputs=CHAT).render, delta("x", finish="stop"), DONE)
    assert full == [{"generated_text": CHAT_PROMPT + "x"}]


@pytest.mark.parametrize(
    ("inputs", "path", "text"),
    [
        ([{"role": "user"}], "inputs[0].content", "must be a string or an array of at least 1 part, got null"),
        ([{"role": "robot", "content": "x"}], "inputs[0].role", "must be one of"),
        ([{"role": "user", "content": "x"}, "y"], "inputs[1]", "must be an object with role and content"),
        ([[{"role": "user", "content": [{"type": "image"}]}]], "inputs[0][0].content[0].type", "must be text"),
        (["a", []], "inputs[1]", "must have at least 1 and at most"),
        ([{}], "inputs[0].role", "must be one of"),
        ({"role": "user", "content": "x"}, "inputs", "must be a string, a chat (array of messages) or an array"),
    ],
)
def test_a_chat_that_is_wrong_is_named_by_its_place(inputs: Any, path: str, text: str) -> None:
    error = refused(inputs=inputs)
    assert error.param == path
    assert text in error.message


def test_a_chat_that_the_model_cannot_take_is_named_too() -> None:
    error = refusal(body(inputs=["a", CHAT]), "standard", template=Template(ByteTokenizer(None)))
    assert (error.param, error.status) == ("inputs[1]", 400)
    assert error.message.startswith("inputs[1] cannot be served: the model has no chat template")
    long = [{"role": "user", "content": "x" * 2000}]
    error = refusal(body(inputs=long), "standard")
    assert isinstance(error, PromptTooLong)
    assert error.param == "inputs"
