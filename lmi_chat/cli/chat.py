"""Hold a conversation at the terminal, or line by line from a pipe: `lmi-chat chat`."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmi_chat.cli.target import OK, Answer, Failed, Remote, add_arguments, find

HELP = """\
/help            these lines
/reset           forget the conversation; the system message stays
/system [TEXT]   set the system message; without TEXT none
/save FILE       write the conversation as JSON, which `lmi-chat invoke` takes
/quit            end, as Ctrl-D does; Ctrl-C ends an answer
"""
Message = dict[str, str]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser("chat", help="talk to a server or an endpoint", epilog="/help lists what it obeys")
    add_arguments(command)
    command.add_argument("--system", default="", metavar="TEXT", help="a system message")
    command.add_argument("--model", default="", help="the body's model, for servers that ask for it")
    command.add_argument("--temperature", type=float)
    command.add_argument("--max-tokens", type=int)


def run(given: argparse.Namespace) -> int:
    """Talk until the end of the input; return the exit code."""
    try:
        remote = find(given, path="/chat/completions")
    except Failed as error:
        sys.stderr.write(f"lmi-chat: {error}\n")
        return 1
    options = {"model": given.model or None, "temperature": given.temperature, "max_tokens": given.max_tokens}
    talk = Talk(remote, {name: value for name, value in options.items() if value is not None}, given.system)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 input() edits lines with it
        sys.stderr.write("/help for help, Ctrl-D to end\n")
    while (line := _read(is_terminal=is_terminal)) is not None:
        try:
            if not talk.obey(line):
                return 0
        except (Failed, OSError) as error:
            sys.stderr.write(f"lmi-chat: {error}\n")
            if not is_terminal:
                return 1
    return 0


def _read(*, is_terminal: bool) -> str | None:
    """Read the next line; None at the end."""
    while True:
        try:
            return input("> " if is_terminal else "").strip()
        except EOFError:
            if is_terminal:
                sys.stderr.write("\n")
            return None
        except KeyboardInterrupt:
            if not is_terminal:
                return None
            sys.stderr.write("\n")


class Talk:
    """One conversation."""

    def __init__(self, remote: Remote, options: dict[str, Any], system: str) -> None:
        """Ask `remote`, with `options` in every body."""
        self._remote, self._options, self._system = remote, options, system
        self._said: list[Message] = []

    def obey(self, line: str) -> bool:
        """Run a command or send a message; False ends the conversation. Raises Failed, OSError."""
        if not line.startswith("/"):
            if line:
                self._send(line)
            return True
        word, _, rest = line.partition(" ")
        match word:
            case "/quit":
                return False
            case "/reset":
                self._said.clear()
            case "/system":
                self._system = rest.strip()
            case "/save" if rest.strip():
                self._save(Path(rest.strip()).expanduser())
            case "/help":
                sys.stderr.write(HELP)
            case _:
                raise Failed(f"{line!r} is no command; /help lists them")
        return True

    @property
    def _messages(self) -> list[Message]:
        return [*([{"role": "system", "content": self._system}] if self._system else []), *self._said]

    def _save(self, path: Path) -> None:
        body = {"messages": self._messages, **self._options}
        path.write_text(json.dumps(body, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        sys.stderr.write(f"{len(self._messages)} messages are in {path}\n")

    def _send(self, text: str) -> None:
        """Send one message, show its answer as it comes and keep it; a turn without an answer is dropped."""
        self._said.append({"role": "user", "content": text})
        body = json.dumps({"messages": self._messages, "stream": True, **self._options}).encode()
        heard: list[str] = []
        try:
            with self._remote.post(body, "application/json", "application/jsonlines") as answer:
                for part in read(answer):
                    heard.append(part)
                    sys.stdout.write(part)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            sys.stderr.write(" (interrupted)")
        finally:
            if heard:
                self._said.append({"role": "assistant", "content": "".join(heard)})
                sys.stdout.write("\n")
            else:
                self._said.pop()
            sys.stdout.flush()


def read(answer: Answer) -> Iterator[str]:
    """Read the text of an answer: JSON lines, server-sent events or one document. Raises Failed for an error in it."""
    is_finished = False
    for line in _lines(answer):
        payload = line.removeprefix(b"data:").strip()
        if not payload or payload.startswith(b":") or payload == b"[DONE]":
            continue
        try:
            chunk = json.loads(payload)
        except ValueError:
            raise Failed(_refused(answer.status, payload.decode("utf-8", "replace"))) from None
        if answer.status != OK or not isinstance(chunk, dict) or "error" in chunk:
            raise Failed(_refused(answer.status, _message(chunk)))
        for choice in chunk.get("choices") or ():
            is_finished |= choice.get("finish_reason") is not None
            text = (choice.get("delta") or choice.get("message") or {}).get("content")
            if text:
                yield text
    if not is_finished:
        raise Failed("the answer broke off" if answer.status == OK else _refused(answer.status, "no reason was given"))


def _lines(answer: Answer) -> Iterator[bytes]:
    if answer.content_type == "application/json":
        yield b"".join(answer.chunks)
        return
    waiting = b""
    for chunk in answer.chunks:
        *lines, waiting = (waiting + chunk).split(b"\n")
        yield from lines
    yield waiting


def _refused(status: int, message: str) -> str:
    return message if status == OK else f"{status}: {message}"


def _message(document: Any) -> str:
    """Return the message of an error, whichever shape it has."""
    error = document.get("error", document) if isinstance(document, dict) else document
    if isinstance(error, dict):
        error = error.get("message") or error.get("Message") or error
    return str(error)[:2000]
