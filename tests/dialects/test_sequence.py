"""One sequence as it grows: its text from deltas and spelled tokens, each token's share, its end, its likelihood."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_chat.dialects.sequence import LMI_FINISH, SequenceState, TextTokens, counts, finish_word, likeliest, usage
from lmi_chat.job import CallPart, Delta, Finish, Finished, Job, Reason, SamplingParams, Token
from tests.support.fakes import brief, delta, token

JOB = Job(id="1", prompt_ids=[1, 2], prompt_text="Say ")
CUTS: list[tuple[list[Delta], list[str]]] = [
    ([delta("ab")], ["a", "b"]),
    ([delta("é", b"\xc3", b"\xa9")], ["", "é"]),
    ([delta("", b"\xc3"), delta("éx", b"\xa9", b"x")], ["", "é", "x"]),
    ([delta("", b"a"), delta("ab", b"b")], ["", "ab"]),  # held back for a stop string
    ([delta("a", b"a", b"bc")], ["a", ""]),  # cut by one
    ([delta("a", b"a", b"")], ["a", ""]),  # a special token that is not shown
    ([Delta(0, "ab", [1, 2])], []),
]


def grown(*deltas: Delta, lead: str = "") -> SequenceState:
    state = SequenceState(JOB, lead)
    for each in deltas:
        state.take(each)
    return state


def test_a_state_is_the_fold_of_its_deltas() -> None:
    first, last = delta("a\ud83d\0", b"a", b"b"), delta("c", finish="stop", stop="x")
    state = grown(first, last, lead=JOB.prompt_text)
    assert state.text == state.text == "Say a\ud83d\0c"
    assert (state.ids, state.likelihood) == (first.ids + last.ids, -0.5)
    assert (state.count, state.finish) == (3, Finish("stop", "x"))
    assert (grown().text, grown().count, grown().finish, grown().likelihood) == ("", 0, None, 0.0)


def test_a_late_delta_takes_nothing_back() -> None:
    state = grown(Delta(0, "a", [1]), Delta(0, "", [], finish=Finish("length")), Delta(0, "", []))
    assert (state.text, state.finish) == ("a", Finish("length"))


def test_spelled_tokens_and_deltas_keep_their_order() -> None:
    state = SequenceState(JOB, "> ")
    state.take(delta("a"), is_shown=True)
    state.take_token(rb"\n\"")
    state.take_token("é".encode())
    assert state.text == '> a\n"é'
    state.take(delta("b"), is_shown=True)
    state.take_token(rb"\\")
    state.take(delta("", b"", finish="stop"), is_shown=True)
    assert (state.text, state.count, state.finish) == ('> a\n"éb\\', 6, Finish("stop"))


def test_a_stream_keeps_no_token() -> None:
    state = SequenceState(JOB)
    state.take(delta("ab"), is_shown=True)
    assert (state.count, state.ids, state.likelihood) == (2, [], 0.0)


@pytest.mark.parametrize(("deltas", "shares"), CUTS)
def test_each_token_has_its_share_of_the_text(deltas: list[Delta], shares: list[str]) -> None:
    state = SequenceState(JOB)
    assert [share for delta in deltas for _, share in state.spell(delta)] == shares


@brief
@given(
    st.text("ab é€", max_size=12), st.lists(st.integers(0, 30), max_size=12), st.sampled_from(["zz", "b", "ab", "é€"])
)
def test_tokens_with_a_text_joined_are_the_text_whatever_a_stop_string_holds_back(
    said: str, cuts: list[int], stop: str
) -> None:
    """As vLLM sends it: a token a step, the text behind by all but one of the stop string's characters, cut there."""
    data = said.encode()
    ends = sorted({len(data), *(cut for cut in cuts if cut < len(data))} - {0})
    tokens = [token(data[low:high]) for low, high in pairwise([0, *ends])]
    text_tokens = TextTokens(SamplingParams(stop=(stop,)))
    told, shown, beyond, so_far = "", list[Token](), list[Token](), b""
    for place, each in enumerate(tokens):
        so_far += each.choice.bytes
        known = so_far.decode("utf-8", "ignore")
        at, is_last = known.find(stop), place == len(tokens) - 1
        ready = known[:at] if at >= 0 else known if is_last else known[: max(len(known) - len(stop) + 1, len(told))]
        finish = Finish("stop", stop) if at >= 0 else Finish("length") if is_last else None
        step, left = text_tokens.take(Delta(0, ready[len(told) :], [1], [each], finish))
        told, shown, beyond = ready, shown + step, beyond + left
        assert told.encode().startswith(b"".join(one.choice.bytes for one in shown))
        if finish:
            break
    assert b"".join(one.choice.bytes for one in shown) == told.encode()
    assert [one.choice.id for one in shown + beyond] == [one.choice.id for one in tokens[: len(shown) + len(beyond)]]


@pytest.mark.parametrize(
    ("finish", "openai", "lmi"),
    [
        (None, None, None),
        (Finish("stop"), "stop", "eos_token"),
        (Finish("stop", 7), "stop", "eos_token"),
        (Finish("stop", ""), "stop", "stop_sequence"),
        (Finish("stop", "x"), "stop", "stop_sequence"),
        (Finish("length"), "length", "length"),
        (Finish("abort"), "abort", "abort"),
        (Finish("time_limit"), "time_limit", "time_limit"),
    ],
)
def test_words_for_an_end(finish: Finish | None, openai: str | None, lmi: str | None) -> None:
    assert (finish_word(finish, None), finish_word(finish, LMI_FINISH)) == (openai, lmi)


def test_every_reason_has_a_word() -> None:
    assert set(LMI_FINISH) == {*Reason.__args__, "stop_sequence"}  # type: ignore[attr-defined]  # a Literal's values


def test_usage_is_told_in_two_shapes() -> None:
    done = Finished(prompt_tokens=20, completion_tokens=3, cached_tokens=16)
    told = {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23}
    assert counts(done) == told
    assert usage(done) == {
        **told,
        "prompt_tokens_details": {"cached_tokens": 16},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_the_likeliest_by_the_mean_come_first() -> None:
    def spoken(*logprobs: float) -> SequenceState:
        tokens: list[Token] = [token(b"a", logprob) for logprob in logprobs]
        return grown(Delta(0, "a" * len(tokens), [97] * len(tokens), tokens))

    low, high, long, again = spoken(-3.0), spoken(-1.0, -2.0), spoken(-1.0, -1.0, -1.0), spoken(-1.5)
    assert likeliest([low, high, long, again], 4) == [long, high, again, low]
    assert likeliest([low, high, long, again], 2) == [long, high]


def test_a_state_keeps_reasoning_and_calls_beside_its_text() -> None:
    state = grown(
        Delta(0, "Hm", [1], kind="reasoning"),
        Delta(0, "", [2], kind="call", call=CallPart(0, "a", "weather")),
        Delta(0, "{", [3], kind="call", call=CallPart(0)),
        Delta(0, "ok", [4]),
        Delta(0, "{}", [5], kind="call", call=CallPart(1, "b", "time")),
        Delta(0, "}", [6], kind="call", call=CallPart(0)),
        lead="> ",
    )
    assert (state.text, state.reasoning, state.count) == ("> ok", "Hm", 6)
    assert [(call.id, call.name, call.arguments) for call in state.calls] == [
        ("a", "weather", "{}"), ("b", "time", "{}")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("finish", "is_shown"), [(Finish("stop"), False), (Finish("length"), True), (Finish("stop", "x"), True)]
)
@pytest.mark.parametrize("end", [token(b""), token(b"x")])
def test_the_token_that_ends_a_text_which_is_taken_apart_may_come_before_its_end(
    end: Token, finish: Finish, *, is_shown: bool
) -> None:
    tokens = TextTokens(SamplingParams(stop=("x",), stop_token_ids=(ord("x"),)), is_parsed=True)
    first = tokens.take(Delta(0, "", [97, end.choice.id], [token(b"a"), end]))
    last = tokens.take(Delta(0, "a", [], [], finish))
    assert (first, last) == (([token(b"a")], []), ([end], []) if is_shown else ([], [end]))


def test_a_special_token_within_a_text_that_is_taken_apart_comes_with_the_next() -> None:
    tokens = TextTokens(SamplingParams(stop=("zz",)), is_parsed=True)
    marker, letter = token(b""), token(b"a")
    steps = [Delta(0, "", [1], [letter]), Delta(0, "", [1], [marker]), Delta(0, "", []), Delta(0, "", [1], [letter])]
    told = [tokens.take(step)[0] for step in steps]
    assert told == [[letter], [], [], [marker, letter]]
