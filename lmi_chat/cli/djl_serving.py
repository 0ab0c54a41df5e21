"""Serve a DJL Serving model directory without Java, with or without code of its own: the command `djl-serving`.

What names our own entry point, and what brings formatters only, is served as `lmi-chat serve` does. Any other
`handle(inputs)` is called as DJL's Python engine calls it.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import javaproperties
import uvloop

from lmi_chat.cli import main as cli
from lmi_chat.config import settings, sources
from lmi_chat.config.settings import Settings
from lmi_chat.config.sources import BadSetting
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.djl import custom_handler, formatters
from lmi_chat.djl import handle as own_handle
from lmi_chat.engine.vllm import arguments
from lmi_chat.errors import Draining
from lmi_chat.http import custom_handler as site
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.server import bootstrap
from lmi_chat.server import process as serve
from lmi_chat.text import one_line

PROPERTIES = "serving.properties"
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


def read_properties(folder: Path) -> dict[str, str]:
    """What DJL hands to a handler: `option.name` as `name`, the rest as it is. Raises BadSetting."""
    path = folder / PROPERTIES
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            given = javaproperties.load(file)
    except (OSError, ValueError) as error:
        raise BadSetting(f"{path} cannot be read: {one_line(str(error), 200)}") from error
    return {name.removeprefix("option."): text for name, text in given.items()}


def _run(folder: Path, pairs: dict[str, str]) -> int:
    options = {name.removeprefix(OPTION).lower(): text for name, text in os.environ.items() if name.startswith(OPTION)}
    properties = options | read_properties(folder)  # the file is the stronger one, as in DJL
    if (engine := properties.get("engine", ENGINE)) != ENGINE:
        raise BadSetting(f"{folder / PROPERTIES}: engine must be {ENGINE}, got {one_line(engine, 40)}")
    entry = (
        properties.get("entryPoint")
        or properties.get("entrypoint")
        or (formatters.ENTRY if (folder / formatters.ENTRY).is_file() else OWN_ENTRY)
    )
    if entry.startswith(LMI_ENTRIES):
        entry = formatters.ENTRY if (folder / formatters.ENTRY).is_file() else OWN_ENTRY
    module = custom_handler.load(folder, entry)
    if getattr(module, custom_handler.HANDLE, own_handle) is own_handle:
        return cli.serve_settings(_own_settings(folder, pairs), find_hooks(folder))
    configured = _foreign_settings(properties, pairs)
    logging.basicConfig(level=configured.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    given = properties | pairs | {"model_dir": str(folder)}
    handler = custom_handler.Foreign(module, given, configured.pipeline.deadline_s)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve_foreign(configured, handler))


def find_hooks(folder: Path) -> Formatters:
    """A directory's formatters, and those of its adapters. Raises BadDirectory."""
    return replace(formatters.of_folder(folder), adapters=formatters.of_adapters(folder))


def _own_settings(folder: Path, pairs: dict[str, str]) -> Settings:
    path = folder / PROPERTIES if (folder / PROPERTIES).is_file() else None
    environment = sources.environment()
    if (folder / "config.json").is_file() and not any(map(environment.get, sources.MODEL_VARIABLES)):
        pairs = {"model_id": str(folder), **pairs}
    kinds, defaults = arguments.kinds(), arguments.defaults()
    return settings.read(pairs, environment, path, kinds, defaults, gpus=arguments.gpus())


def _foreign_settings(properties: Mapping[str, str], pairs: dict[str, str]) -> Settings:
    """What is ours of a foreign directory's configuration; the rest is its handler's."""
    ours = {name: text for name, text in properties.items() if name in settings.OWN and name != "output_formatter"}
    return settings.read(ours | pairs, {}, None, {}, {})


async def _serve_foreign(configured: Settings, handler: custom_handler.Foreign) -> int:
    """Bind, load, serve, drain. Raises BadDirectory."""
    health = StartupProgress()
    place = site.Site(health=health, max_body_bytes=configured.max_request_size)
    listener = serve.bind(configured)
    server, stop = serve.server_of(configured, site.build(place)), serve.Stop()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.signal)
    serving = asyncio.create_task(server._serve(sockets=[listener]))  # noqa: SLF001 serve() would take the signals
    port = listener.getsockname()[1]
    serve.say(f"listening on http://{configured.host}:{port} (not ready yet)")
    try:
        await serve.until(stop, handler.load())
        if not stop.asked.is_set():
            place.handler, place.closed_by = handler, None
            serve.say(f"ready after {health.seconds:.1f} s")
            await stop.asked.wait()
        serve.say(f"stopping: {place.active} running, up to {configured.drain_seconds:g} s for them")
        place.closed_by = Draining("the server is shutting down")
        if place.active:
            with contextlib.suppress(TimeoutError):
                await serve.until(stop, asyncio.wait_for(place.idle.wait(), configured.drain_seconds), is_hard=True)
        serve.say("stopped")
    finally:
        server.should_exit = True
        await asyncio.wait([serving], timeout=serve.CLOSE_S)
    return serve.STOPPED


if __name__ == "__main__":
    sys.exit(main())
