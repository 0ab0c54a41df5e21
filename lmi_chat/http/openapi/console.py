"""Describe the paths of the console: its figures as JSON, and its page."""

from lmi_chat.codec.json_text import Json
from lmi_chat.console.recent import NAME_CHARS
from lmi_chat.console.recorder import API
from lmi_chat.console.series import ROWS_MOST
from lmi_chat.http.console import FILTERS, PAGE, SECONDS, SHOWN, SHOWN_MOST
from lmi_chat.http.openapi.responses import ALWAYS, answered, refusals
from lmi_chat.http.openapi.shapes import TEXT

WORDS: Json = {
    "id": "stands in the request's id",
    "user": "stands in its user",
    "adapter": "stands in its adapter",
    "status": "its status, or a hundred of them such as 4xx",
}


def paths() -> Json:
    """All of them."""
    filters = [_query(name, TEXT | {"maxLength": NAME_CHARS, "description": WORDS[name]}) for name in FILTERS]
    found = _shown("A request that has ended", "ConsoleRequest", 404)
    found["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": TEXT}]
    return {
        API + "/now": {"get": _shown("What is served, and how far the start is", "ConsoleNow")},
        API + "/series": {
            "get": _shown("Figures of the last seconds", "ConsoleSeries")
            | {"parameters": [_query("seconds", _count(SECONDS, ROWS_MOST))]}
        },
        API + "/requests": {
            "get": _shown("The requests that ended last, newest first", "ConsoleRequests")
            | {"parameters": [_query("limit", _count(SHOWN, SHOWN_MOST)), *filters]}
        },
        API + "/requests/{id}": {"get": found},
        API + "/config": {"get": _shown("All settings, secrets hidden", "ConsoleConfig")},
        PAGE: {"get": _page([])},
        PAGE + "/{file}": {"get": _page([{"name": "file", "in": "path", "required": True, "schema": TEXT}])},
    }


def _shown(summary: str, name: str, *statuses: int) -> Json:
    return {
        "summary": summary,
        "parameters": [],
        "responses": {"200": answered(summary, name)} | refusals((*ALWAYS, *statuses)),
    }


def _page(parameters: list[Json]) -> Json:
    """An operation that gives a file of the page, to anybody."""
    summary = "The page, and the files that it is made of"
    responses = refusals((*ALWAYS, *((404,) if parameters else ())))
    del responses["401"]
    ok = {"description": summary, "content": {"text/html": {}, "text/javascript": {}, "text/css": {}}}
    return {
        "summary": summary,
        "parameters": parameters,
        "responses": {"200": ok, "304": {"description": "It is as before"}} | responses,
        "security": [],
    }


def _query(name: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "schema": schema}


def _count(default: int, most: int) -> Json:
    return {"type": "integer", "minimum": 1, "maximum": most, "default": default}
