"""Resolve a given name to its key: ours, the engine's, one that sets nothing, or none."""

import json
import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

from lmi_chat.config.aliases import (
    ELSEWHERE,
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

WORD_LIKENESS = NAME_LIKENESS = 0.7
"""What a hint must have at least in common with a given key: each word, and the whole."""
SLIP_LIKENESS = 0.9
"""The same for a key that would set nothing, and for names without a mark between words."""
SHORT_CHARS = 3
"""Of a word's beginning that stands for it: len and length."""
LEAVE_OUT = "leave it out (a handler of your own gets its keys from djl-serving)"
COUNTS = re.compile(r"\s*[a-z]+=\d+\s*(,\s*[a-z]+=\d+\s*)*")
"""How vLLM once wrote limit_mm_per_prompt: image=4,video=1."""


class KeyResolver:
    """All keys that can be given, by every name that they have."""

    def __init__(self, own: Iterable[str], engine_kinds: Mapping[str, str], gpus: int) -> None:
        """`own` are the keys of the table; see settings.read for the others."""
        self._own = frozenset(own)
        self._kinds = engine_kinds
        self._gpus = gpus
        names = (*WITHOUT_EFFECT, *TOLD, *NOT_YET, *ELSEWHERE, *REFUSED, *engine_kinds, *RENAMED, *self._own)
        self._by_folded = {_folded(name): name for name in names}

    def resolve(self, given: RawSetting) -> RawSetting | IgnoredSetting:
        """Return the setting under its one name, its value checked where that is possible here. Raises BadSetting."""
        name, text = self.name_of(given), given.text
        text = MEANT.get(self._written(given), {}).get(text.lower(), text)
        if not name and (name := self._negated(given.name)):
            text = {"true": "false", "false": "true"}.get(text.lower(), text)
        if name in self._own:
            return _value(RawSetting(name, text, given.origin))
        if name in REFUSED:
            raise BadSetting(f"{given.origin}: {name} is not possible, got {given.shown!r}; {REFUSED[name]}")
        if name in TOLD or name in NOT_YET:
            asks = text.lower() not in QUIET and text.lower() != UNASKED.get(name)
            why = TOLD.get(name) or f"{NOT_YET[name]}: not served by this version"
            return IgnoredSetting(RawSetting(name, text, given.origin), why, is_warning=asks)
        if name in ELSEWHERE and name not in self._kinds:
            return IgnoredSetting(
                RawSetting(name, text, given.origin), ELSEWHERE[name], is_warning=text.lower() not in QUIET
            )
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
        read = _value(given)
        if not read.text:
            return IgnoredSetting(given, "it is empty and sets nothing")
        if read.name == "tensor_parallel_size" and read.text.lower() == MOST:
            return RawSetting(read.name, str(self._gpus), f"{read.origin} ({MOST})")
        if read.name == "limit_mm_per_prompt" and COUNTS.fullmatch(read.text):
            return _counts(read)
        if self._is_switch(read.name) and read.text.lower() not in {"true", "false"}:
            raise bad(given, "one of true, false")
        return read

    def _is_switch(self, name: str) -> bool:
        return {*self._kinds.get(name, "?").split(" | ")} <= {"bool", "None"}

    def _negated(self, name: str) -> str:
        """VLLM's `no-` before a switch."""
        folded = _folded(name)
        other = self._by_folded.get(folded.removeprefix("no"), "") if folded.startswith("no") else ""
        return other if self._is_switch(other) else ""

    def _unknown(self, given: RawSetting) -> BadSetting:
        near = self._hint(given.name)
        hint = f"the nearest known key is {near}" if near else LEAVE_OUT
        shown = RawSetting(near or given.name, given.text, "").shown
        name = one_line(given.name.lower(), 80)
        return BadSetting(f"{given.origin}: {name} is no key of lmi-chat or of the engine, got {shown!r}; {hint}")

    def _hint(self, name: str) -> str:
        """Find the key that is meant by an unknown name: one that sets something, word for word, or ""."""
        given = _words(name)
        meant = [key for key in (*self._own, *self._kinds, *RENAMED) if _is_meant(given, _words(key))]
        found = nearest(_folded(name), map(_folded, meant), NAME_LIKENESS)
        found = found or nearest(_folded(name), self._by_folded, SLIP_LIKENESS)
        return self._by_folded.get(found, "")


def _folded(name: str) -> str:
    """Spelling does not count: DJL's keys have capitals inside, variables have none, options have dashes."""
    return name.lower().replace("-", "").replace("_", "")


def _words(name: str) -> list[str]:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("-", "_").split("_")


def _is_meant(given: list[str], key: list[str]) -> bool:
    """Whether the words of `given` stand in `key`, side by side, each as it is or with a slip in it."""
    return any(
        all(_is_like(one, other) for one, other in zip(given, key[at:], strict=False))
        for at in range(len(key) - len(given) + 1)
    )


def _is_like(word: str, other: str) -> bool:
    is_short_for = min(len(word), len(other)) >= SHORT_CHARS and (word.startswith(other) or other.startswith(word))
    return is_short_for or SequenceMatcher(None, word, other).ratio() >= WORD_LIKENESS


def _value(given: RawSetting) -> RawSetting:
    """Translate another server's word for a value; the origin then says what was given."""
    text = VALUES.get(given.name, {}).get(given.text.lower(), given.text)
    origin = given.origin if text == given.text else f"{given.origin} ({one_line(given.text, 80)})"
    return RawSetting(given.name, text, origin)


def _counts(given: RawSetting) -> RawSetting:
    pairs = (pair.strip().partition("=") for pair in given.text.split(","))
    text = json.dumps({name: int(count) for name, _, count in pairs})
    return RawSetting(given.name, text, f"{given.origin} ({one_line(given.text, 80)})")


def bad(given: RawSetting, wanted: str) -> BadSetting:
    """Build the error for an impossible value."""
    return BadSetting(f"{given.origin}: {given.name} must be {wanted}, got {given.shown!r}")
