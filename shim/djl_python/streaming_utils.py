"""Stream from a transformers model: an iterator that handlers hand to `Output.add_stream_content`."""

import logging
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import Any

log = logging.getLogger(__name__)
END = None


class HFStreamer:
    """A streamer for `model.generate`: gives a list of texts, one for each sequence, per step."""

    def __init__(self, tokenizer: Any, **decode_kwargs: Any) -> None:
        """Decode with `tokenizer.decode(ids, **decode_kwargs)`."""
        self._tokenizer, self._decode_kwargs = tokenizer, decode_kwargs
        self._waiting: SimpleQueue[list[str] | str | None] = SimpleQueue()

    def put(self, value: Any) -> None:
        """Take the token ids of one step: of one sequence, or a row for each."""
        rows = [value] if len(value.shape) == 1 else value
        self._waiting.put([self._tokenizer.decode(row, **self._decode_kwargs) for row in rows])

    def put_text(self, value: str) -> None:
        """Take a text as it is."""
        self._waiting.put(value)

    def end(self) -> None:
        """The generation is over."""
        self._waiting.put(END)

    def __iter__(self) -> Iterator[list[str] | str]:
        """Iterate over what comes."""
        return self

    def __next__(self) -> list[str] | str:
        """Wait for the next step."""
        value = self._waiting.get()
        if value is END:
            raise StopIteration
        return value


class StreamingUtils:
    """Generation in a thread of its own."""

    @staticmethod
    def use_hf_default_streamer(
        model: Any, tokenizer: Any, inputs: str | list[str], device: Any, **kwargs: Any
    ) -> HFStreamer:
        """Start `model.generate` on texts; a failure's text ends the stream."""
        if not tokenizer.pad_token:
            tokenizer.pad_token = tokenizer.eos_token
        tokens = tokenizer(inputs, padding=True, return_tensors="pt").to(model.device if device is None else device)
        streamer = HFStreamer(tokenizer, skip_special_tokens=True)

        def generate() -> None:
            try:
                model.generate(**tokens, streamer=streamer, **kwargs)
            except Exception as error:
                log.exception("the generation failed")
                streamer.put_text(str(error))
            finally:
                streamer.end()

        Thread(target=generate, daemon=True).start()
        return streamer

    @staticmethod
    def get_stream_generator(execution_engine: str) -> Callable[..., HFStreamer]:
        """The function that streams with an execution engine. Raises ValueError for one that is not known."""
        if execution_engine != "Accelerate":
            raise ValueError(f"execution engine must be Accelerate to stream, got {execution_engine}")
        return StreamingUtils.use_hf_default_streamer
