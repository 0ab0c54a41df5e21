"""Streaming from transformers models."""

from typing import Any

import numpy as np
import pytest

from djl_python.streaming_utils import HFStreamer, StreamingUtils


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
