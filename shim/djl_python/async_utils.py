"""Build an asynchronous handler's Outputs: one part each, which says whether it is the last."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from djl_python.outputs import Output

Texts = str | dict[str, Any]
# What JSON lets stand in a string and line readers take for the end of a line, as JSON escapes it.
LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


def create_non_stream_output(
    data: Texts, properties: dict[str, Any] | None = None, error: str | None = None, code: int | None = None
) -> Output:
    """A whole answer in JSON, or with `error` and `code` a refusal."""
    return _output(data, "application/json", is_last=True, properties=properties, error=error, code=code)


def create_stream_chunk_output(
    data: Texts,
    last_chunk: bool,  # noqa: FBT001 the signature that handlers call
    error: str | None = None,
    code: int | None = None,
) -> Output:
    """One line of a stream."""
    return _output(data, "application/jsonlines", is_last=last_chunk, error=error, code=code)


def _output(
    data: Texts,
    content_type: str,
    *,
    is_last: bool,
    properties: dict[str, Any] | None = None,
    error: str | None = None,
    code: int | None = None,
) -> Output:
    text = json.dumps(data, ensure_ascii=False).translate(LINE_ENDS) if isinstance(data, dict) else data
    pairs: dict[str, Any] = {"data": text + "\n", "last": is_last}
    pairs |= {name: value for name, value in (("error", error), ("code", code)) if value}
    output = Output().add(Output.binary_encode(pairs)).add_property("Content-Type", content_type)
    for name, value in (properties or {}).items():
        output.add_property(name, value)
    return output


async def handle_streaming_response(
    response: AsyncIterator[Any],
    stream_output_formatter: Callable[..., Any],
    accumulate_chunks: bool = False,  # noqa: FBT001, FBT002 the signature that handlers call
    **kwargs: Any,
) -> AsyncIterator[Output]:
    """Chunks → Outputs. The formatter gives (data, is last), or with `accumulate_chunks` (data, is last, history).

    A formatter that raises ends the stream with a refusal.
    """
    history: list[Any] = []
    async for chunk in response:
        try:
            if accumulate_chunks:
                data, is_last, history = stream_output_formatter(chunk, history=history, **kwargs)
            else:
                data, is_last = stream_output_formatter(chunk, **kwargs)
        except Exception as error:  # noqa: BLE001 foreign code: whatever it raises is told to its caller
            yield create_stream_chunk_output("", last_chunk=True, error=str(error), code=424)
            return
        yield create_stream_chunk_output(data, is_last)
        if is_last:
            return
