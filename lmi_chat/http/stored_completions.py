"""Route the requests for stored chat completions: read by dialects/chat/stored.py, kept by storage/completions.py."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmi_chat.codec import json_text
from lmi_chat.dialects.chat import stored
from lmi_chat.errors import NotFound
from lmi_chat.http.access import OWNER
from lmi_chat.http.endpoint import read_body
from lmi_chat.pipeline.parsing import warning
from lmi_chat.storage.completions import Completions

PATH = "/v1/chat/completions"
BODY_BYTES = 256 * 1024  # metadata at its bounds, every character escaped, is smaller
Answer = Callable[[Request, Completions], Awaitable[Response]]


def routes(store: Completions | None) -> list[Route]:
    """List OpenAI's routes; without a store each answers that there is none."""
    one = PATH + "/{id}"
    table: list[tuple[str, str, Answer]] = [
        (PATH, "GET", _page),
        (one, "GET", _get),
        (one, "POST", _update),
        (one, "DELETE", _delete),
        (one + "/messages", "GET", _messages),
    ]
    return [Route(path, _with(store, answer), methods=[method]) for path, method, answer in table]


def _with(store: Completions | None, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if store is None:
            raise NotFound("no completions are stored here: option.store is not set")
        return await answer(request, store)

    return endpoint


def _reply(body: bytes, warnings: Sequence[str] = ()) -> Response:
    text = warning(warnings)
    return Response(body, 200, {"x-lmi-chat-warning": text} if text else None, "application/json")


def _owner(request: Request) -> str:
    owner: str = request.scope.get(OWNER, "")
    return owner


async def _page(request: Request, store: Completions) -> Response:
    """GET …?model=&metadata[k]=v&after=&limit=&order=."""
    query, warnings = stored.parse_query(request.query_params.multi_items(), has_filters=True)
    page = await store.page(replace(query, owner=_owner(request)))
    return _reply(await asyncio.to_thread(stored.render_page, page), warnings)


async def _get(request: Request, store: Completions) -> Response:
    """GET …/{id}."""
    return _reply(stored.render_completion(await store.get(request.path_params["id"], _owner(request))))


async def _update(request: Request, store: Completions) -> Response:
    """POST …/{id} with new metadata."""
    body = await read_body(request.scope, request.receive, BODY_BYTES, f"the body has more than {BODY_BYTES} bytes")
    metadata, warnings = stored.parse_update(json_text.read(body))
    kept = await store.update(request.path_params["id"], metadata, _owner(request))
    return _reply(stored.render_completion(kept), warnings)


async def _delete(request: Request, store: Completions) -> Response:
    """DELETE …/{id}."""
    await store.delete(request.path_params["id"], _owner(request))
    return _reply(stored.render_deleted(request.path_params["id"]))


async def _messages(request: Request, store: Completions) -> Response:
    """GET …/{id}/messages?after=&limit=&order=."""
    query, warnings = stored.parse_query(request.query_params.multi_items(), has_filters=False)
    kept = await store.get(request.path_params["id"], _owner(request))
    # a long chat takes a while to read
    return _reply(await asyncio.to_thread(stored.render_messages, kept, query), warnings)
