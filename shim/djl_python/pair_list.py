"""Hold the parts of an Input or Output in DJL's ordered multimap."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class PairList:
    """Keys and values in the order of their arrival; a key may be None and may stand there twice."""

    def __init__(
        self,
        keys: Sequence[Any] | None = None,
        values: Sequence[Any] | None = None,
        pair_list: Iterable[tuple[Any, Any]] | None = None,
        pair_map: Mapping[Any, Any] | None = None,
    ) -> None:
        """From two sequences of one length, from pairs or from a mapping. Raises ValueError for unequal lengths."""
        if len(keys or ()) != len(values or ()):
            raise ValueError(f"{len(keys or ())} keys and {len(values or ())} values make no pairs")
        pairs = [*zip(keys or (), values or (), strict=True), *(pair_list or ()), *(pair_map or {}).items()]
        self.keys = [key for key, _ in pairs]
        self.values = [value for _, value in pairs]

    def add(
        self, key: Any = None, value: Any = None, index: int | None = None, pair: tuple[Any, Any] | None = None
    ) -> None:
        """Add a pair, at `index` or at the end; a value of None is not kept."""
        key, value = pair or (key, value)
        if value is None:
            return
        at = len(self.keys) if index is None else index
        self.keys.insert(at, key)
        self.values.insert(at, value)

    def add_all(self, other: "PairList | None") -> None:
        """Add every pair of another list."""
        if other is not None:
            self.keys.extend(other.keys)
            self.values.extend(other.values)

    def size(self) -> int:
        """How many pairs there are."""
        return len(self.keys)

    def is_empty(self) -> bool:
        """Whether there is none."""
        return not self.keys

    def get(self, key: Any) -> Any:
        """The first value of `key`, or None."""
        return self.values[self.keys.index(key)] if key in self.keys else None

    def key_at(self, index: int) -> Any:
        """The key at a place."""
        return self.keys[index]

    def value_at(self, index: int) -> Any:
        """The value at a place."""
        return self.values[index]

    def get_keys(self) -> list[Any]:
        """All keys."""
        return self.keys

    def get_values(self) -> list[Any]:
        """All values."""
        return self.values
