"""Declare the protocol of an engine; a new one is a folder beside this file, and nothing above changes."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from lmi_chat.chat_template import ChatRenderer, Tokenizer
from lmi_chat.job import EmbeddingSpec, Job, Sink, TokenSink


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The served model.

    `names`: accepted model names; `defaults`: its own SamplingParams, named as there; `end_ids` end a sequence;
    `has_priority`: a job's priority counts, and is not passed over in silence; `space`: it embeds and writes no text;
    `chat`: code that renders its chats, None where a chat template does; `tool_parser`, `reasoning_parser`: what takes
    its text apart where a job asks for it, "" for none; `parsers_said`: how these were chosen, in one line.
    """

    name: str
    names: frozenset[str]
    tokenizer: Tokenizer
    context_tokens: int
    vocabulary_tokens: int
    max_running: int
    fingerprint: str
    has_priority: bool = False
    space: EmbeddingSpec | None = None
    chat: ChatRenderer | None = None
    tool_parser: str = ""
    reasoning_parser: str = ""
    parsers_said: str = ""
    end_ids: frozenset[int] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)


class Run(Protocol):
    """A job on the engine."""

    @property
    def completion_tokens(self) -> int:
        """Count the tokens generated so far, of all sequences."""

    def cut(self) -> None:
        """End the job now with what there is: open sequences finish by `time_limit`, then Finished. Returns at once."""


class Engine(Protocol):
    """A running engine."""

    @property
    def model(self) -> Model:
        """The model that it serves."""

    @property
    def is_dead(self) -> bool:
        """Whether the engine is gone for good: nothing will run on it again."""

    @property
    def stepped_at(self) -> float:
        """Time of its last step, on the monotonic clock in seconds."""

    async def check(self, job: Job) -> None:
        """Try what may be too much for the engine, a new output constraint. Takes no room in it, but may take seconds.

        To be called before `run`. Raises BadField; Busy or Unavailable where it cannot be tried now.
        """

    def run(self, job: Job, sink: Sink, token_sink: TokenSink | None = None) -> AbstractAsyncContextManager[Run]:
        """Start `job`; its events go to `sink`, from the event loop, until Finished or an Error.

        Entering raises an Error if the engine refuses the job. Leaving before the end takes the job off the engine.
        `sink` may be called before entering returns. An engine may make use of `token_sink` or not.
        """

    async def stop(self) -> None:
        """End all of the engine's processes."""
