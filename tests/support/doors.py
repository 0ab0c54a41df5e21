"""Ask one conversation by every way in, several at once."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.support.talks import Talk, Told
from tests.support.tongues import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    Post,
    Wire,
    at,
    by_boto,
    by_chat,
    by_completion,
    by_standard,
)
from tests.support.tongues_of_agents import by_messages, by_responses

ANY = "/invocations"
AT_ONCE = 12
Way = tuple[str, Callable[..., Told], Post]


@dataclass(frozen=True)
class Doors:
    """A server's ways in: its port, and a boto3 client."""

    port: int
    runtime: Any

    def ask(self, talk: Talk, *, nth: int | None = None) -> dict[str, Told]:
        """What each way tells, whole and streamed; with `nth` of those that go by another's route only every third."""
        first = by_chat(talk, at(Wire(self.port), CHAT), is_stream=False)
        ways = [*self._ways(talk, first)]
        if nth is not None:
            ways = [way for place, way in enumerate(ways) if way[0] in OWN_PATHS or place % 3 == nth % 3]
        told = {"chat": first}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            asked = {
                f"{name}{', streamed' if is_stream else ''}": pool.submit(way, talk, post, is_stream=is_stream)
                for name, way, post in ways
                for is_stream in (False, True)
            }
            return told | {name: one.result() for name, one in asked.items()}

    def _ways(self, talk: Talk, first: Told) -> Iterator[Way]:
        wire, boto = Wire(self.port), partial(by_boto, self.runtime)
        for name, way, path, to_any in (
            ("chat", by_chat, CHAT, ""),
            ("responses", by_responses, RESPONSES, RESPONSES),
            ("messages", by_messages, MESSAGES, ""),
        ):
            yield name, way, at(wire, path)
            yield f"{name} by route", way, at(wire, ANY, path)
            yield f"{name} by boto3", way, boto(to_any)
            yield f"{name} by its keys", way, at(wire, ANY)
        yield "chat by boto3 and route", by_chat, boto(CHAT)
        if not talk.is_free:
            return
        ids = [*(first.prompt_ids or ())]
        prompt = wire.detokenized(ids)
        of_ids = partial(by_completion, prompt=ids)
        yield "completions", of_ids, at(wire, COMPLETIONS)
        yield "completions of text", partial(by_completion, prompt=prompt), at(wire, COMPLETIONS)
        yield "completions by route", of_ids, at(wire, ANY, COMPLETIONS)
        yield "completions by boto3", of_ids, boto()
        yield "standard", partial(by_standard, prompt=prompt), at(wire, ANY)
        yield "standard by boto3", partial(by_standard, prompt=prompt), boto()
        if talk.is_bare:
            yield "standard of messages", partial(by_standard, prompt=[*talk.messages]), at(wire, ANY)


OWN_PATHS = ("chat", "responses", "messages", "completions", "standard", "standard of messages")
