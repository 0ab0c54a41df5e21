"""Parse the command line and run serve, chat, invoke, top, explain-config or fetch-model."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lmi_chat import __version__
from lmi_chat.cli import chat, invoke, top
from lmi_chat.config import describe, settings, sources
from lmi_chat.fetching import FetchFailed
from lmi_chat.server import default_model
from lmi_chat.server.configuration import configure

USAGE = "any key of the configuration is an option too: --port 8081, --max-model-len 4096, --strict-requests true"
CLIENTS = {"chat": chat.run, "invoke": invoke.run, "top": top.run}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    parser = argparse.ArgumentParser(prog="lmi-chat", description="Serve a chat model.", epilog=USAGE)
    parser.add_argument("--version", action="version", version=f"lmi-chat {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, meaning in (
        ("serve", "serve a model on one port"),
        ("explain-config", "print every setting with where it came from"),
    ):
        command = commands.add_parser(name, help=meaning, epilog=USAGE, allow_abbrev=False)
        command.add_argument("--properties", default="", help="a serving.properties file")
        if name == "explain-config":
            command.add_argument("--json", action="store_true", help="as one JSON document")
    fetch = commands.add_parser("fetch-model", help="fetch the default model into the cache")
    fetch.add_argument("--verify", action="store_true", help="check every file of it against its checksum")
    chat.add(commands)
    invoke.add(commands)
    top.add(commands)
    known, rest = parser.parse_known_args(words)
    if rest and known.command in CLIENTS:
        parser.error(f"unknown: {' '.join(rest)}")
    try:
        if known.command in CLIENTS:
            return CLIENTS[known.command](known)
        if known.command == "fetch-model":
            return _fetch(is_check=known.verify)
        if known.command == "serve":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # process 1 of a container would ignore it until then
            if (place := _directory(known.properties, pairs(rest))) is not None:
                return _serve_directory(place, pairs(rest))
        configured = _configure(known.properties, pairs(rest))
        if known.command == "explain-config":
            return _explain(configured, is_json=known.json)
        return _serve(configured)
    except sources.BadSetting as error:
        sys.stderr.write(f"lmi-chat: {error}\n")
        return 2


def pairs(words: Sequence[str]) -> dict[str, str]:
    """`--key value`, `--key=value`, `--key` (true), `--key several values` → keys and texts. Raises BadSetting."""
    pairs: dict[str, str] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--"):
            raise sources.BadSetting(f"command line: {word!r} stands alone; write --key value")
        name, has_value, value = word[2:].partition("=")
        values = [value] if has_value else []
        while not has_value and waiting and not waiting[0].startswith("--"):
            values.append(waiting.pop(0))
        pairs[name.replace("-", "_")] = ",".join(values or ["true"])
    return pairs


def _find_properties(properties: str, pairs: dict[str, str]) -> Path | None:
    variables = map(sources.environment().get, sources.MODEL_VARIABLES)
    return sources.find_properties(properties, pairs.get("model_id") or next(filter(None, variables), ""))


def _configure(properties: str, pairs: dict[str, str]) -> settings.Settings:
    return configure(pairs, _find_properties(properties, pairs))


def _directory(properties: str, pairs: dict[str, str]) -> tuple[Path, Path | None] | None:
    """A model directory with code of its own, and its serving.properties: beside that file, or in the model's place.

    Code that lies only beside the weights that are named was not meant for this server by anybody: it is noted.
    """
    path = _find_properties(properties, pairs)
    asked = pairs.get("entryPoint") or sources.environment().get("OPTION_ENTRYPOINT", "")
    files = [sources.ENTRY, *([asked] if asked.endswith(".py") else [])]
    is_default = path is None or (not properties and path.parent == Path())
    if is_default and any((sources.MODEL_FOLDER / name).is_file() for name in files):
        return sources.MODEL_FOLDER, path
    if path and (sources.names_entry_point(path) or any((path.parent / name).is_file() for name in files)):
        return path.parent.resolve(), path
    model = Path(pairs.get("model_id", ""))
    if pairs.get("model_id") and (model / sources.ENTRY).is_file():
        sys.stderr.write(
            f"lmi-chat  note: {model / sources.ENTRY} is not run: there is no {sources.PROPERTIES} beside it, which"
            f" makes a folder a model directory; djl-serving {model} runs it\n"
        )
    return None


def _serve_directory(place: tuple[Path, Path | None], pairs: dict[str, str]) -> int:
    from lmi_chat.cli import directory
    from lmi_chat.server import process as serve

    try:
        return directory.run(*place, pairs, is_models=False)
    except directory.DIRECTORY_ERRORS as error:
        sys.stderr.write(f"lmi-chat: {error}\n")
        return 2 if isinstance(error, sources.BadSetting) else serve.FAILED


def _explain(configured: settings.Settings, *, is_json: bool) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(describe.as_json(configured) if is_json else describe.as_text(configured))
    return 0


def _serve(configured: settings.Settings) -> int:
    from lmi_chat.cli.directory import serve_settings
    from lmi_chat.server import bootstrap
    from lmi_chat.server import process as serve

    try:
        return serve_settings(configured)
    except bootstrap.StartFailed as error:
        sys.stderr.write(f"lmi-chat: {error}\n")
        return serve.FAILED


def _fetch(*, is_check: bool) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing half-made stays
    try:
        target = default_model.folder()
        default_model.fetch(target)
        wrong = default_model.verify(target) if is_check else []
    except FetchFailed as error:
        sys.stderr.write(f"lmi-chat: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    if wrong:
        sys.stderr.write(f"lmi-chat: these files do not match their checksums: {', '.join(wrong)}\n")
        return 1
    print(target)
    return 0
