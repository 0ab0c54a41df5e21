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
NONE = "no completions are stored here: option.store is not set"
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
    return [Route(path, with_store(store, answer, NONE), methods=[method]) for path, method, answer in table]


def with_store(store: Completions | None, answer: Answer, none: str) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint that answers by the store; `none` is what it says without one."""

    async def endpoint(request: Request) -> Response:
        if store is None:
            raise NotFound(none)
        return await answer(request, store)

    return endpoint


def reply(body: bytes, warnings: Sequence[str] = ()) -> Response:
    """A document, with what is to be said of the request."""
    text = warning(warnings)
    return Response(body, 200, {"x-lmi-chat-warning": text} if text else None, "application/json")


def owner_of(request: Request) -> str:
    """The name of the API key that came with a request."""
    owner: str = request.scope.get(OWNER, "")
    return owner


async def _page(request: Request, store: Completions) -> Response:
    """GET …?model=&metadata[k]=v&after=&limit=&order=."""
    query, warnings = stored.parse_query(request.query_params.multi_items(), has_filters=True)
    page = await store.page(replace(query, owner=owner_of(request)))
    return reply(await asyncio.to_thread(stored.render_page, page), warnings)


async def _get(request: Request, store: Completions) -> Response:
    """GET …/{id}."""
    return reply(stored.render_completion(await store.get(request.path_params["id"], owner_of(request))))


async def _update(request: Request, store: Completions) -> Response:
    """POST …/{id} with new metadata."""
    body = await read_body(request.scope, request.receive, BODY_BYTES, f"the body has more than {BODY_BYTES} bytes")
    metadata, warnings = stored.parse_update(json_text.read(body))
    kept = await store.update(request.path_params["id"], metadata, owner_of(request))
    return reply(stored.render_completion(kept), warnings)


async def _delete(request: Request, store: Completions) -> Response:
    """DELETE …/{id}."""
    await store.delete(request.path_params["id"], owner_of(request))
    return reply(stored.render_deleted(request.path_params["id"]))


async def _messages(request: Request, store: Completions) -> Response:
    """GET …/{id}/messages?after=&limit=&order=."""
    query, warnings = stored.parse_query(request.query_params.multi_items(), has_filters=False)
    kept = await store.get(request.path_params["id"], owner_of(request))
    # a long chat takes a while to read
    return reply(await asyncio.to_thread(stored.render_messages, kept, query), warnings)
