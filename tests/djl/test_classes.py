"""The names that model directories import, as DJL documents them, under DJL's own name."""

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from djl_python import Input, Output, PairList
from djl_python.async_utils import create_non_stream_output, create_stream_chunk_output, handle_streaming_response
from djl_python.encode_decode import decode, encode
from djl_python.np_util import from_nd_list, to_nd_list
from djl_python.streaming_utils import HFStreamer, StreamingUtils

from lmi_chat.djl import output_parts


def given(data: bytes, content_type: str = "") -> Input:
    inputs = Input()
    inputs.properties = {"Content-Type": content_type} if content_type else {}
    inputs.content.add("data", bytearray(data))
    return inputs


def test_an_input_tells_its_body_by_content_type() -> None:
    assert Input().is_empty()
    assert Input().get_as_bytes() is None
    assert given(b'{"a": 1}', "application/json").get_data() == {"a": 1}
    assert given("é".encode(), "text/plain").get_data() == "é"
    assert given(b"raw").get_data() == b"raw"
    assert given(b"x", "text/plain").get_property("content-TYPE") == "text/plain"
    assert given(b"inputs\na\nb\n").get_as_csv() == [{"inputs": "a"}, {"inputs": "b"}]
    with pytest.raises(KeyError, match="other"):
        given(b"x").get_as_bytes("other")


def test_a_batch_comes_apart() -> None:
    inputs = Input()
    inputs.properties = {"batch_size": "2", "batch_000.eula": "no", "batch_001.eula": "yes"}
    for number in range(2):
        inputs.content.add(f"batch_{number:03}.data", f"body {number}".encode())
    batch = inputs.get_batches()
    assert [each.get_as_string() for each in batch] == ["body 0", "body 1"]
    assert [each.get_property("eula") for each in batch] == ["no", "yes"]
    assert given(b"x").get_batches()[0].get_as_bytes() == b"x"


def test_an_output_takes_what_handlers_give() -> None:
    output = Output().add("é", key="text").add(b"raw").add({"a": np.float32(0.5)}).add_property("x", "y")
    assert [bytes(value) for value in output.content.values[:2]] == ["é".encode(), b"raw"]
    assert json.loads(output.content.value_at(2)) == {"a": 0.5}
    assert output.get_property("x") == "y"
    failed = Output().error("no", code=400)
    assert failed.code == 400
    assert json.loads(failed.content.value_at(0)) == {"code": 400, "message": "invoke handler failure", "error": "no"}
    assert Output().add("x", key="k", batch_index=1).content.key_at(0) == "batch_1.k"
    ended: list[int] = []
    Output().finalize(ended.append, 1).execute_finalize()
    assert ended == [1]


def test_pairs_keep_their_order() -> None:
    pairs = PairList(pair_map={"a": 1})
    pairs.add("b", 2)
    pairs.add(pair=("c", 3))
    pairs.add("first", 0, index=0)
    pairs.add("nothing", None)
    assert (pairs.get_keys(), pairs.get_values()) == (["first", "a", "b", "c"], [0, 1, 2, 3])
    assert (pairs.size(), pairs.get("b"), pairs.get("z"), PairList().is_empty()) == (4, 2, None, True)
    with pytest.raises(ValueError, match="2 keys"):
        PairList(["a", "b"], [1])


def test_arrays_go_and_come_back() -> None:
    arrays: list[Any] = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, dtype=np.int64)]
    message = to_nd_list(arrays)
    assert bytes(message[:10]) == b"\x00\x00\x00\x02\x00\x04NDAR"
    for sent, got in zip(arrays, from_nd_list(bytes(message)), strict=True):
        assert got.dtype == sent.dtype
        np.testing.assert_array_equal(got, sent)
    file = io.BytesIO()
    np.savez(file, a=arrays[0])
    np.testing.assert_array_equal(given(file.getvalue()).get_as_npz()[0], arrays[0])
    for bad in (b"\x00\x00\x00\x01\x00\x04NOPE", bytes(message[:30])):
        with pytest.raises(ValueError, match="NDList"):
            from_nd_list(bad)


@pytest.mark.parametrize(
    ("data", "content_type", "expected"),
    [
        (b'{"a":1}', "application/json; charset=utf-8", {"a": 1}),
        (b'{"a":1}', "", {"a": 1}),
        (b"", "", {"inputs": ""}),
        (b"hi", "text/plain", {"inputs": ["hi"]}),
        (b"inputs\nx\n", "text/csv", {"inputs": ["x"]}),
        (b"question,context\nq,c\n", "text/csv", {"inputs": [{"question": "q", "context": "c"}]}),
        (b"a=1", "application/x-www-form-urlencoded", {"inputs": "a=1"}),
        (b"\x01", "audio/wav", {"inputs": b"\x01"}),
    ],
)
def test_decode(data: bytes, content_type: str, expected: object) -> None:
    assert decode(given(data, content_type), content_type) == expected


def test_decode_and_encode_refuse_and_tell() -> None:
    with pytest.raises(ValueError, match="header row"):
        decode(given(b"a,b\n1,2\n", "text/csv"), "text/csv")
    output = Output()
    encode(output, {"a": [1]}, "application/json")
    assert json.loads(output.content.value_at(0)) == {"a": [1]}
    assert output.get_property("Content-Type") == "application/json"
    table = Output()
    encode(table, [{"a": 1}], "text/csv")
    assert bytes(table.content.value_at(0)) == b"a\r\n1\r\n"


def test_outputs_of_asynchronous_handlers() -> None:
    whole = create_non_stream_output({"a": "é"}, properties={"x": "y"})
    assert output_parts.read(bytes(whole.content.value_at(0))) == {"data": '{"a": "é"}\n', "last": "True"}
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


class Letters:
    def decode(self, ids: Any, **_: Any) -> str:
        return "".join(chr(97 + number) for number in ids)


def test_a_transformers_streamer_gives_what_is_put() -> None:
    streamer = HFStreamer(Letters())
    streamer.put(np.array([[0, 1], [2, 3]]))
    streamer.put(np.array([4]))
    streamer.put_text("end")
    streamer.end()
    assert list(streamer) == [["ab", "cd"], ["e"], "end"]
    with pytest.raises(ValueError, match="Accelerate"):
        StreamingUtils.get_stream_generator("DeepSpeed")
