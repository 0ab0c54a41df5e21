"""Put the deltas of an answer's parts one part after the other, for dialects whose parts are told in their order."""

from collections.abc import Sequence
from dataclasses import replace

from pydantic_core import from_json

from lmi_chat.job import Delta, DeltaKind, Finish

PartKey = tuple[DeltaKind, int]


def part_key(delta: Delta) -> PartKey:
    """Which part a delta belongs to: content, reasoning, or one of the calls."""
    return delta.kind, delta.call.place if delta.call is not None else -1


class CallOrder:
    """Holds back other calls while the arguments of one are incomplete: models may write several at once.

    Of calls that come one after the other nothing waits, unless arguments are no JSON.
    """

    __slots__ = ("_arguments", "_open", "_waiting")

    def __init__(self) -> None:
        """Begin without a call."""
        self._open: PartKey | None = None
        self._arguments: list[str] = []
        self._waiting: list[Delta] = []

    def take(self, delta: Delta) -> Sequence[Delta]:
        """The deltas that may be told now; before other text and at the sequence's end all that waited."""
        if self._open is None and delta.call is None:
            return (delta,)  # nearly always
        if delta.call is not None and part_key(delta) != self._open and (self._waiting or not self._is_complete()):
            self._waiting.append(delta if delta.finish is None else replace(delta, finish=None))
            return self._released(is_over=False) if delta.finish is None else self._ended(delta.finish, delta.index)
        if delta.call is None and delta.text:
            return [*self._released(is_over=True), self._tell(delta)]
        told = [self._tell(delta) if delta.call is not None else delta]
        if delta.finish is None or not self._waiting:
            return [*told, *self._released(is_over=False)]
        return [replace(told[0], finish=None), *self._ended(delta.finish, delta.index)]

    def _ended(self, finish: Finish, index: int) -> list[Delta]:
        """All that waited, and the sequence's end."""
        return [*self._released(is_over=True), Delta(index, "", [], finish=finish)]

    def _released(self, *, is_over: bool) -> list[Delta]:
        """Call by call what waited, up to one that is incomplete; all of it where the calls are over."""
        told: list[Delta] = []
        while self._waiting and (is_over or self._is_complete()):
            key = part_key(self._waiting[0])
            told += [self._tell(each) for each in self._waiting if part_key(each) == key]
            self._waiting = [each for each in self._waiting if part_key(each) != key]
        return told

    def _tell(self, delta: Delta) -> Delta:
        """Note what is told of a call."""
        key = part_key(delta)
        if key != self._open:
            self._open, self._arguments = (key if delta.call is not None else None), []
        if delta.call is not None:
            self._arguments.append(delta.text)
        return delta

    def _is_complete(self) -> bool:
        """Whether the open part may end; a call's arguments are then JSON."""
        if self._open is None:
            return True
        text = "".join(self._arguments)
        self._arguments = [text]
        if not text.rstrip().endswith("}"):
            return False
        try:
            from_json(text)
        except ValueError:
            return False
        return True
