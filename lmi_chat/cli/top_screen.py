"""Render a server's figures and last requests on a terminal's screen, with the library rich."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lmi_chat.cli.console_client import Json, Server, state_of
from lmi_chat.cli.target import Failed
from lmi_chat.text import one_line

BARS = " ▁▂▃▄▅▆▇█"
CELL_BYTES = 40
SPAN_CELLS = 24
COLOURS = {
    "received": "bright_black",
    "parsed": "cyan",
    "queued": "yellow",
    "prefill": "blue",
    "decode": "green",
    "client": "red",
}
FIGURES_ROWS = 12
"""Of the screen: what stands above the requests, and the borders."""
ERROR = 400


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _part(value: float) -> str:
    return f"{value:.0%}"


def _rate(value: float) -> str:
    return f"{value:.1f}"


FIGURES: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("running", "running", _whole),
    ("waiting", "waiting", _whole),
    ("tokens/s", "tokens_per_s", _rate),
    ("requests/s", "requests_per_s", _rate),
    ("errors/s", "errors_per_s", _rate),
    ("KV cache", "kv_cache", _part),
    ("first token, 50 %", "ttft_p50", _seconds),
    ("first token, 99 %", "ttft_p99", _seconds),
    ("gap, 99 %", "gap_p99", _seconds),
)


def run(server: Server, interval_s: float, *, is_once: bool) -> int:
    """Show `server` until Ctrl-C, or once; return the exit code. Raises Failed where it fails at first."""
    screen = Console()
    shown = _picture(server, screen)
    if is_once:
        screen.print(shown)
        return 0
    with contextlib.suppress(KeyboardInterrupt), Live(shown, console=screen, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval_s)
            try:
                shown = _picture(server, screen)
                live.update(shown, refresh=True)
            except Failed as error:  # it may come back
                live.update(Group(Text(one_line(str(error)), style="bold red"), shown), refresh=True)
    return 0


def _picture(server: Server, screen: Console) -> RenderableType:
    now, rows, requests = server.now(), server.rows(), server.requests()
    state = state_of(now)
    names = [now["model"] or "no model yet", state, f"lmi-chat {now['version']}", server.shown]
    head = Text(one_line("  ·  ".join(names)), style="bold green" if state == "ready" else "bold yellow")
    room = max(screen.height - FIGURES_ROWS - 2, 1)
    return Group(head, _figures(rows, max(screen.width - 40, 10)), _requests(requests[:room]))


def _figures(rows: Sequence[Json], cells: int) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1))
    for _ in range(3):
        table.add_column(no_wrap=True)
    for title, name, words in FIGURES:
        values = [row[name] for row in rows]
        last = next((value for value in reversed(values[-5:]) if value is not None), None)
        table.add_row(title, Text("-" if last is None else words(last), justify="right"), bars(values[-cells:]))
    return table


def bars(values: Sequence[float | None]) -> Text:
    """A row of bars up to the largest value; blank where there is none."""
    most = max((value for value in values if value is not None), default=0) or 1
    last = len(BARS) - 1
    drawn = (BARS[0] if value is None else BARS[max(1, round(value / most * last))] for value in values)
    return Text("".join(drawn), style="cyan", no_wrap=True)


def _requests(requests: Sequence[Json]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("ended", "request", "dialect", "user", "status", "tokens", "first", "whole", "where its time went"):
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    for row in requests:
        at = time.strftime("%H:%M:%S", time.localtime(row["time"] + row["total_s"]))
        first = "-" if row["ttft_s"] is None else _seconds(row["ttft_s"])
        tokens = f"{row['prompt_tokens']}+{row['completion_tokens']}"
        where = Text(one_line(row["message"], 120), style="red") if row["message"] else waterfall(row)
        status = Text(str(row["status"]), style="red" if row["status"] >= ERROR or row["error"] else "")
        words = [_cell(row[name]) for name in ("id", "dialect", "user")]
        table.add_row(at, *words, status, tokens, first, _seconds(row["total_s"]), where)
    return table


def _cell(text: str | None) -> Text:
    """Foreign text, as it may stand on a terminal."""
    return Text(one_line(text, CELL_BYTES) if text else "-")


def waterfall(row: Json) -> Text:
    """The spans of a request as coloured bars over its whole time."""
    return Text.assemble(*_blocks(row))


def _blocks(row: Json) -> Iterator[tuple[str, str]]:
    at = 0
    for span in row["spans"]:
        until = round(span["end_s"] / (row["total_s"] or 1) * SPAN_CELLS)
        yield "█" * max(until - at, 0), COLOURS.get(span["name"], "")
        at = max(at, until)
