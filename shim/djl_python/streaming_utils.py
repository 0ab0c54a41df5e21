"""Streaming from transformers models."""

from lmi_chat.djl.streaming_utils import HFStreamer, StreamingUtils

__all__ = ["HFStreamer", "StreamingUtils"]
