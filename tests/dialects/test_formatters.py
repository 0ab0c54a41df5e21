"""A deployment's own formatters on the line: what they are given, what takes its place, how they fail."""

import json
from typing import Any

import pytest

from lmi_chat.dialects.formatters import Formatters
from lmi_chat.errors import BadField, BadJson, HookFailed, NotFound
from tests.pipeline.test_pipeline import CHAT, STREAM, answered, opened


def numbered() -> Any:
    """Numbers each payload it is given."""
    count = 0

    def write(payload: dict[str, Any]) -> dict[str, Any]:
        nonlocal count
        count += 1
        return {"number": count, "was": payload["object"]}

    return write


def constant(value: object) -> Any:
    return lambda _: value


def assert_is_in_the_log(message: str, caplog: pytest.LogCaptureFixture) -> None:
    """The caller has an id, and neither the exception nor a path; the log has both under that id."""
    cause = message.rpartition(" ")[2]
    assert "Error" not in message
    assert [record.exc_info for record in caplog.records if cause in record.getMessage() and record.exc_info]


async def test_the_input_formatter_reads_the_decoded_body(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[object] = []

    def read(body: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
        seen.append(tokenizer.decode)
        return {"messages": [{"role": "user", "content": body["question"]}], "temperature": body.get("heat", 0)}

    line, engine = await opened(formatters=Formatters(read=read))
    await answered(line, {"question": "why?"})
    assert "why?" in engine.jobs[-1].prompt_text
    assert len(seen) == 1
    with pytest.raises(BadField, match="temperature must be at least 0"):
        await answered(line, {"question": "why?", "heat": -1})
    with pytest.raises(HookFailed, match="the input formatter failed; the server's log says why under") as failed:
        await answered(line, CHAT)
    assert_is_in_the_log(failed.value.message, caplog)
    assert line.active == 0


async def test_an_adapters_own_formatters_are_its_requests() -> None:
    """Which this engine cannot load yet; what its input formatter makes of the body is what is answered."""

    def plain(body: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {name: value for name, value in body.items() if name != "adapters"}

    own = Formatters(read=plain, write=constant({"by": "french"}))
    line, _ = await opened(formatters=Formatters(write=constant({"by": "base"}), adapters={"french": own}))
    assert json.loads((await answered(line, CHAT)).data) == {"by": "base"}
    assert json.loads((await answered(line, {**CHAT, "adapters": "french"})).data) == {"by": "french"}
    with pytest.raises(NotFound, match="german"):
        await answered(line, {**CHAT, "adapters": "german"})


async def test_the_deployments_do_what_an_adapter_has_no_formatter_for() -> None:
    def plain(body: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"messages": body["chat"]}

    reads, writes = Formatters(read=plain), Formatters(write=constant({"by": "own"}))
    adapters = {"reads": reads, "writes": writes, "none": Formatters()}
    line, _ = await opened(formatters=Formatters(read=plain, write=constant({"by": "base"}), adapters=adapters))
    for name, expected in (("reads", "base"), ("writes", "own"), ("none", "base")):
        body = {"chat": CHAT["messages"], "adapters": name}
        assert json.loads((await answered(line, body)).data) == {"by": expected}


async def test_what_an_input_formatter_gives_must_be_a_body() -> None:
    line, _ = await opened(formatters=Formatters(read=lambda body, **_: [body]))
    with pytest.raises(HookFailed, match="must give a dict, got list"):
        await answered(line, CHAT)
    line, _ = await opened(formatters=Formatters(read=lambda _, **__: {}))
    with pytest.raises(BadJson, match="none of the keys"):
        await answered(line, CHAT)


async def test_the_output_formatter_writes_a_whole_answer_and_each_chunk() -> None:
    line, _ = await opened(formatters=Formatters(write=numbered()))
    assert json.loads((await answered(line, CHAT)).data) == {"number": 1, "was": "chat.completion"}
    line, _ = await opened(formatters=Formatters(write=numbered()))
    out = await answered(line, STREAM, "text/event-stream")
    events = out.data.split(b"\n\n")
    assert [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]] == [
        {"number": number, "was": "chat.completion.chunk"} for number in range(1, 8)
    ]
    assert events[-2:] == [b"data: [DONE]", b""]


async def test_an_output_formatter_may_give_a_line_of_text() -> None:
    line, _ = await opened(
        formatters=Formatters(write=lambda payload: payload["choices"][0]["delta"].get("content", "end") + "\n")
    )
    assert (await answered(line, STREAM)).data == b"H\ne\nl\nl\no\n!\nend\n"
    bad: object
    for bad, why in (("a\nb", "one line"), ("a\rb", "one line"), (7, "got int")):
        line, engine = await opened(formatters=Formatters(write=constant(bad)))
        with pytest.raises(HookFailed, match=why):
            await answered(line, STREAM)
        assert (line.active, engine.running) == (0, 0)


@pytest.mark.parametrize("end", "\x85\u2028\u2029")
@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (lambda end: {"text": f"a{end}b"}, r'{"text":"a%sb"}'),
        (lambda end: f'{{"text": "a{end}b"}}\n', r'{"text": "a%sb"}'),
    ],
)
async def test_no_line_reader_splits_the_json_of_a_formatter(given: Any, sent: str, end: str) -> None:
    line, _ = await opened(formatters=Formatters(write=constant(given(end))))
    out = await answered(line, STREAM)
    assert set(out.data.decode().splitlines()) == {sent % f"\\u{ord(end):04x}"}
    assert json.loads((await answered(line, CHAT)).data)["text"] == f"a{end}b"


async def test_a_formatters_text_that_is_no_json_is_its_own() -> None:
    line, _ = await opened(formatters=Formatters(write=constant("a\u2028 b")))
    assert (await answered(line, STREAM)).data.startswith("a\u2028 b\n".encode())


async def test_an_output_formatter_that_fails_ends_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    def write(payload: dict[str, Any]) -> dict[str, Any]:
        if payload["choices"][0]["delta"].get("content") == "o":
            raise RuntimeError("no o")
        return payload

    line, engine = await opened(formatters=Formatters(write=write))
    out = await answered(line, STREAM, "text/event-stream")
    events = out.data.split(b"\n\n")[:-1]
    error = json.loads(events[-1].removeprefix(b"data: "))["error"]
    assert error["code"] == "custom_code_failed"
    assert error["message"].startswith("the output formatter failed; the server's log says why under ")
    assert_is_in_the_log(error["message"], caplog)
    assert len(events) == 5
    assert b"[DONE]" not in out.data
    assert out.is_ended
    assert (line.active, engine.running) == (0, 0)


def shouting(response: Any) -> Any:
    """In the manner of formatters written for LMI: whatever the request was, by attribute, changed in place."""
    if hasattr(response, "choices") and response.choices:
        choice = response.choices[0]
        if hasattr(choice, "delta") and choice.delta.content:
            choice.delta.content = choice.delta.content.upper()
        elif hasattr(choice, "message"):
            choice.message.content = choice.message.content.upper()
        elif hasattr(choice, "text"):
            choice.text = choice.text.upper()
    response.served_by = "formatter"
    return response


@pytest.mark.parametrize("is_dumped", [False, True])
@pytest.mark.parametrize(
    ("body", "whole", "piece"),
    [
        (CHAT, lambda answer: answer["choices"][0]["message"]["content"], lambda line: line["choices"][0]["delta"]),
        ({"prompt": "hi"}, lambda answer: answer["choices"][0]["text"], lambda line: line["choices"][0]),
        ({"inputs": "hi"}, lambda answer: answer["generated_text"], lambda line: line["token"]),
    ],
)
async def test_lmis_way_to_write_an_output_formatter(
    body: dict[str, Any], whole: Any, piece: Any, *, is_dumped: bool
) -> None:
    def write(response: Any) -> Any:
        return shouting(response).model_dump() if is_dumped else shouting(response)

    line, _ = await opened(formatters=Formatters(write=write))
    answer = json.loads((await answered(line, body)).data)
    assert (whole(answer), answer["served_by"]) == ("HELLO!", "formatter")
    data = (await answered(line, {**body, "stream": True})).data
    lines = [json.loads(text.removeprefix(b"data: ")) for text in data.split(b"\n") if text.strip(b"\n")]
    pieces = [piece(each) for each in lines if each.get("choices", True)]
    assert "".join(each.get("content") or each.get("text") or "" for each in pieces) == "HELLO!"
    assert {each["served_by"] for each in lines} == {"formatter"}


async def test_an_output_formatter_may_give_a_model() -> None:
    class Model:
        def model_dump(self) -> dict[str, Any]:
            return {"a": 1}

    line, _ = await opened(formatters=Formatters(write=constant(Model())))
    assert json.loads((await answered(line, CHAT)).data) == {"a": 1}
