"""Declare the answers of the console's routes."""

from typing import Literal

from typing_extensions import TypedDict

State = Literal["loading", "ready", "draining", "failed"]
SpanName = Literal["received", "parsed", "queued", "prefill", "decode", "client"]
COLUMNS = (
    *("time", "running", "waiting", "tokens_per_s", "kv_cache", "ttft_p50", "ttft_p99", "gap_p50", "gap_p99"),
    *("requests_per_s", "errors_per_s", "loop_hold"),
)
"""What each row of a series has: Unix time, counts, rates of that second, the part of the cache in use, seconds."""
Row = tuple[float | None, ...]


class Phase(TypedDict):
    """A phase of the start; `seconds` so far, null where it has not begun."""

    name: str
    seconds: float | None
    status: Literal["done", "running", "waiting"]


class Takes(TypedDict):
    """What the model takes beside text."""

    images: bool
    audio: bool
    tools: bool
    reasoning: bool


class Now(TypedDict):
    """What is served, and how far the start is."""

    time: float
    model: str | None
    adapters: list[str]
    version: str
    vllm: str | None
    state: State
    message: str | None
    phases: list[Phase]
    takes: Takes
    task: str
    context_tokens: int | None
    max_running: int | None


class SeriesAnswer(TypedDict):
    """Figures of each of the last seconds; null where there is none. `errors`: by code, of that time."""

    step_s: float
    end: float
    columns: list[str]
    rows: list[list[float | None]]
    errors: dict[str, int]


class SpanOfTime(TypedDict):
    """A part of a request's time, in seconds after its arrival."""

    name: SpanName
    start_s: float
    end_s: float


class RequestRow(TypedDict):
    """A request that has ended, without what was said in it.

    `time`: of its arrival, in Unix seconds. `gap_p50_s`, `gap_max_s`: seconds between two of its tokens, half of the
    time at most and at worst, told by looking once a second. `message`: the error's sentence.
    """

    id: str
    inference_id: str | None
    time: float
    dialect: str | None
    adapter: str | None
    user: str | None
    key: str | None
    stream: bool
    status: int
    error: str | None
    finish_reason: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ttft_s: float | None
    total_s: float
    spans: list[SpanOfTime]
    gap_p50_s: float | None
    gap_max_s: float | None
    message: str | None


class RequestRows(TypedDict):
    """The newest of those that are asked for; `kept` are held of at most `most`."""

    requests: list[RequestRow]
    kept: int
    most: int


class ConfigRow(TypedDict):
    """A setting, where its value comes from, and why it has no effect, if it has none."""

    name: str
    value: str
    origin: str
    effect: str | None


class ConfigRows(TypedDict):
    """All settings, secrets hidden."""

    rows: list[ConfigRow]


ANSWERS = {
    "ConsoleNow": Now,
    "ConsoleSeries": SeriesAnswer,
    "ConsoleRequest": RequestRow,
    "ConsoleRequests": RequestRows,
    "ConsoleConfig": ConfigRows,
}
"""By the names of their components in the OpenAPI document."""
