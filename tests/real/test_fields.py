"""What each field does on the real engine: seen in the answer, not in what was asked of the engine. All at once."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.real.conftest import Server
from tests.real.test_answers import FRANCE, chat, standard

CAPITAL = "The capital of France is"
PARIS, DOT = 7042, 30
COUNTING = "one two three one two three one two three one"
LONG = "Rain fell on the hills, and the river rose. " * 40


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as own:
        yield own


def complete(prompt: Any = CAPITAL, **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "temperature": 0, "max_tokens": 8, **fields}


def said(answer: Any) -> str:
    """The first text of an answer, whichever dialect."""
    if "generated_text" in answer:
        return str(answer["generated_text"])
    choice = answer["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


class Asker:
    """Sends every body it is given at once."""

    def __init__(self, server: Server, pool: ThreadPoolExecutor) -> None:
        self._server, self._pool = server, pool

    def ask(self, *bodies: dict[str, Any]) -> list[Any]:
        waiting: list[Future[Any]] = [self._pool.submit(self._server.whole, body) for body in bodies]
        return [each.result() for each in waiting]

    def texts(self, *bodies: dict[str, Any]) -> list[str]:
        return [said(answer) for answer in self.ask(*bodies)]


@pytest.fixture
def asker(server: Server, pool: ThreadPoolExecutor) -> Asker:
    return Asker(server, pool)


def everywhere(prompt: str, tokens: int, fields: dict[str, Any], renamed: dict[str, str]) -> list[dict[str, Any]]:
    """The same in three dialects; `renamed` are the standard one's names."""
    parameters = {renamed.get(name, name): value for name, value in fields.items()}
    return [
        chat(prompt, max_tokens=tokens, **fields),
        complete(prompt, max_tokens=tokens, **fields),
        standard(prompt, max_new_tokens=tokens, **parameters),
    ]


def test_words_that_are_not_generated(asker: Asker) -> None:
    """`bad_words`, `bad_sequences`."""
    question = "What is the capital of France?"
    free = asker.texts(chat(question), complete(), standard(CAPITAL, max_new_tokens=8))
    assert all("Paris" in text for text in free)
    bound = asker.texts(
        chat(question, bad_words=["Paris"]),
        complete(bad_words=["Paris"]),
        standard(CAPITAL, max_new_tokens=8, bad_sequences=["Paris"]),
    )
    assert not any("Paris" in text for text in bound)


def test_as_many_bad_words_as_are_documented(asker: Asker, server: Server) -> None:
    """Each counts twice for vLLM, with a blank before it and without; their tokens have a bound of their own."""
    words = [first + second for first in "abcdefghijklmnop" for second in "abcdefghijklmnop"]
    [text] = asker.texts(chat("What is the capital of France?", bad_words=[*words[:255], "Paris"]))
    assert "Paris" not in text
    long = [f"{word} one two three four five six seven eight nine ten eleven twelve thirteen" for word in words]
    status, _, data = server.post(chat("Hi", bad_words=long))
    error = json.loads(data)["error"]
    assert (status, error["param"]) == (400, "bad_words")
    assert error["message"].startswith("bad_words is refused by the engine: all words together have ")
    assert "; at most 4096" in error["message"]


def test_tokens_that_alone_are_allowed(asker: Asker) -> None:
    texts = asker.texts(*(each for each in everywhere(CAPITAL, 3, {"allowed_token_ids": [PARIS]}, {})[:2]))
    assert texts == [" Paris" * 3] * 2


def test_logit_bias_against_and_for_a_token(asker: Asker) -> None:
    for bias, is_there in ((-100, False), (100, True)):
        texts = asker.texts(*everywhere(CAPITAL, 4, {"logit_bias": {str(PARIS): bias}}, {}))
        assert [text == " Paris" * 4 for text in texts] == [is_there] * 3
        assert all(is_there or " Paris" not in text for text in texts)


def test_ends_that_are_passed_over_or_put_off(asker: Asker) -> None:
    """`ignore_eos`, `ignore_eos_token`, `min_tokens`, `min_length`; each by the count of tokens."""
    turn = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    plain, *others = asker.ask(
        standard(turn, max_new_tokens=40),
        standard(turn, max_new_tokens=40, ignore_eos_token=True),
        standard(turn, max_new_tokens=40, ignore_eos=True),
        standard(turn, max_new_tokens=40, min_length=20),
        standard(turn, max_new_tokens=40, min_tokens=20),
    )
    assert (plain["details"]["finish_reason"], plain["details"]["generated_tokens"]) == ("eos_token", 8)
    counts = [other["details"]["generated_tokens"] for other in others]
    assert counts[:2] == [40, 40]
    assert all(count >= 20 for count in counts[2:])
    asked = {"max_tokens": 40, "temperature": 0}
    counted = asker.ask(
        {"prompt": turn, "ignore_eos": True, **asked},
        {"messages": FRANCE, "ignore_eos": True, **asked},
        {"prompt": turn, "min_tokens": 20, **asked},
        {"messages": FRANCE, "min_tokens": 20, **asked},
    )
    tokens = [answer["usage"]["completion_tokens"] for answer in counted]
    assert tokens[:2] == [40, 40]
    assert all(count >= 20 for count in tokens[2:])


def test_tokens_that_end_the_text(asker: Asker) -> None:
    told, completed, generated = asker.ask(
        {"messages": FRANCE, "temperature": 0, "stop_token_ids": [PARIS], "max_tokens": 20},
        complete(stop_token_ids=[DOT]),
        standard(CAPITAL, stop_token_ids=[DOT], max_new_tokens=8),
    )
    assert (said(told), told["choices"][0]["finish_reason"]) == ("The capital of France is", "stop")
    choice = completed["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (" Paris", "stop", DOT)
    assert (generated["generated_text"], generated["details"]["finish_reason"]) == (" Paris", "eos_token")


def test_the_narrowest_sampling_is_greedy(asker: Asker) -> None:
    """`top_k`, `top_p`, `min_p` at a temperature that would wander: each leaves the likeliest token alone."""
    plain = asker.texts(*everywhere(COUNTING, 12, {}, {}))
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"top_p": 0}, {"min_p": 1}):
        fields = {"temperature": 2.0, **narrow}
        bodies = everywhere(COUNTING, 12, fields, {})
        bodies[2]["parameters"]["do_sample"] = True
        assert asker.texts(*bodies) == plain, narrow
    wild = everywhere(COUNTING, 12, {"temperature": 2.0, "seed": 1}, {})
    wild[2]["parameters"]["do_sample"] = True
    assert all(text != own for text, own in zip(asker.texts(*wild), plain, strict=True))


def test_a_seed_repeats_in_every_dialect(asker: Asker) -> None:
    bodies = everywhere("Once upon a time", 12, {"temperature": 1.5, "seed": 7}, {})
    bodies[2]["parameters"]["do_sample"] = True
    others = everywhere("Once upon a time", 12, {"temperature": 1.5, "seed": 8}, {})
    others[2]["parameters"]["do_sample"] = True
    first, again, different = asker.texts(*bodies), asker.texts(*bodies), asker.texts(*others)
    assert first == again
    assert all(one != two for one, two in zip(first, different, strict=True))


@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 2.0}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}]
)
def test_penalties_break_a_repetition(asker: Asker, penalty: dict[str, float]) -> None:
    plain = asker.texts(*everywhere(COUNTING, 24, {"ignore_eos": True}, {}))
    changed = asker.texts(*everywhere(COUNTING, 24, {"ignore_eos": True, **penalty}, {}))
    assert all(one != two for one, two in zip(plain, changed, strict=True))


def test_special_tokens_are_shown_on_request(asker: Asker) -> None:
    asked = {"messages": FRANCE, "temperature": 0, "max_tokens": 12, "ignore_eos": True}
    hidden, shown = asker.texts(asked, {**asked, "skip_special_tokens": False})
    assert "<|im_end|>" in shown
    assert "<|im_end|>" not in hidden
    turn: dict[str, Any] = {
        "prompt": "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    }
    turn |= {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
    assert "<|im_end|>" in asker.texts({**turn, "skip_special_tokens": False})[0]
    parameters = {"max_new_tokens": 12, "ignore_eos": True, "skip_special_tokens": False}
    assert "<|im_end|>" in asker.texts({"inputs": turn["prompt"], "parameters": parameters})[0]


def test_the_last_tokens_of_a_prompt(asker: Asker, tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "nonsense " * 50 + "What is the capital of France?"}]
    own = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    asked = {"messages": messages, "temperature": 0, "max_tokens": 8, "return_token_ids": True}
    [cut] = asker.ask({**asked, "truncate_prompt_tokens": 14})
    assert cut["usage"]["prompt_tokens"] == 14
    assert cut["choices"][0]["prompt_token_ids"] == own[-14:]


def test_token_ids_are_the_prompts_and_the_answers(server: Server, tokenizer: Any) -> None:
    own = tokenizer.apply_chat_template(FRANCE, add_generation_prompt=True, return_dict=True)["input_ids"]
    asked = {"messages": FRANCE, "temperature": 0, "return_token_ids": True}
    whole = server.whole(asked)["choices"][0]
    assert whole["prompt_token_ids"] == own
    assert tokenizer.decode(whole["token_ids"], skip_special_tokens=True) == whole["message"]["content"]
    chunks = [chunk["choices"][0] for chunk in server.lines(asked)]
    assert [token for chunk in chunks for token in chunk["token_ids"]] == whole["token_ids"]
    completed = server.whole(complete(return_token_ids=True, logprobs=1, return_tokens_as_token_ids=True))
    choice = completed["choices"][0]
    assert (choice["prompt_token_ids"], choice["token_ids"][0]) == (tokenizer.encode(CAPITAL), PARIS)
    assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in choice["token_ids"]]


def test_a_turn_that_is_continued_comes_back_whole(asker: Asker) -> None:
    turns = [*FRANCE, {"role": "assistant", "content": "The capital of"}]
    asked = {"messages": turns, "temperature": 0, "max_tokens": 8, "continue_final_message": True}
    plain, echoed, fresh = asker.texts(asked, {**asked, "echo": True}, {"messages": turns, "max_tokens": 8})
    assert plain == " France is Paris."
    assert echoed == "The capital of" + plain
    assert fresh != plain


def test_the_prompts_own_logprobs(asker: Asker, tokenizer: Any) -> None:
    """Of one text in three dialects: the same tokens and numbers; ranks and alternatives agree with each other."""
    text = tokenizer.apply_chat_template(FRANCE, add_generation_prompt=True, tokenize=False)
    ids = tokenizer.encode(text)
    told, completed, generated, scored = asker.ask(
        {"messages": FRANCE, "max_tokens": 1, "prompt_logprobs": 3},
        {"prompt": text, "max_tokens": 1, "prompt_logprobs": 3},
        {"inputs": text, "parameters": {"max_new_tokens": 1, "prompt_logprobs": 3, "details": True}},
        {"prompt": text, "max_tokens": 0, "echo": True, "logprobs": 3},
    )
    positions = told["prompt_logprobs"]
    assert (len(positions), positions[0]) == (len(ids), None)
    numbers = scored["choices"][0]["logprobs"]["token_logprobs"]
    for token, position, number in zip(ids[1:], positions[1:], numbers[1:], strict=True):
        own = position[str(token)]
        assert own["logprob"] == pytest.approx(number, abs=1e-3)
        assert own["decoded_token"] == tokenizer.decode([token])
        ranked = sorted(position.values(), key=lambda each: each["rank"])
        assert [each["rank"] for each in ranked[:3]] == [1, 2, 3]
        assert [each["logprob"] for each in ranked] == sorted((each["logprob"] for each in ranked), reverse=True)
        assert len(position) == (3 if own["rank"] <= 3 else 4)
    for other in (completed["choices"][0], generated["details"]):
        assert [position and [*position] for position in other["prompt_logprobs"]] == [
            position and [*position] for position in positions
        ]
    prefill = [(token["id"], token["logprob"]) for token in generated["details"]["prefill"]]
    assert prefill == [
        (token, pytest.approx(position[str(token)]["logprob"], abs=1e-3))
        for token, position in zip(ids[1:], positions[1:], strict=True)
    ]


def test_a_salt_keeps_cached_prefixes_apart(server: Server) -> None:
    """The second with the same salt finds the first's prefix; another salt, and none, do not."""

    def cached(**fields: Any) -> int:
        asked = {"messages": [{"role": "user", "content": LONG}], "max_tokens": 1, **fields}
        return int(server.whole(asked)["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert [cached(cache_salt="a"), cached(cache_salt="b")] == [0, 0]
    assert cached(cache_salt="a") > 0
    assert cached() == 0
    assert cached() > 0
    of_prompt = [
        server.whole({"prompt": "x" + LONG, "max_tokens": 1, "cache_salt": salt})["usage"] for salt in ("a", "b", "a")
    ]
    found = [usage["prompt_tokens_details"]["cached_tokens"] for usage in of_prompt]
    assert found[:2] == [0, 0]
    assert found[2] > 0


def test_the_best_of_several_are_the_likeliest(asker: Asker) -> None:
    fields = {"n": 3, "best_of": 6, "temperature": 1.5, "seed": 5, "max_tokens": 6}
    told, completed = asker.ask(
        chat("Tell a story.", **fields, logprobs=True), complete("Once upon a time", **fields, logprobs=0)
    )
    means = [
        sum(token["logprob"] for token in choice["logprobs"]["content"]) / len(choice["logprobs"]["content"])
        for choice in told["choices"]
    ]
    others = [
        sum(choice["logprobs"]["token_logprobs"]) / len(choice["logprobs"]["token_logprobs"])
        for choice in completed["choices"]
    ]
    for each in (means, others):
        assert len(each) == 3
        assert each == sorted(each, reverse=True)
    parameters = {"best_of": 4, "n": 2, "do_sample": True, "temperature": 1.5, "details": True, "max_new_tokens": 6}
    [generated] = asker.ask({"inputs": "Once upon a time", "parameters": parameters})
    assert len(generated["details"]["best_of_sequences"]) == 1


def test_beam_search(asker: Asker) -> None:
    """The best beam is at least as likely as the greedy answer; stop strings end it; the widest search is served."""
    greedy, beamed, stopped, standard_beams, widest = asker.ask(
        complete(logprobs=0, max_tokens=6, ignore_eos=True),
        complete(logprobs=0, max_tokens=6, ignore_eos=True, use_beam_search=True, n=3),
        complete(max_tokens=12, use_beam_search=True, n=2, stop=["."]),
        standard(CAPITAL, max_new_tokens=6, num_beams=3, early_stopping=True, length_penalty=0.5),
        complete(max_tokens=2, use_beam_search=True, n=16),
    )
    sums = [sum(choice["logprobs"]["token_logprobs"]) for choice in (*greedy["choices"], *beamed["choices"])]
    assert sums[1] >= sums[0] - 1e-3
    assert len(sums) == 4
    assert all("." not in choice["text"] for choice in stopped["choices"])
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert len(standard_beams["details"]["best_of_sequences"]) == 2
    assert len({choice["text"] for choice in widest["choices"]}) > 10
    told = asker.ask({"messages": FRANCE, "use_beam_search": True, "n": 2, "max_tokens": 8})[0]
    assert said(told) == "The capital of France is Paris."


def test_usage_in_every_chunk(server: Server) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    for asked in (chat("Count to nine.", stream_options=options), complete(stream_options=options)):
        *chunks, last = server.lines(asked)
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts == sorted(counts)
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == counts[-1]


def test_constraints_that_leave_no_token_are_told(server: Server) -> None:
    """vLLM samples a token that its grammar then rejects, and gives the request up."""
    body = {"prompt": CAPITAL, "structured_outputs": {"choice": ["Paris", "Rome"]}, "allowed_token_ids": [1, 2]}
    for stream in (False, True):
        status, _, data = server.post({**body, "stream": stream})
        assert status == 400
        text = "structured_outputs.choice and allowed_token_ids together leave no token to choose"
        assert json.loads(data)["error"]["message"] == text


def test_the_least_penalty_leaves_a_guide_in_force(server: Server) -> None:
    """One that is 0 in 32 bits makes NaN of what the constraint forbids, which is then chosen."""
    body = {"prompt": CAPITAL, "structured_outputs": {"choice": ["Paris", "Rome"]}, "max_tokens": 9}
    assert server.whole({**body, "repetition_penalty": 0.01})["choices"][0]["text"] in {"Paris", "Rome"}
    assert server.post({**body, "repetition_penalty": 1e-300})[0] == 400
