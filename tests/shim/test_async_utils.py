"""Outputs of asynchronous handlers."""

from collections.abc import AsyncIterator
from typing import Any

from djl_python.async_utils import create_non_stream_output, create_stream_chunk_output, handle_streaming_response
from lmi_chat.djl import output_parts


def test_outputs_of_asynchronous_handlers() -> None:
    whole = create_non_stream_output({"a": "é"}, properties={"x": "y"})
    assert output_parts.read(bytes(whole.content.value_at(0))) == {"data": '{"a": "é"}\n', "last": "True"}
    line = create_stream_chunk_output({"a": "\x85\u2028\u2029é"}, last_chunk=False)
    expected = {"data": r'{"a": "\u0085\u2028\u2029é"}' + "\n", "last": "False"}
    assert output_parts.read(bytes(line.content.value_at(0))) == expected
    assert whole.properties == {"Content-Type": "application/json", "x": "y"}
    chunk = create_stream_chunk_output("x", False)  # noqa: FBT003 LMI's signature
    assert output_parts.read(bytes(chunk.content.value_at(0)))["last"] == "False"
    assert chunk.properties == {"Content-Type": "application/jsonlines"}


async def chunks() -> AsyncIterator[str]:
    for text in "abc":
        yield text


async def test_chunks_are_formatted_until_the_last_one() -> None:
    def form(chunk: str, **_: Any) -> tuple[str, bool]:
        if chunk == "c":
            raise RuntimeError("no c")
        return chunk.upper(), False

    told = [
        output_parts.read(bytes(output.content.value_at(0)))
        async for output in handle_streaming_response(chunks(), form)
    ]
    assert [each["data"] for each in told] == ["A\n", "B\n", "\n"]
    assert (told[-1]["last"], told[-1]["code"], told[-1]["error"]) == ("True", "424", "no c")


async def test_chunks_with_a_history() -> None:
    def form(chunk: str, history: list[str]) -> tuple[str, bool, list[str]]:
        return "".join([*history, chunk]), chunk == "b", [*history, chunk]

    told = [output async for output in handle_streaming_response(chunks(), form, accumulate_chunks=True)]
    assert [output_parts.read(bytes(output.content.value_at(0)))["data"] for output in told] == ["a\n", "ab\n"]
