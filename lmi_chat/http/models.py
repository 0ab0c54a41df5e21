"""Answer the platform's multi-model routes about the one model that this server has loaded."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmi_chat.codec import json_text
from lmi_chat.errors import BadField, Conflict, ModelsFull, Problem
from lmi_chat.http import admin
from lmi_chat.http.answers import LoadedModel, LoadedModels
from lmi_chat.http.endpoint import read_body
from lmi_chat.http.state import AppState
from lmi_chat.text import echo

BODY_BYTES = 64 * 1024


class Models:
    """The routes of the multi-model contract; each raises the refusal of a server that is not open."""

    def __init__(self, state: AppState) -> None:
        """Answer about the model of `state`."""
        self._state = state

    async def list(self, request: Request) -> Response:
        """GET /models: the pages have one model in all."""
        admin.check_open(self._state)
        _, after = admin.page(request.query_params)
        one = self._loaded()
        answer: LoadedModels = {"models": [one] if one["modelName"] > after else []}
        return _json(answer)

    async def describe(self, request: Request) -> Response:
        """GET /models/{model}. Raises ModelNotFound."""
        admin.check_open(self._state, request.path_params["model"])
        return _json(self._loaded())

    async def load(self, request: Request) -> Response:
        """POST /models: there is no room for a second one. Raises Conflict, ModelsFull, BadField."""
        admin.check_open(self._state)
        given = json_text.read(await read_body(request.scope, request.receive, BODY_BYTES))
        name = _name(given)
        if name in self._state.pipeline.deployment.names:
            raise Conflict(f"model {echo(name)} is loaded already")
        raise ModelsFull(
            f"this server has room for one model, {self._loaded()['modelName']}; {echo(name)} needs its own"
        )

    async def unload(self, request: Request) -> Response:
        """DELETE /models/{model}: the served one stays. Raises ModelNotFound, Conflict."""
        admin.check_open(self._state, request.path_params["model"])
        raise Conflict("the only model of this server cannot be unloaded; it ends with the server")

    def _loaded(self) -> LoadedModel:
        model = self._state.pipeline.deployment.model
        return {"modelName": model, "modelUrl": model}


def _name(given: object) -> str:
    """The name in a request to load a model. Raises BadField."""
    if not isinstance(given, dict):
        raise BadField([Problem("", "the body must be an object with model_name and url")])
    problems = [
        Problem(key, f"{key} must be a string of at least one character, got {echo(given.get(key))}")
        for key in ("model_name", "url")
        if not isinstance(given.get(key), str) or not given[key]
    ]
    if problems:
        raise BadField(problems)
    name: str = given["model_name"]
    return name


def _json(value: object) -> Response:
    return Response(json_text.dump(value), media_type="application/json")


def routes(state: AppState) -> list[Route]:
    """List the routes of the multi-model contract, after all others below a model: its name may have slashes.

    `/models/{model}/invoke` is an inference route.
    """
    models = Models(state)
    return [
        Route("/models", models.list, methods=["GET"]),
        Route("/models", models.load, methods=["POST"]),
        Route("/models/{model:path}", models.describe, methods=["GET"]),
        Route("/models/{model:path}", models.unload, methods=["DELETE"]),
    ]
