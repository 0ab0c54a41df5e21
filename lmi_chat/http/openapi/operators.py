"""Describe the paths that the platform and its operators ask for: figures, batch transform's parameters, adapters."""

from lmi_chat.codec.json_text import Json
from lmi_chat.http.openapi.responses import ALWAYS, STATUSES, answered, refusals
from lmi_chat.http.openapi.shapes import TEXT, ref


def paths() -> Json:
    """All of them; adapters also below their model."""
    figures = {
        "summary": "Figures for Prometheus, ours and the engine's",
        "parameters": [],
        "responses": {
            "200": {"description": "Figures", "content": {"text/plain": {"schema": TEXT}}},
            **refusals(ALWAYS),
        },
    }
    shown: Json = {
        "/metrics": {"get": figures},
        "/server/metrics": {"get": figures},
        "/execution-parameters": {"get": _asked("What batch transform may send", "ExecutionParameters")},
    }
    for prefix, names in (("/adapters", ()), ("/models/{model}/adapters", ("model",))):
        one = (*names, "name")
        shown[prefix] = {"get": _asked("The adapters", "Adapters", names), "post": _register(names)}
        shown[prefix + "/{name}"] = {
            "get": _asked("An adapter", "", one),
            "delete": _asked("Take it off", "", one),
        }
        shown[prefix + "/{name}/update"] = {"post": _asked("Load it anew", "", one)}
    return shown


def _asked(summary: str, name: str, parameters: tuple[str, ...] = (), *statuses: int) -> Json:
    """An operation that answers with the schema `name`; "": that answers with an error alone."""
    good = {"200": answered(summary, name)} if name else {}
    return {
        "summary": summary,
        "parameters": [{"name": each, "in": "path", "required": True, "schema": TEXT} for each in parameters],
        "responses": good | refusals((*ALWAYS, 404, 503, *statuses)),
    }


def _register(parameters: tuple[str, ...]) -> Json:
    """An adapter is named in the body or in the query; this deployment loads none: 400."""
    shown = _asked(f"Load an adapter. {STATUSES[400]}", "", parameters, 413)
    queries: list[Json] = [{"name": name, "in": "query", "schema": TEXT} for name in ("name", "src", "preload", "pin")]
    shown["parameters"] += queries
    shown["requestBody"] = {"required": False, "content": {"application/json": {"schema": ref("Adapter")}}}
    return shown
