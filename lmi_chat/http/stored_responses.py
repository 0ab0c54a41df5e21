"""Route the requests for stored responses: read by dialects/responses/stored.py, kept by storage/completions.py."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmi_chat.dialects.chat.stored import parse_query
from lmi_chat.dialects.responses import stored
from lmi_chat.errors import BadField, Problem
from lmi_chat.http.stored_completions import Answer, owner_of, reply, with_store
from lmi_chat.storage.completions import Completions
from lmi_chat.storage.completions_db import RESPONSE
from lmi_chat.text import echo

PATH = "/v1/responses/{id}"
NONE = "no responses are stored here: option.store is not set"
SHOWN = ("include", "include[]")
"""What a query may have that changes nothing: all is shown that there is."""


def routes(store: Completions | None) -> list[Route]:
    """List OpenAI's routes; without a store each answers that there is none."""
    table: list[tuple[str, str, Answer]] = [
        (PATH, "GET", _get),
        (PATH, "DELETE", _delete),
        (PATH + "/cancel", "POST", _cancel),
        (PATH + "/input_items", "GET", _items),
    ]
    return [Route(path, with_store(store, answer, NONE), methods=[method]) for path, method, answer in table]


def _id(request: Request) -> str:
    response_id: str = request.path_params["id"]
    return response_id


async def _get(request: Request, store: Completions) -> Response:
    """GET …/{id}?stream=false; it is not streamed again."""
    query = request.query_params
    problems = []
    if query.get("stream", "false").lower() not in {"false", "0"}:
        text = f"stream must be false: a stored response is given whole, got {echo(query['stream'])}"
        problems.append(Problem("stream", text))
    if "starting_after" in query:
        text = f"starting_after must be absent: a stored response is given whole, got {echo(query['starting_after'])}"
        problems.append(Problem("starting_after", text))
    if problems:
        raise BadField(problems)
    kept = await store.get(_id(request), owner_of(request), RESPONSE)
    return reply(kept.document)


async def _delete(request: Request, store: Completions) -> Response:
    """DELETE …/{id}."""
    await store.delete(_id(request), owner_of(request), RESPONSE)
    return reply(stored.render_deleted(_id(request)))


async def _cancel(request: Request, store: Completions) -> Response:
    """POST …/{id}/cancel: none is made in the background, so that what is stored is complete."""
    kept = await store.get(_id(request), owner_of(request), RESPONSE)
    text = f"response_id must be of a response in the background, and {kept.id} was not made there"
    raise BadField([Problem("response_id", text)])


async def _items(request: Request, store: Completions) -> Response:
    """GET …/{id}/input_items?after=&limit=&order=."""
    pairs = [(name, text) for name, text in request.query_params.multi_items() if name not in SHOWN]
    query, warnings = parse_query(pairs, has_filters=False, order="desc")
    kept = await store.get(_id(request), owner_of(request), RESPONSE)
    # a long conversation takes a while to read
    return reply(await asyncio.to_thread(stored.render_items, kept, query), warnings)
