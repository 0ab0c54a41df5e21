"""Show a server's figures in a terminal, updated in place, or as lines through a pipe: `lmi-chat top`."""

import argparse
import json
import os
import sys
import time

from lmi_chat.cli.console_client import KEY, Json, Server, state_of
from lmi_chat.cli.target import Failed

HERE = "http://localhost:8080"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser(
        "top",
        help="show a server's figures and last requests, updated in place",
        epilog="the server needs console=true; through a pipe each second is a line of name=value",
    )
    command.add_argument("target", nargs="?", default=HERE, help=f"the server's URL ({HERE} without)")
    command.add_argument("--once", action="store_true", help="show it once and end")
    command.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between two looks (1)")
    command.add_argument("--api-key", default="", metavar="KEY", help=f"an API key; better in {KEY}, unseen by others")
    command.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="sent too")


def run(given: argparse.Namespace) -> int:
    """Show the server until Ctrl-C; return the exit code."""
    try:
        server = Server(given.target, given.api_key or os.environ.get(KEY, ""), given.header)
        interval_s = max(given.interval, 0.1)
        if sys.stdout.isatty():
            from lmi_chat.cli import top_screen

            return top_screen.run(server, interval_s, is_once=given.once)
        return _print_lines(server, interval_s, is_once=given.once)
    except Failed as error:
        sys.stderr.write(f"lmi-chat: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # who reads us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _print_lines(server: Server, interval_s: float, *, is_once: bool) -> int:
    """Print a line for each second of the figures that is new; without any, one of the state."""
    last = 0.0
    while True:
        now, rows = server.now(), server.rows()
        fresh = [row for row in rows if row["time"] > last] if last else rows[-1:]
        lines = [_line(row["time"], now, row) for row in fresh] if rows else [_line(now["time"], now, {})]
        sys.stdout.write("".join(lines))
        sys.stdout.flush()
        last = rows[-1]["time"] if rows else last
        if is_once:
            return 0
        time.sleep(interval_s)


def _line(at: float, now: Json, row: Json) -> str:
    words = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)), f"state={json.dumps(state_of(now))}"]
    return " ".join([*words, *(f"{name}={_plain(value)}" for name, value in row.items() if name != "time")]) + "\n"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
