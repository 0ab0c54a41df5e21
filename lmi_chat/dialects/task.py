"""Define a parsed request: its jobs, and the renderer of its answer; or the answer itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from lmi_chat.codec.framing import Framing, Shape
from lmi_chat.dialects.adapter import NamedAdapters
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Finished, Job


class Renderer(Protocol):
    """Events → payloads: each item is one JSON text without its framing. A whole answer is a fold that gives one."""

    @property
    def held_bytes(self) -> int:
        """About how many bytes of the answer are kept until its end; 0 for a stream."""

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Payloads for one delta."""

    def done(self, done: Finished) -> Sequence[bytes]:
        """Payloads that close the answer."""

    def fail(self, error: Error) -> bytes:
        """The payload that ends a stream which cannot be completed."""


class TokenRenderer:
    """A render that can take a streamed token without its delta, as it says for each request by `is_quick`.

    `ends`: what stands around the text of each token once the answer has begun; None where that is not always the same.
    """

    is_quick: bool
    held_bytes = 0
    ends: tuple[bytes, bytes] | None = None

    def token(self, token_id: int, spelled: bytes, logprob: float) -> bytes:  # noqa: ARG002 what TokenSink hands over
        """The payload of one token of the only sequence: here its text between the ends; without them, its own way."""
        head, tail = self.ends or (b"", b"")
        return head + spelled + tail


@dataclass(slots=True, kw_only=True)
class ParsedRequest:
    """A parsed request: its jobs (one per prompt), whether it streams, who renders it, what its keys call for.

    `adapters`: the name of each job's adapter, "" for the model alone; empty where no job has one. `named`: what of the
    request names them.
    `has_end`, `has_names`: its events end with `[DONE]`; they have their types as names.
    `whole`: the framing of a whole answer that is no JSON; None for one that is.
    """

    dialect: str
    jobs: tuple[Job, ...]
    is_stream: bool
    render: Renderer
    has_end: bool
    has_names: bool = False
    shape: Shape | None = None
    whole: Framing | None = None
    unknown: list[str] = field(default_factory=list)
    user: str = ""
    adapters: tuple[str, ...] = ()
    named: NamedAdapters | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def job(self) -> Job:
        """The first job; most requests have no other."""
        return self.jobs[0]


class DirectAnswer(NamedTuple):
    """The answer to a request that needs no engine: one document, and what its header warns of."""

    document: bytes
    warnings: list[str]
