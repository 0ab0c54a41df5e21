"""Declare the protocol of an engine; a new one is a folder beside this file, and nothing above changes."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from lmi_chat.chat_template import ChatRenderer, MakePairEncoder, Tokenizer
from lmi_chat.job import Adapter, Job, PoolingSpec, Sink, SpeechSpec, TokenSink
from lmi_chat.media import MediaRenderer


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLimits:
    """How many adapters a batch may have, how many the engine keeps in memory, and the highest rank of one."""

    max_loras: int
    max_cpu_loras: int
    max_rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The served model.

    `version`: the engine's; `names`: accepted model names; `defaults`: its own SamplingParams, named as there;
    `end_ids` end a sequence;
    `has_priority`: a job's priority counts, and is not passed over in silence; `pooler`: it pools and writes no text;
    `pairs`: makes what writes two texts into one prompt, None where the model reads none together;
    `speech`: it writes what is said in recordings;
    `chat`: code that renders its chats, None where a chat template does; `tool_parser`, `reasoning_parser`: what takes
    its text apart where a job asks for it, "" for none; `parsers_said`: how these were chosen, in one line; `adapters`:
    None where no adapter can be loaded. `media`: what renders prompts with images, audio or videos, None where it takes
    text alone; `chat_template`: the model's, where its tokenizer is not what has it.
    """

    name: str
    names: frozenset[str]
    tokenizer: Tokenizer
    context_tokens: int
    vocabulary_tokens: int
    max_running: int
    fingerprint: str
    version: str = ""
    has_priority: bool = False
    pooler: PoolingSpec | None = None
    pairs: MakePairEncoder | None = None
    speech: SpeechSpec | None = None
    chat: ChatRenderer | None = None
    media: MediaRenderer | None = None
    chat_template: str = ""
    tool_parser: str = ""
    reasoning_parser: str = ""
    parsers_said: str = ""
    adapters: AdapterLimits | None = None
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

    async def open(self) -> None:
        """Learn of the model what only the running engine tells. To be called once, before all else.

        Raises StartFailed where the model does what is not served.
        """

    async def check(self, job: Job) -> None:
        """Try what may be too much for the engine, a new output constraint. Takes no room in it, but may take seconds.

        To be called before `run`. Raises BadField; Busy or Unavailable where it cannot be tried now.
        """

    def run(self, job: Job, sink: Sink, token_sink: TokenSink | None = None) -> AbstractAsyncContextManager[Run]:
        """Start `job`; its events go to `sink`, from the event loop, until Finished or an Error.

        Entering raises an Error if the engine refuses the job. Leaving before the end takes the job off the engine.
        `sink` may be called before entering returns. An engine may make use of `token_sink` or not.
        """

    async def add_adapter(self, adapter: Adapter) -> None:
        """Load the weights of `adapter`; nothing happens where they are loaded.

        Raises BadAdapter where they do not fit the model, NotFound where the folder has none.
        """

    async def remove_adapter(self, adapter: Adapter) -> None:
        """Unload the weights of `adapter`, which no job uses any more; nothing happens where they are not loaded."""

    async def pin_adapter(self, adapter: Adapter) -> None:
        """Keep the weights of `adapter`, which are loaded, in one of the places of a batch until they are removed."""

    async def list_adapters(self) -> set[int]:
        """Collect the ids of the adapters whose weights are loaded."""

    def kv_event_sources(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the configuration of what publishes its cache events, by data-parallel rank, as vLLM names it."""

    async def stop(self) -> None:
        """End all of the engine's processes."""
