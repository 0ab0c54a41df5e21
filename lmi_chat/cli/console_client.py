"""Fetch a server's figures and last requests from its console's routes."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from lmi_chat.cli.target import OK, Failed, Url, http_url
from lmi_chat.text import one_line

KEY = "LMI_CHAT_API_KEY"
API = "/console/api"
SECONDS = 120
"""Of the figures that are asked for: as much as a screen shows, or comes between two lines."""
REQUESTS = 40
TIMEOUT_S = 10.0
WORD_BYTES = 200
UNAUTHORIZED, NOT_FOUND = 401, 404
Json = Mapping[str, Any]


class Server:
    """A server whose console is on."""

    def __init__(self, target: str, key: str, headers: list[str]) -> None:
        """Ask the server at `target`, a URL with or without the console's path. Raises Failed."""
        url = http_url(target)
        if url is None:
            raise Failed(f"{target!r} is no http(s) URL")
        host, path = url.netloc.rpartition("@")[2], url.path.rstrip("/").removesuffix("/console")
        url = url._replace(netloc=host, path=path, query="", fragment="")
        sent = {name.strip(): value.strip() for name, _, value in (text.partition(":") for text in headers)}
        self._url, self.shown = Url(url, sent | ({"x-api-key": key} if key else {}), TIMEOUT_S), url.geturl()

    def now(self) -> Json:
        """What is served. Raises Failed."""
        return self._get("/now")

    def rows(self) -> list[Json]:
        """The figures of the last seconds, by their names. Raises Failed."""
        series = self._get(f"/series?seconds={SECONDS}")
        return [dict(zip(series["columns"], row, strict=True)) for row in series["rows"]]

    def requests(self) -> list[Json]:
        """The last requests, newest first. Raises Failed."""
        found: list[Json] = self._get(f"/requests?limit={REQUESTS}")["requests"]
        return found

    def _get(self, path: str) -> Json:
        with self._url.get(API + quote(path, safe="/?=&")) as answer:
            body = b"".join(answer.chunks)
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        message = _message(found)
        if answer.status == UNAUTHORIZED:
            raise Failed(f"{self.shown}: {message or 'it asks for an API key'} (--api-key, or {KEY})")
        if answer.status == NOT_FOUND:
            raise Failed(f"{self.shown} has no console: it is off there (console=true turns it on), or no lmi-chat")
        if answer.status != OK or not isinstance(found, dict):
            raise Failed(f"{self.shown} answered {answer.status}{f': {message}' if message else ''}")
        return found


def _message(found: object) -> str:
    error = found.get("error") if isinstance(found, dict) else None
    text = error.get("message") if isinstance(error, dict) else None
    return one_line(text, WORD_BYTES) if isinstance(text, str) else ""


def state_of(now: Json) -> str:
    """The server's state in words: of one that loads the phase and its seconds."""
    running = next((phase for phase in now["phases"] if phase["status"] == "running"), None)
    if now["state"] == "loading" and running:
        return f"loading: {one_line(running['name'], WORD_BYTES)}, {running['seconds']:.0f} s"
    return one_line(now["state"], WORD_BYTES)
