"""The states of an answer: a table of (state × event → frames, next state), for streams and whole answers."""

from collections.abc import Sequence

import pytest

from lmi_chat.codec.framing import DOCUMENT, OPENAI_EVENTS
from lmi_chat.dialects.task import TokenRenderer
from lmi_chat.errors import Bug, Error, HookFailed
from lmi_chat.job import Delta, Event, Finish, Finished, Job, ParsingParams
from lmi_chat.observability.record import RequestRecord
from lmi_chat.pipeline.response import ResponseStream, State

ERROR = Bug("boom")
FINISHED = Finished(prompt_tokens=1, completion_tokens=2)
LAST = b"data: [DONE]\n\n"


class Shown(TokenRenderer):
    """Shows each event by one word; the words of a token stand between `ends`, where it has some."""

    def __init__(self, ends: tuple[bytes, bytes] | None = (b"<", b">")) -> None:
        self.is_quick, self.ends = True, ends

    def token(self, token_id: int, spelled: bytes, logprob: float) -> bytes:
        return b"slow " + spelled if self.ends is None else super().token(token_id, spelled, logprob)

    def delta(self, delta: Delta) -> Sequence[bytes]:
        if delta.text == "unfit":
            raise HookFailed("the formatter failed")
        return [delta.text.encode()]

    def done(self, done: Finished) -> Sequence[bytes]:
        return [b"%d tokens" % done.completion_tokens]

    def fail(self, error: Error) -> bytes:
        return b"error " + error.code.encode()


class Wire:
    """What was sent, in order."""

    def __init__(self, *, ends: tuple[bytes, bytes] | None = (b"<", b">"), is_stream: bool = True) -> None:
        job = Job(id="j", prompt_ids=[1], prompt_text="p")
        self.sent: list[bytes] = []
        self.stream = ResponseStream(Shown(ends), OPENAI_EVENTS if is_stream else DOCUMENT, (job,))
        self.token_sink = self.stream.token_sink(is_stream=is_stream)

    def begin(self) -> None:
        self.stream.send_by(self.sent.append, lambda _, frame: self.sent.append(frame))

    def token(self) -> None:
        """As the engine does it: the sink's function is looked up at each token."""
        assert self.token_sink
        self.token_sink.token(7, b"t", 0.0)


def delta(text: str = "a") -> Delta:
    return Delta(0, text, [7])


def event(name: str) -> Event:
    events: dict[str, Event] = {"delta": delta(), "unfit": delta("unfit"), "finished": FINISHED, "error": ERROR}
    return events[name]


def frame(text: str) -> bytes:
    return f"data: {text}\n\n".encode()


def reach(state: State) -> Wire:
    wire = Wire()
    if state.has_begun:
        wire.begin()
    if state.has_ended:
        wire.stream.put(FINISHED)
    return wire


END = [frame("2 tokens"), LAST]
# state, event → frames that go to the wire now, frames that wait, next state
TABLE = [
    (State.WAITING, "delta", [], [frame("a")], State.WAITING),
    (State.WAITING, "token", [], [frame("<t>")], State.WAITING),
    (State.WAITING, "finished", [], END, State.READY),
    (State.WAITING, "error", [], [], State.READY),
    (State.WAITING, "unfit", [], [], State.READY),
    (State.WAITING, "begin", [], [], State.SENDING),
    (State.READY, "delta", [], END, State.READY),
    (State.READY, "token", [], END, State.READY),
    (State.READY, "finished", [], END, State.READY),
    (State.READY, "error", [], END, State.READY),
    (State.READY, "begin", END, [], State.OVER),
    (State.SENDING, "delta", [frame("a")], [], State.SENDING),
    (State.SENDING, "token", [frame("<t>")], [], State.SENDING),
    (State.SENDING, "finished", END, [], State.OVER),
    (State.SENDING, "error", [frame("error internal_error")], [], State.OVER),
    (State.SENDING, "unfit", [frame("error custom_code_failed")], [], State.OVER),
    (State.OVER, "delta", [], [], State.OVER),
    (State.OVER, "token", [], [], State.OVER),
    (State.OVER, "finished", [], [], State.OVER),
    (State.OVER, "error", [], [], State.OVER),
]


@pytest.mark.parametrize(
    ("state", "name", "sent", "waiting", "then"), TABLE, ids=[f"{row[0].name}-{row[1]}" for row in TABLE]
)
def test_every_state_and_event(state: State, name: str, sent: list[bytes], waiting: list[bytes], then: State) -> None:
    wire = reach(state)
    assert wire.stream.state is state
    before = len(wire.sent)
    if name == "token":
        wire.token()
    elif name == "begin":
        wire.begin()
    else:
        wire.stream.put(event(name))
    assert wire.sent[before:] == sent
    assert wire.stream.document() == b"".join(waiting)
    assert wire.stream.state is then
    assert wire.stream.is_sending == then.has_begun


def test_the_table_has_every_pair() -> None:
    events = ("delta", "token", "finished", "error", "begin")
    pairs = {(state, name) for state, name, *_ in TABLE}
    assert {(state, name) for state in State for name in events} - pairs == {
        (State.SENDING, "begin"),
        (State.OVER, "begin"),
    }


@pytest.mark.parametrize("ends", [(b"<", b">"), None])
def test_a_token_goes_by_the_state_it_meets(ends: tuple[bytes, bytes] | None) -> None:
    """The same sink all along: held back, straight to the wire, dropped."""
    wire = Wire(ends=ends)
    shown = frame("<t>") if ends else frame("slow t")
    wire.token()
    assert wire.sent == []
    wire.begin()
    wire.token()
    assert wire.sent == [shown, shown]
    wire.stream.put(ERROR)
    wire.token()
    assert wire.sent == [shown, shown, frame("error internal_error")]


def test_a_whole_answer_is_never_on_the_wire_before_its_end() -> None:
    wire = Wire(is_stream=False)
    wire.stream.put(Delta(0, "a", [7], finish=Finish("stop")))
    wire.stream.put(FINISHED)
    assert (wire.stream.state, wire.stream.document()) == (State.READY, b"a2 tokens")


async def test_an_error_before_the_first_frame_is_raised_and_after_it_is_a_frame() -> None:
    early, late = Wire(), Wire()
    early.stream.put(ERROR)
    with pytest.raises(Bug):
        await early.stream.begun()
    late.stream.put(delta())
    late.stream.put(ERROR)
    await late.stream.begun()
    late.begin()
    assert late.sent == [frame("a"), frame("error internal_error")]
    await late.stream.over()


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_that_is_taken_apart_is_streamed_by_deltas_alone(*, is_stream: bool) -> None:
    job = Job(id="j", prompt_ids=[1], prompt_text="p", parsing=ParsingParams())
    token_sink = ResponseStream(Shown(), OPENAI_EVENTS, (job,)).token_sink(is_stream=is_stream)
    assert (token_sink is None) == is_stream
    assert token_sink is None or token_sink.is_folded


def test_an_end_of_several_jobs_and_copies_has_the_sum_of_what_they_called_and_reasoned() -> None:
    jobs = [Job(id=name, prompt_ids=[1], prompt_text="p", copies=copies) for name, copies in (("a", 1), ("b", 2))]
    stream = ResponseStream(Shown(), OPENAI_EVENTS, jobs)
    for sink, names in zip(stream.sinks(), (("f",), ("g", "h")), strict=True):
        sink(Finished(prompt_tokens=1, completion_tokens=5, reasoning_tokens=3, called=names))
    stream.fill_record(record := RequestRecord())
    assert (record.reasoning_tokens, record.completion_tokens) == (3 + 2 * 3, 15)
    assert record.called == ("f", "g", "h", "g", "h")
