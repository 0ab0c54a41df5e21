"""Store chat completions while they are answered, and render those that are stored.

Shapes: OpenAI API reference, "List chat completions", "Get chat messages", "Update" and "Delete chat completion".
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects.chat.answer import Deleted, PageEnds
from lmi_chat.dialects.chat.body import MetadataBody
from lmi_chat.dialects.chat.options import Account, check_metadata
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.reader import NAME_BYTES, UNKNOWN_SHOWN
from lmi_chat.dialects.task import Renderer
from lmi_chat.errors import BadField, Error, NotFound, Problem
from lmi_chat.job import Delta, Finished, Job
from lmi_chat.storage.completions_db import Page, Query, StoredCompletion
from lmi_chat.text import echo, nearest, one_line

LIMIT_DEFAULT, LIMIT_MOST, LIMIT_DIGITS = 20, 100, 9
ORDERS = ("asc", "desc")
PAGING = ("after", "limit", "order")
FILTERS = ("model", "metadata")


class Keeping:
    """A render that shows an answer by one render and, at its end, keeps the whole document that another folds.

    An answer that fails or is given up is not kept: there is no whole document of it.
    """

    def __init__(self, shown: Renderer, fold: Renderer | None, save: Callable[[bytes], None]) -> None:
        """Keep by `save`; without `fold`, what is shown is the whole document already."""
        self._shown, self._fold, self._save = shown, fold, save

    @property
    def held_bytes(self) -> int:
        """What the shown one keeps."""
        return self._shown.held_bytes

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Show it, and fold it."""
        if self._fold is not None:
            self._fold.delta(delta)
        return self._shown.delta(delta)

    def done(self, done: Finished) -> Sequence[bytes]:
        """Show the end, and keep the document."""
        payloads = self._shown.done(done)
        self._save((payloads if self._fold is None else self._fold.done(done))[0])
        return payloads

    def fail(self, error: Error) -> bytes:
        """Show the error; nothing is kept."""
        return self._shown.fail(error)


def keep(
    shown: Renderer,
    fold: Callable[[], Renderer] | None,
    messages: Sequence[Mapping[str, Any]],
    job: Job,
    deployment: Deployment,
    account: Account,
) -> Renderer:
    """`shown`, and kept if the request asks for it; `fold` makes the render of a stream's whole document."""
    save = deployment.save
    if save is None or not account.is_stored:
        return shown
    written = dump(messages)  # now, while a long body is read off the event loop

    def take(document: bytes) -> None:
        kept = StoredCompletion(
            id=f"chatcmpl-{job.id}",
            model=deployment.model,
            document=document,
            messages=written,
            metadata=account.metadata,
        )
        save(kept)

    return Keeping(shown, fold and fold(), take)


def parse_query(pairs: Iterable[tuple[str, str]], *, has_filters: bool, order: str = "asc") -> tuple[Query, list[str]]:
    """A list's query string, and what is to be said about its unknown names. Raises BadField.

    `order` is the one where none is asked for.
    """
    problems: list[Problem] = []
    known = (*PAGING, *FILTERS) if has_filters else PAGING
    given: dict[str, str] = {}
    metadata: dict[str, str] = {}
    warnings: list[str] = []
    for name, text in pairs:
        if has_filters and name.startswith("metadata[") and name.endswith("]"):
            metadata[name[len("metadata[") : -1]] = text
        elif name in known and name != "metadata":
            given[name] = text
        elif has_filters and name.startswith("metadata"):
            problems.append(Problem("metadata", f"metadata must be written metadata[key]=value, got {echo(name)}"))
        else:
            warnings.append(_ignored(name, known))
    query = Query(
        model=given.get("model"),
        metadata=check_metadata(metadata, _adding(problems)),
        after=given.get("after"),
        limit=_check_limit(given.get("limit"), problems),
        is_descending=_check_order(given.get("order", order), problems),
    )
    if problems:
        raise BadField(problems)
    return query, warnings


def _adding(problems: list[Problem]) -> Callable[[str, str], None]:
    return lambda path, fault: problems.append(Problem(path, f"{path} {fault}"))


def _ignored(name: str, known: Sequence[str]) -> str:
    near = _near(name, known)
    return f"{one_line(name, NAME_BYTES)} is ignored" + (f"; did you mean {near}?" if near else "")


def _near(name: str, known: Sequence[str]) -> str:
    return nearest(name, dict.fromkeys(known)) if len(name) <= NAME_BYTES else ""


def _check_limit(text: str | None, problems: list[Problem]) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if text.isascii() and text.isdigit() and len(text) <= LIMIT_DIGITS and 1 <= int(text) <= LIMIT_MOST:
        return int(text)
    problems.append(Problem("limit", f"limit must be at least 1 and at most {LIMIT_MOST}, got {echo(text)}"))
    return LIMIT_DEFAULT


def _check_order(text: str, problems: list[Problem]) -> bool:
    if text not in ORDERS:
        problems.append(Problem("order", f"order must be one of {', '.join(ORDERS)}, got {echo(text)}"))
    return text == "desc"


def parse_update(body: Json) -> tuple[Mapping[str, str], list[str]]:
    """The metadata that an update sets, and what is to be said about other keys. Raises BadField."""
    problems: list[Problem] = []
    known = tuple(MetadataBody.__annotations__)
    others = list(islice((name for name in body if name not in known), UNKNOWN_SHOWN))
    if "metadata" not in body:
        near = next((name for name in others if _near(name, known)), "")
        text = "metadata must be given: an object of strings, or null for none"
        problems.append(Problem("metadata", text + (f"; did you mean metadata by {near}?" if near else "")))
    metadata = check_metadata(body.get("metadata"), _adding(problems))
    if problems:
        raise BadField(problems)
    return metadata, [_ignored(name, known) for name in others]


def render_completion(kept: StoredCompletion) -> bytes:
    """The completion as it was answered, with its metadata."""
    return kept.document[:-1] + b',"metadata":' + dump(dict(kept.metadata)) + b"}"


def render_page(page: Page) -> bytes:
    """A list of completions; the documents are not read again."""
    ids = [kept.id for kept in page.found]
    return render_list([render_completion(kept) for kept in page.found], ids, has_more=page.has_more)


def render_list(items: Sequence[bytes], ids: Sequence[str], *, has_more: bool) -> bytes:
    """A page of a list, of items that are JSON already."""
    tail: PageEnds = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None, "has_more": has_more}
    return b'{"object":"list","data":[' + b",".join(items) + b"]," + dump(tail)[1:]


def render_messages(kept: StoredCompletion, query: Query) -> bytes:
    """The page of a completion's messages that `query` asks for. Raises NotFound for an unknown `after`."""
    messages = [_message(kept.id, place, message) for place, message in enumerate(orjson.loads(kept.messages))]
    return render_part(messages, query, lambda after: f"no message {echo(after)} is in {kept.id}")


def render_part(items: list[Json], query: Query, missing: Callable[[str], str]) -> bytes:
    """The page of `items` that `query` asks for. Raises NotFound for an unknown `after`, in the words of `missing`."""
    if query.is_descending:
        items.reverse()
    ids = [item["id"] for item in items]
    if query.after is not None and query.after not in ids:
        raise NotFound(missing(query.after), param="after")
    start = 0 if query.after is None else ids.index(query.after) + 1
    end = start + query.limit
    return render_list([dump(item) for item in items[start:end]], ids[start:end], has_more=end < len(ids))


def _message(completion_id: str, place: int, message: Json) -> Json:
    """A message as it came, with an id; an array of parts stands under a name of its own."""
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    shown = {"content": None if parts else content, "name": message.get("name"), "content_parts": parts}
    return {"id": f"{completion_id}-{place}"} | message | shown


def render_deleted(completion_id: str) -> bytes:
    """The answer to a deletion."""
    answer: Deleted = {"object": "chat.completion.deleted", "id": completion_id, "deleted": True}
    return dump(answer)
