"""Answers of asynchronous handlers."""

from lmi_chat.djl.async_utils import (
    create_non_stream_output,
    create_stream_chunk_output,
    handle_streaming_response,
)

__all__ = ["create_non_stream_output", "create_stream_chunk_output", "handle_streaming_response"]
