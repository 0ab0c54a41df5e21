"""Send calls in growing steps to the parsers that read all of a call again at each one.

Token by token a call of 5,400 tokens costs them up to 40 s, as much as its square; so fed it costs each under a second.
"""

from collections.abc import Iterator
from typing import Any

READ_AGAIN = frozenset(
    {
        "apertus",
        "glm45",
        "glm47",
        "granite",
        "inkling",
        "lfm2",
        "ling3",
        "llama4_pythonic",
        "mimo",
        "minimax_m2",
        "poolside_v1",
        "pythonic",
        "qwen3_coder",
        "qwen3_xml",
        "seed_oss",
        "step3p5",
    }
)
"""Tool parsers of vLLM that convert or parse a call from its beginning each time that more of it comes."""
ENDS = {"pythonic": "]"}
"""Characters that end a step as well, of parsers that read nothing where text follows the calls' end in one step."""
GROWTH = 64
"""A step has at most one token for so many since the first call began: how long a client waits follows from that."""
Step = tuple[str, list[int]]
"""Text and ids of some tokens."""


class CallSteps:
    """Gathers tokens to steps, the longer the more have come.

    Where a step ends depends on the tokens alone, not on how the engine gave them.
    """

    def __init__(self, marks: frozenset[int], ends: str = "") -> None:
        """`marks`: ids of the tokens that are steps of their own. `ends`: characters whose tokens end a step."""
        self._marks, self._ends = marks, frozenset(ends)
        self._count = 0
        self._texts: list[str] = []
        self._ids: list[int] = []

    def add(self, text: str, ids: list[int]) -> Iterator[Step]:
        """Take a token; give the steps that end before it or with it."""
        self._count += 1
        is_mark = not self._marks.isdisjoint(ids)
        if is_mark:
            yield from self.rest()
        self._texts.append(text)
        self._ids += ids
        if is_mark or len(self._texts) > self._count // GROWTH or not self._ends.isdisjoint(text):
            yield from self.rest()

    def rest(self) -> Iterator[Step]:
        """Give what is held."""
        if self._texts:
            step = "".join(self._texts), self._ids
            self._texts, self._ids = [], []
            yield step


def join_chunks(parser: Any) -> None:
    """Have the engine of vLLM's `parser` tell a step's argument text in one chunk; some tell each character."""
    engine = getattr(getattr(parser.tool_parser, "_parser_engine", None), "_engine", None)
    if engine is not None:
        feed = engine.feed
        engine.feed = lambda *args, **named: _joined(feed(*args, **named))


def _joined(events: list[Any]) -> list[Any]:
    """Join neighbours among vLLM's SemanticEvent that are chunks of the same call's arguments."""
    told: list[Any] = []
    for event in events:
        if event.type.name == "ARG_VALUE_CHUNK" and told and _kind(told[-1]) == _kind(event):
            told[-1].value += event.value
            told[-1].token_count += event.token_count
        else:
            told.append(event)
    return told


def _kind(event: Any) -> tuple[str, int]:
    return event.type.name, event.tool_index
