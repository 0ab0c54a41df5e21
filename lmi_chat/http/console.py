"""Serve the console: its page, and the figures behind it as JSON."""

import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmi_chat import __version__
from lmi_chat.codec import json_text
from lmi_chat.console.answers import ConfigRows, Now, Phase, State, Takes
from lmi_chat.console.files import INDEX, PageFile, read_page
from lmi_chat.console.recent import NAME_CHARS, Wanted
from lmi_chat.console.recorder import API, Console
from lmi_chat.console.series import ROWS_MOST
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.errors import BadField, NotFound, Problem
from lmi_chat.http.state import AppState
from lmi_chat.observability import startup
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.text import echo

PAGE = "/console"
SHOWN, SHOWN_MOST = 50, 4000
SECONDS, ADAPTERS_MOST = 300, 1000
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
PAGE_HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", **SAFE}
API_HEADERS = {"Cache-Control": "no-store", **SAFE}
FILTERS = ("id", "user", "adapter", "status")
STATES: Mapping[str, State] = {"loading": "loading", "draining": "draining"}
PHASES = (startup.READING, startup.IMPORTING, startup.STARTING, startup.FIRST_TOKEN)
"""Of every start, as far as is known before the model is loaded: one that embeds has no first token."""
Answer = Callable[[AppState, Console, Request], bytes]


def pages(state: AppState) -> list[Route]:
    """List the routes of the page, which anybody may read; none where the console is off."""
    if state.console is None:
        return []
    files = read_page()

    async def index(request: Request) -> Response:
        return _file(request, files[INDEX])

    async def file(request: Request) -> Response:
        found = files.get(request.path_params["file"])
        if found is None:
            raise NotFound(f"there is no path {echo(request.url.path)} here")
        return _file(request, found)

    async def root(request: Request) -> Response:
        """Send a browser to the page; for others there is nothing here."""
        if "text/html" not in request.headers.get("accept", ""):
            raise HTTPException(405, headers={"Allow": "POST"}) if state.is_tgi else HTTPException(404)
        return Response(status_code=307, headers={"Location": PAGE, "Vary": "Accept"})

    table = [("/", root), (PAGE, index), (PAGE + "/{file}", file)]
    return [Route(path, answer, methods=["GET"]) for path, answer in table]


def _file(request: Request, file: PageFile) -> Response:
    headers = PAGE_HEADERS | {"ETag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.data, headers=headers, media_type=file.content_type)


def routes(state: AppState) -> list[Route]:
    """List the routes of the figures; none where the console is off."""
    console = state.console
    if console is None:
        return []
    table: list[tuple[str, Answer]] = [
        ("/now", _now),
        ("/series", _series),
        ("/requests", _requests),
        ("/requests/{id:path}", _request),
        ("/config", _config),
    ]
    return [Route(API + path, _with(state, console, answer), methods=["GET"]) for path, answer in table]


def _with(state: AppState, console: Console, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return Response(answer(state, console, request), headers=API_HEADERS, media_type="application/json")

    return endpoint


def _now(state: AppState, _console: Console, _request: Request) -> bytes:
    """What is served, and how far the start is; it never fails."""
    pipeline = state.pipeline
    refusal, is_open = pipeline.refusal, pipeline.is_open
    deployment = pipeline.deployment if is_open else None
    has_adapters = deployment is not None and deployment.knows_adapter is not None
    answer: Now = {
        "time": round(time.time(), 3),
        "model": deployment.model if deployment else None,
        "adapters": [entry.name for entry in pipeline.adapters.listed(ADAPTERS_MOST)[0]] if has_adapters else [],
        "version": __version__,
        "vllm": (deployment.engine_version or None) if deployment else None,
        "state": "ready" if refusal is None else STATES.get(refusal.code, "failed"),
        "message": refusal.message if refusal else None,
        "phases": _phases(state.health, is_open=is_open),
        "takes": _takes(deployment),
        "task": _task(deployment),
        "context_tokens": deployment.context_tokens if deployment else None,
        "max_running": pipeline.max_running if is_open else None,
    }
    return json_text.dump(answer)


def _phases(health: StartupProgress, *, is_open: bool) -> list[Phase]:
    """The phases of the start, in their order; those that wait are of every start."""
    shown: list[Phase] = [
        {"name": name, "seconds": round(seconds, 3), "status": "done"} for name, seconds in health.done.items()
    ]
    if is_open or health.phase == startup.READY:
        return shown
    shown.append({"name": health.phase, "seconds": round(health.phase_s, 3), "status": "running"})
    later: list[Phase] = [
        {"name": name, "seconds": None, "status": "waiting"}
        for name in PHASES
        if startup.ORDER[name] > startup.ORDER[health.phase]
    ]
    return shown + later


def _takes(deployment: Deployment | None) -> Takes:
    media = deployment.media if deployment else None
    hears = deployment is not None and deployment.speech is not None
    return {
        "images": media is not None and media.most("image") > 0,
        "audio": hears or (media is not None and media.most("audio") > 0),
        "tools": deployment is not None and bool(deployment.tool_parser),
        "reasoning": deployment is not None and bool(deployment.reasoning_parser),
    }


def _task(deployment: Deployment | None) -> str:
    """What the engine calls the model's task: of one that pools its pooling's, else generate or transcribe."""
    if deployment is not None and deployment.pooler is not None:
        return deployment.pooler.task
    is_hearing = deployment is not None and deployment.speech is not None and deployment.speech.is_only
    return "transcribe" if is_hearing else "generate"


def _series(_state: AppState, console: Console, request: Request) -> bytes:
    seconds = _count(request, "seconds", SECONDS, ROWS_MOST)
    return json_text.dump(console.series.last(seconds, round(time.time(), 3)))


def _requests(_state: AppState, console: Console, request: Request) -> bytes:
    """The newest requests of which the query's filters are true. Raises BadField."""
    limit = _count(request, "limit", SHOWN, SHOWN_MOST)
    asked = {name: request.query_params.get(name, "") for name in FILTERS}
    problems = [
        Problem(name, f"{name} must have at most {NAME_CHARS} characters, got {len(text)}")
        for name, text in asked.items()
        if len(text) > NAME_CHARS
    ]
    if problems:
        raise BadField(problems)
    rows = b",".join(console.recent.newest(Wanted(**asked), limit))
    return b'{"requests":[%b],"kept":%d,"most":%d}' % (rows, len(console.recent), console.recent.most)


def _request(_state: AppState, console: Console, request: Request) -> bytes:
    """One request. Raises NotFound."""
    found = console.recent.find(request.path_params["id"])
    if found is None:
        shown = echo(request.path_params["id"])
        raise NotFound(f"request {shown} is none of the last {console.recent.most} (option.console_requests)")
    return found


def _config(_state: AppState, console: Console, _request: Request) -> bytes:
    answer: ConfigRows = {"rows": [*console.settings]}
    return json_text.dump(answer)


def _count(request: Request, name: str, default: int, most: int) -> int:
    """A whole number of the query, from 1 to `most`. Raises BadField."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < len(str(most)) + 1 and 1 <= int(text) <= most):
        raise BadField([Problem(name, f"{name} must be a whole number from 1 to {most}, got {echo(text)}")])
    return int(text)
