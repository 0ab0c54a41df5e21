"""What is asked of the servers, and what is read out of their answers. The stand-in engine gives back the prompt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHAT, COMPLETION, STANDARD = "/v1/chat/completions", "/v1/completions", "/invocations"
# Mostly text whose tokens are whole words, as answers mostly are; the last two have characters of several tokens.
PROMPTS = (
    "The quick brown fox jumps over the lazy dog while 17 other animals watch from the edge of the forest. ",
    "Grüße aus Köln: «Ça va très bien», dit-elle; alles für 3,50 € – façade, naïve, Übergröße, señor. ",
    'def parse(text: str) -> dict[str, int]:\n    """Read \\"pairs\\"."""\n    return dict(split(text))\n\n',
    '{"path": "C:\\\\temp\\\\new", "quote": "\\"", "tab": "\\t", "html": "<a href=\'/x\'>&amp;</a>", "n": [1.5]}\n',
    "When the ship came in, nobody on the quay could say where it had been or what it carried; so they waited. ",
    "Control:\t tab, \x01 one, \x1f unit, \x7f delete, \u2028 line, \u00a0 space, \r\n return, \x0b vertical. ",
    "Stars 🌟 and families 👩‍👩‍👧‍👦, flags 🇩🇪 🏳️‍🌈 between words 🫠, and some more of them in a row 🎉🎊🎈 at the end. ",
    "In Thai it is สวัสดีครับ, in Japanese こんにちは世界, in Chinese 你好，世界, and ∑ᵢ xᵢ² ≤ ∞ anywhere. ",
)
PROMPT_CHARACTERS = 600
THOUGHT = "<think>"  # how tools.jinja begins it


def prompt(place: int) -> str:
    """One of the texts, long enough that an answer does not come to its end soon."""
    text = PROMPTS[place % len(PROMPTS)]
    return (text * (1 + PROMPT_CHARACTERS // len(text)))[:PROMPT_CHARACTERS]


def chat(text: str, tokens: int, **more: object) -> dict[str, object]:
    """A chat of one message, greedy, that ends at `tokens`."""
    messages = [{"role": "user", "content": text}]
    return {"model": "bench", "messages": messages, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **more}


TOOLS = (("get_weather", "the weather of a city, today"), ("now", "the time"))


def tool(name: str, description: str) -> dict[str, object]:
    """A tool of a chat."""
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def standard(text: str, tokens: int) -> dict[str, object]:
    """LMI's schema, streamed; each token has its log_prob."""
    return {"inputs": text, "parameters": {"max_new_tokens": tokens, "ignore_eos_token": True}, "stream": True}


def completion(text: str, tokens: int) -> dict[str, object]:
    """What LMI's own handler asks of vLLM for a streamed request of its schema."""
    body = {"model": "bench", "prompt": text, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    options = {"include_usage": True, "continuous_usage_stats": True}
    return {**body, "stream": True, "logprobs": 1, "return_tokens_as_token_ids": True, "stream_options": options}


def request(path: str, body: object) -> bytes:
    """The bytes of one HTTP request."""
    data = json.dumps(body, ensure_ascii=False).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    return head.encode() + b"\r\n\r\n" + data


def read_chat(body: bytes) -> str:
    """A whole chat answer → its text."""
    return json.loads(body)["choices"][0]["message"]["content"] or ""  # null where there is none


def read_events(body: bytes) -> str:
    """Server-sent events of a chat or a completion → the joined text; each event is parsed by itself."""
    parts = []
    *blocks, end = body.split(b"\n\n")
    if end or blocks[-1] != b"data: [DONE]":
        raise ValueError(f"a stream ends with {body[-200:]!r}")
    for block in blocks[:-1]:
        event: Any = json.loads(block.removeprefix(b"data: "))
        parts += [each["text"] if "text" in each else _said(each["delta"]) for each in event["choices"]]
    return "".join(parts)


def _said(delta: dict[str, str | None]) -> str:
    """Its reasoning, then its content."""
    return (delta.get("reasoning") or "") + (delta.get("content") or "")


def read_lines(body: bytes) -> str:
    """Lines of the standard schema → the joined text, which the last one has whole too."""
    lines = [json.loads(line) for line in body.splitlines()]
    text = "".join(line["token"]["text"] for line in lines)
    if text != lines[-1]["generated_text"]:
        raise ValueError(f"the tokens' text is not the whole one: {text[-200:]!r}")
    return text


READERS: dict[str, Callable[[bytes], str]] = {"whole": read_chat, "events": read_events, "lines": read_lines}


def texts(folder: Path, kind: str, connections: int) -> list[str]:
    """The answers that the load generator kept, by connection. Raises ValueError where one is not whole.

    Without what follows the last whole token where the answer was cut within a character: U+FFFD, the token's space, or
    nothing, as each server likes. And without the mark of the prompt's thought, which parsers take for none.
    """
    found = (READERS[kind]((folder / str(place)).read_bytes()) for place in range(connections))
    return [text.replace(THOUGHT, "").rstrip("\ufffd ") for text in found]
