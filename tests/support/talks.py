"""Hold conversations that each dialect is asked for, and compare what their answers tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic_core import from_json

Json = dict[str, Any]
Call = tuple[str, Any]
PARROT = "<empty_output>"
"""Before what the engine is made to say: the real one by tests/support/parrot.py, a scripted one by its script."""
MARK = "<t"
"""What thoughts and calls begin with."""


@dataclass(frozen=True, kw_only=True)
class Talk:
    """One conversation in a chat's words. `thinks` None: as the template has it."""

    messages: Sequence[Json]
    max_tokens: int = 24
    stop: tuple[str, ...] = ()
    tools: Sequence[Json] = ()
    choice: Any = None
    thinks: bool | None = None

    @property
    def is_bare(self) -> bool:
        """Whether the messages are all that its prompt depends on, and nothing forces its text."""
        return not (self.tools or self.thinks is not None)

    @property
    def is_free(self) -> bool:
        """Whether nothing forces its text: a prompt alone asks for the same."""
        return self.choice in (None, "auto", "none")


@dataclass(frozen=True, kw_only=True)
class Told:
    """What an answer says. None: the dialect does not tell. `ends`: the reasons that its word for the end may mean."""

    text: str
    thought: str | None = ""
    calls: tuple[Call, ...] | None = ()
    ends: frozenset[str]
    prompt: int | None
    completion: int
    reasoned: int | None = None
    ids: tuple[int, ...] | None = None
    prompt_ids: tuple[int, ...] | None = None


def read(arguments: str) -> Any:
    """A call's arguments; of one that was cut, what there is."""
    return from_json(arguments, allow_partial=True) if arguments else {}


def differences(one: Told, told: Mapping[str, Told], talk: Talk) -> list[str]:
    """What an answer says otherwise than the chat; one that takes no text apart, than the completion of its prompt."""
    expected = told["chat"]
    if one.calls is None:
        raw = told["completions"]
        if MARK not in raw.text:
            raw = replace(raw, text=expected.text)
        ends = frozenset({"stop"}) if expected.ends == {"call"} else expected.ends
        expected = replace(expected, text=raw.text, ends=ends)
    names = ("text", "thought", "calls", "prompt", "completion", "reasoned", "ids", "prompt_ids")
    pairs = [(name, getattr(one, name), getattr(expected, name)) for name in names]
    found = [
        f"{name} {own!r}, not {other!r}" for name, own, other in pairs if None not in (own, other) and own != other
    ]
    if not expected.ends <= one.ends:
        found.append(f"end {set(one.ends)}, not {set(expected.ends)}")
    assert talk.max_tokens >= one.completion
    return found


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def says(text: str) -> Json:
    """A message after which this is said."""
    return user(f"{PARROT}{text}")


def tool(name: str, **properties: str) -> Json:
    """A function with parameters of these types."""
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


WEATHER, CLOCK = tool("weather", town="string", days="integer"), tool("clock")
BOTH = (WEATHER, CLOCK)
WARM, TIME = call("weather", '{"town": "Genève 🌞", "days": 2}'), call("clock", "{}")
SYSTEM: Json = {"role": "system", "content": "You answer in one word."}
MADE: Json = {
    "role": "assistant",
    "content": "Let me look.",
    "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}],
}
RESULT: Json = {"role": "tool", "tool_call_id": "call_1", "content": "noon"}
CAPITAL = user("What is the capital of France?")
THOUGHT = "<think>\nHm, é.\n</think>\n\n"
LONG = 200

TALKS: Mapping[str, Talk] = {
    "plain": Talk(messages=[CAPITAL]),
    "system": Talk(messages=[SYSTEM, CAPITAL]),
    "several turns": Talk(
        messages=[user("Name a colour."), {"role": "assistant", "content": "Blue."}, user("Another one?")]
    ),
    "unicode asked": Talk(messages=[user("Was heißt „日本“ auf Deutsch? 🌞")]),
    "unicode said": Talk(messages=[says("Zürich 🌞, 日本 – é!")], max_tokens=LONG),
    "nothing": Talk(messages=[says("")]),
    "blanks": Talk(messages=[says(" \n")], max_tokens=LONG),
    "quotes and breaks": Talk(messages=[says('A "quote" \\ and\n\n\ttabs </b>')], max_tokens=LONG),
    "a character is cut": Talk(messages=[says("🌞🦜🌞🦜")], max_tokens=2),
    "one token": Talk(messages=[CAPITAL], max_tokens=1),
    "cut": Talk(messages=[SYSTEM, CAPITAL], max_tokens=4),
    "a stop string": Talk(messages=[says("One. Two. Three.")], stop=("Two",), max_tokens=LONG),
    "stop strings across tokens": Talk(
        messages=[says("Ein Wort, ein Satz – Ende.")], stop=("xyz", "z – E"), max_tokens=LONG
    ),
    "a call": Talk(messages=[says(WARM)], tools=BOTH, max_tokens=LONG),
    "two calls": Talk(messages=[SYSTEM, says(f"{WARM}\n{TIME}")], tools=BOTH, choice="auto", max_tokens=LONG),
    "words, then a call": Talk(messages=[says(f"Let me look.\n{WARM}")], tools=BOTH, max_tokens=LONG),
    "a call that is cut": Talk(messages=[says(WARM)], tools=BOTH, max_tokens=22),
    "a result": Talk(
        messages=[user("What time is it?"), MADE, RESULT, says("It is noon.")], tools=BOTH, max_tokens=LONG
    ),
    "a result at the end": Talk(messages=[user("What time is it?"), MADE, RESULT], tools=[CLOCK]),
    "no call": Talk(messages=[says(WARM)], tools=BOTH, choice="none", max_tokens=LONG),
    "a call that has to be": Talk(messages=[CAPITAL], tools=BOTH, choice="required", thinks=False, max_tokens=40),
    "a named call": Talk(
        messages=[CAPITAL],
        tools=BOTH,
        choice={"type": "function", "function": {"name": "weather"}},
        thinks=False,
        max_tokens=40,
    ),
    "reasoning": Talk(messages=[says(f"{THOUGHT}It is.")], max_tokens=LONG),
    "reasoning, then a call": Talk(messages=[says(f"{THOUGHT}{WARM}")], tools=BOTH, max_tokens=LONG),
    "reasoning that is cut": Talk(messages=[says(f"{THOUGHT}It is.")], max_tokens=5),
    "no reasoning": Talk(messages=[CAPITAL], thinks=False),
    "a stop string while it reasons": Talk(messages=[says(f"{THOUGHT}It is.")], stop=("m, é",), max_tokens=LONG),
    "reasoning before": Talk(
        messages=[
            user("Name a colour."),
            {"role": "assistant", "content": "Blue.", "reasoning": "A colour is asked for."},
            says("Red it is."),
        ],
        max_tokens=LONG,
    ),
}
