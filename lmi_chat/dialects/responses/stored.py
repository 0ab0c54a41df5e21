"""Keep responses and go on with them, and render those that are kept.

Shapes: OpenAI API reference, "Responses": get, delete, cancel and list input items. Each is kept with the whole
conversation before it, so that one that is deleted or too old takes none of the later ones with it.
"""

from collections.abc import Sequence
from functools import partial

import orjson

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects.chat.stored import render_part
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.responses.answer import DeletedResponse
from lmi_chat.dialects.responses.response import Save
from lmi_chat.errors import NoPrevious, NotFound
from lmi_chat.job import Job
from lmi_chat.storage.completions_db import RESPONSE, Query, StoredCompletion
from lmi_chat.text import echo

PREVIOUS = "previous_response_id"
MOST_BYTES, MOST_VALUES = 32 * 2**20, 2**18
"""Of a conversation that is kept: with images as data there are many of the first, with text few of either."""


def load(response_id: str, deployment: Deployment) -> list[Json]:
    """The conversation up to a stored response, that included. Blocks: not for the event loop. Raises NoPrevious."""
    if deployment.load is None:
        text = f"{PREVIOUS} cannot be served: no responses are kept here (option.store names no file)"
        raise NoPrevious(text, param=PREVIOUS)
    try:
        kept = deployment.load(response_id, deployment.owner)
    except NotFound:
        raise NoPrevious(f"{PREVIOUS}: no response {echo(response_id)} is kept here", param=PREVIOUS) from None
    items: list[Json] = orjson.loads(kept.messages)
    return items + list(orjson.loads(kept.document)["output"])


def written(items: Sequence[Json], warnings: list[str]) -> bytes | None:
    """A conversation as it is kept; None for one that is too large, of which `warnings` are told.

    What goes on with it is read in one go, which holds up others for as long as it has bytes and values.
    """
    document = dump(items)
    values = document.count(b",") + document.count(b"{")  # about, and not fewer: texts have commas too
    for most, count, what in ((MOST_BYTES, len(document), "bytes"), (MOST_VALUES, values, "values")):
        if count > most:
            warnings.append(f"store is ignored: the conversation has {count} {what}, and at most {most} are kept")
            return None
    return document


def saver(items: bytes, job: Job, deployment: Deployment) -> Save:
    """What keeps the response with `items`, all that stood before it."""
    return partial(_save, deployment, f"resp_{job.id}", items)


def _save(deployment: Deployment, response_id: str, items: bytes, document: bytes) -> None:
    if deployment.save is not None:
        kept = StoredCompletion(
            id=response_id, model=deployment.model, document=document, messages=items, kind=RESPONSE
        )
        deployment.save(kept)


def render_items(kept: StoredCompletion, query: Query) -> bytes:
    """The page of what stood before a response. Raises NotFound for an unknown `after`."""
    items: list[Json] = orjson.loads(kept.messages)
    return render_part(items, query, lambda after: f"no item {echo(after)} stood before {kept.id}")


def render_deleted(response_id: str) -> bytes:
    """The answer to a deletion."""
    answer: DeletedResponse = {"id": response_id, "object": "response", "deleted": True}
    return dump(answer)
