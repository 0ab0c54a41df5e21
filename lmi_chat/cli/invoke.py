"""Send one request from a file or stdin, print the answer as it comes, exit 1 on an error: `lmi-chat invoke`."""

import argparse
import json
import os
import sys
from pathlib import Path

from lmi_chat.cli.target import Failed, add_arguments, find

BROKEN, REDIRECTED, CLIENT_ERROR, SERVER_ERROR = 1, 3, 4, 5
EXIT_CODES = (
    "exit code: 0 for a complete answer, 4 for a status of 400 to 499, 5 from 500, 3 for any other, "
    "1 if there is no answer or it breaks off"
)
TAIL_BYTES = 65_536


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser("invoke", help="send one request, print the answer as it comes", epilog=EXIT_CODES)
    add_arguments(command)
    command.add_argument("file", nargs="?", default="-", help="the request's body; - or nothing: from stdin")
    command.add_argument("--content-type", default="application/json")
    command.add_argument("--accept", default="*/*", help="application/jsonlines or text/event-stream for a stream")


def run(given: argparse.Namespace) -> int:
    """Send the request and print the answer; return the exit code."""
    try:
        body = sys.stdin.buffer.read() if given.file == "-" else Path(given.file).read_bytes()
    except OSError as error:
        sys.stderr.write(f"lmi-chat: {given.file}: {error.strerror}\n")
        return 2
    tail = b""
    try:
        with find(given).post(body, given.content_type, given.accept) as answer:
            for chunk in answer.chunks:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
                tail = (tail + chunk)[-TAIL_BYTES:]
    except Failed as error:
        sys.stderr.write(f"lmi-chat: {error}\n")
        return BROKEN
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who reads us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN
    if not tail.endswith(b"\n") and sys.stdout.isatty():
        sys.stdout.write("\n")
    return _exit_code(answer.status, tail)


def _exit_code(status: int, tail: bytes) -> int:
    match status // 100:
        case 2:
            return BROKEN if _is_error(tail) else 0
        case 4:
            return CLIENT_ERROR
        case 5:
            return SERVER_ERROR
        case _:
            return REDIRECTED


def _is_error(tail: bytes) -> bool:
    """Whether the last line or event is an error: how a stream ends that cannot be completed."""
    last = tail.rstrip().rpartition(b"\n")[2].removeprefix(b"data:").strip()
    try:
        document = json.loads(last)
    except ValueError:
        return False
    return isinstance(document, dict) and "error" in document
