"""Resolve a given name to its key: ours, the engine's, one that sets nothing, or none."""

from collections.abc import Iterable, Mapping

from lmi_chat.config.aliases import (
    MEANT,
    MOST,
    NOT_YET,
    QUIET,
    REFUSED,
    RENAMED,
    TOLD,
    UNASKED,
    VALUES,
    WITHOUT_EFFECT,
)
from lmi_chat.config.sources import BadSetting, IgnoredSetting, RawSetting
from lmi_chat.text import nearest, one_line


class KeyResolver:
    """All keys that can be given, by every name that they have."""

    def __init__(self, own: Iterable[str], engine_kinds: Mapping[str, str], gpus: int) -> None:
        """`own` are the keys of the table; see settings.read for the others."""
        self._own = frozenset(own)
        self._kinds = engine_kinds
        self._gpus = gpus
        names = (*WITHOUT_EFFECT, *TOLD, *NOT_YET, *REFUSED, *engine_kinds, *RENAMED, *self._own)
        self._by_folded = {_folded(name): name for name in names}

    def resolve(self, given: RawSetting) -> RawSetting | IgnoredSetting:
        """Return the setting under its one name, its value checked where that is possible here. Raises BadSetting."""
        name, text = self.name_of(given), given.text
        text = MEANT.get(self._written(given), {}).get(text.lower(), text)
        if not name and (name := self._negated(given.name)):
            text = {"true": "false", "false": "true"}.get(text.lower(), text)
        if name in self._own:
            return RawSetting(name, _value(name, text), given.origin)
        if name in REFUSED:
            raise BadSetting(f"{given.origin}: {name} is not possible, got {given.shown!r}; {REFUSED[name]}")
        if name in TOLD or name in NOT_YET:
            asks = text.lower() not in QUIET and text.lower() != UNASKED.get(name)
            why = TOLD.get(name) or f"{NOT_YET[name]}: not served by this version"
            return IgnoredSetting(RawSetting(name, text, given.origin), why, is_warning=asks)
        if name in WITHOUT_EFFECT and name not in self._kinds:
            return IgnoredSetting(RawSetting(name, text, given.origin), WITHOUT_EFFECT[name])
        if name not in self._kinds and self._kinds:
            raise self._unknown(given)
        return self._for_engine(RawSetting(name or given.name.lower().replace("-", "_"), text, given.origin))

    def name_of(self, given: RawSetting) -> str:
        """Return the one name of what is given, "" where it has none."""
        written = self._written(given)
        return RENAMED.get(written, written)

    def _written(self, given: RawSetting) -> str:
        return self._by_folded.get(_folded(given.name), "")

    def _for_engine(self, given: RawSetting) -> RawSetting | IgnoredSetting:
        text, origin = _value(given.name, given.text), given.origin
        if not text:
            return IgnoredSetting(given, "it is empty and sets nothing")
        if given.name == "tensor_parallel_size" and text.lower() == MOST:
            text, origin = str(self._gpus), f"{origin} ({MOST})"
        if self._is_switch(given.name) and text.lower() not in {"true", "false"}:
            raise bad(given, "one of true, false")
        return RawSetting(given.name, text, origin)

    def _is_switch(self, name: str) -> bool:
        return {*self._kinds.get(name, "?").split(" | ")} <= {"bool", "None"}

    def _negated(self, name: str) -> str:
        """VLLM's `no-` before a switch."""
        folded = _folded(name)
        other = self._by_folded.get(folded.removeprefix("no"), "") if folded.startswith("no") else ""
        return other if self._is_switch(other) else ""

    def _unknown(self, given: RawSetting) -> BadSetting:
        near = nearest(_folded(given.name), self._by_folded)
        hint = f"; the nearest known key is {self._by_folded[near]}" if near else ""
        shown = RawSetting(self._by_folded[near] if near else given.name, given.text, "").shown
        name = one_line(given.name.lower(), 80)
        return BadSetting(f"{given.origin}: {name} is no key of lmi-chat or of the engine, got {shown!r}{hint}")


def _folded(name: str) -> str:
    """Spelling does not count: DJL's keys have capitals inside, variables have none, options have dashes."""
    return name.lower().replace("-", "").replace("_", "")


def _value(name: str, text: str) -> str:
    return VALUES.get(name, {}).get(text.lower(), text)


def bad(given: RawSetting, wanted: str) -> BadSetting:
    """Build the error for an impossible value."""
    return BadSetting(f"{given.origin}: {given.name} must be {wanted}, got {given.shown!r}")
