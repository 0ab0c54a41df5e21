"""Serve a DJL Serving model directory without Java, with or without code of its own: the command `djl-serving`.

What names our own entry point, and what brings formatters only, is served as `lmi-chat serve` does. Any other
`handle(inputs)` is called as DJL's Python engine calls it.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import uvloop

from lmi_chat.cli import main as cli
from lmi_chat.config import settings, sources
from lmi_chat.config.settings import Settings
from lmi_chat.config.sources import BadSetting
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.djl import custom_handler, formatters
from lmi_chat.djl import handle as own_handle
from lmi_chat.http import custom_handler as site
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.pipeline.bodies import BodyBudget
from lmi_chat.server import bootstrap
from lmi_chat.server import process as serve
from lmi_chat.server.configuration import configure
from lmi_chat.text import one_line

OWN_ENTRY = "lmi_chat.djl"
# LMI's own handlers, in whose place ours stands.
LMI_ENTRIES = ("djl_python.lmi_vllm", "djl_python.huggingface", "djl_python.lmi_trtllm")
ENGINE = "Python"
OPTION = "OPTION_"


def main(words: Sequence[str] | None = None) -> int:
    """Serve one model directory; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="djl-serving",
        description="Serve a DJL Serving model directory without Java.",
        epilog="any key of lmi-chat's configuration is an option too: --port 8081",
        allow_abbrev=False,
    )
    parser.add_argument("directory", nargs="?", help="a folder with serving.properties, model.py or a model")
    parser.add_argument("-m", "--models", help="the same, as DJL's own command takes it")
    known, rest = parser.parse_known_args(words)
    try:
        folder = _folder(known.directory or known.models)
        return _run(folder, cli.pairs(rest))
    except (BadSetting, custom_handler.BadDirectory, bootstrap.StartFailed) as error:
        sys.stderr.write(f"djl-serving: {error}\n")
        return 2 if isinstance(error, BadSetting) else serve.FAILED


def _folder(named: str | None) -> Path:
    """DJL's command writes `name::Python=file:///folder`; the folder is what counts here. Raises BadSetting."""
    if not named:
        raise BadSetting("which model directory? djl-serving DIRECTORY")
    folder = Path(named.rpartition("=")[2].removeprefix("file://"))
    if not folder.is_dir():
        raise BadSetting(f"there is no model directory {one_line(str(folder), 200)}")
    return folder.resolve()


def _run(folder: Path, pairs: dict[str, str]) -> int:
    options = {name.removeprefix(OPTION).lower(): text for name, text in os.environ.items() if name.startswith(OPTION)}
    path = folder / sources.PROPERTIES if (folder / sources.PROPERTIES).is_file() else None
    in_file = sources.from_properties(path)[0] if path else []
    properties = options | {each.name: each.text for each in in_file}  # the file is the stronger one, as in DJL
    if (engine := properties.get("engine", ENGINE)) != ENGINE:
        raise BadSetting(f"{folder / sources.PROPERTIES}: engine must be {ENGINE}, got {one_line(engine, 40)}")
    entry = (
        properties.get("entryPoint")
        or properties.get("entrypoint")
        or (formatters.ENTRY if (folder / formatters.ENTRY).is_file() else OWN_ENTRY)
    )
    if entry.startswith(LMI_ENTRIES):
        entry = formatters.ENTRY if (folder / formatters.ENTRY).is_file() else OWN_ENTRY
    module = custom_handler.load(folder, entry)
    if getattr(module, custom_handler.HANDLE, own_handle) is own_handle:
        return cli.serve_settings(configure(pairs, path, folder=folder), find_hooks(folder))
    configured = _foreign_settings(properties, pairs)
    logging.basicConfig(level=configured.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    given = properties | pairs | {"model_dir": str(folder)}
    handler = custom_handler.Foreign(module, given, configured.pipeline.deadline_s)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve_foreign(configured, handler))


def find_hooks(folder: Path) -> Formatters:
    """A directory's formatters, and those of its adapters. Raises BadDirectory."""
    return replace(formatters.of_folder(folder), adapters=formatters.of_adapters(folder))


def _foreign_settings(properties: Mapping[str, str], pairs: dict[str, str]) -> Settings:
    """What is ours of a foreign directory's configuration; the rest is its handler's."""
    ours = {name: text for name, text in properties.items() if name in settings.OWN and name != "output_formatter"}
    return settings.read(ours | pairs, {}, None, {}, {})


async def _serve_foreign(configured: Settings, handler: custom_handler.Foreign) -> int:
    """Bind, load, serve, drain. Raises BadDirectory."""
    health = StartupProgress()
    most = configured.max_request_size
    bodies = BodyBudget(max(most, configured.server.body_bytes))
    place = site.Site(health=health, max_body_bytes=most, bodies=bodies)
    async with serve.serving(configured, serve.bind(configured), site.build(place)) as stop:
        await serve.until(stop, handler.load())
        if not stop.asked.is_set():
            place.handler, place.refusal = handler, None
            serve.say(f"ready after {health.seconds:.1f} s")
            await stop.asked.wait()
        await serve.drain(place, stop, configured.drain_seconds)
        serve.say("stopped")
    return serve.STOPPED


if __name__ == "__main__":
    sys.exit(main())
