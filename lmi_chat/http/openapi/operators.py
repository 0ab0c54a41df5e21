"""Describe the paths that the platform and its operators ask for: figures, batch transform's parameters, adapters."""

from lmi_chat.adapters import changes
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
        listed = _asked("The registered adapters", "Adapters", names)
        listed["parameters"] += [_query(name) for name in ("limit", "next_page_token")]
        shown[prefix] = {"get": listed, "post": _change("Register an adapter", "Adapter", names)}
        shown[prefix + "/{name}"] = {
            "get": _asked("An adapter, in an array", "AdapterList", one),
            "delete": _asked("Unregister it", "AdapterStatus", one),
        }
        shown[prefix + "/{name}/update"] = {"post": _change("Update it", "AdapterUpdate", one)}
    load = _asked("Load a model: there is room for one", "LoadedModel", (), 400, 409, 413, 507)
    del load["responses"]["200"]
    load["requestBody"] = {"required": True, "content": {"application/json": {"schema": ref("ModelBody")}}}
    unload = _asked("Unload a model: the only one stays", "LoadedModel", ("model",), 409)
    del unload["responses"]["200"]
    listed = _asked("The loaded model", "LoadedModels")
    listed["parameters"] += [_query(name) for name in ("limit", "next_page_token")]
    shown["/models"] = {"get": listed, "post": load}
    shown["/models/{model}"] = {"get": _asked("The loaded model", "LoadedModel", ("model",)), "delete": unload}
    return shown


def _asked(summary: str, name: str, parameters: tuple[str, ...] = (), *statuses: int) -> Json:
    """An operation that answers with the schema `name`."""
    return {
        "summary": summary,
        "parameters": [{"name": each, "in": "path", "required": True, "schema": TEXT} for each in parameters],
        "responses": {"200": answered(summary, name)} | refusals((*ALWAYS, 404, 503, *statuses)),
    }


QUERIES: Json = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": 100},
    "preload": {"enum": ["true", "false"]},
    "pin": {"enum": ["true", "false"]},
    "load_inplace": {"enum": ["true", "false"]},
}


def _query(name: str) -> Json:
    return {"name": name, "in": "query", "schema": QUERIES.get(name, TEXT)}


def _change(summary: str, body: str, parameters: tuple[str, ...]) -> Json:
    """An operation whose keys stand in the body or in the query."""
    shown = _asked(f"{summary}. {STATUSES[400]}", "AdapterStatus", parameters, 413, 424, 507)
    named = ("src", "preload", "pin") if "name" in parameters else ("name", "src", *changes.FLAGS)
    shown["parameters"] += [_query(name) for name in named]
    shown["requestBody"] = {"required": False, "content": {"application/json": {"schema": ref(body)}}}
    return shown
