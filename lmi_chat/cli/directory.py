"""Serve a model directory that has code of its own: a handler, or formatters around ours.

What names our own entry point, and what brings formatters only, is served as a model without code is. Any other handler
is called as DJL's Python engine calls it: in the directory, with DJL's properties.
"""

import asyncio
import contextlib
import faulthandler
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from lmi_chat.config import secure_mode, settings, sources
from lmi_chat.config.settings import Settings
from lmi_chat.config.sources import BadSetting, RawSetting
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.djl import custom_handler, formatters
from lmi_chat.djl import handle as own_handle
from lmi_chat.engine.vllm import arguments
from lmi_chat.http import custom_handler as site
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.pipeline.bodies import BodyBudget
from lmi_chat.server import bootstrap, terminal
from lmi_chat.server import process as serve
from lmi_chat.server.configuration import configure

DIRECTORY_ERRORS = (BadSetting, custom_handler.BadDirectory, bootstrap.StartFailed)
OWN_ENTRY = "lmi_chat.djl"
# LMI's own handlers, in whose place ours stands.
LMI_ENTRIES = tuple(
    f"djl_python.{name}"
    for name in (
        "lmi_vllm",
        "lmi_trtllm",
        "huggingface",
        "tensorrt_llm",
        "deepspeed",
        "fastertransformer",
        "transformers",
    )
)
# What runs Python in DJL; the last three start a process for each GPU there.
ENGINES = frozenset({"Python", "MPI", "DeepSpeed", "FasterTransformer"})
OPTION = "OPTION_"
MOST = "max"
PATH_CHARS = 1024
NO_ROLLING_BATCH = frozenset({"", "disable", "none", "false"})
TLS_FILES = ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs")
PATHS = ("model_id", "store", "async_folder", "chat_template", "api_key_file", *TLS_FILES)
# What of a directory's configuration is this server's; the rest is its handler's, whatever it is called.
SERVER_KEYS = frozenset(
    {
        *settings.of_part("connection"),
        *settings.of_part("server"),
        *settings.of_part("rates"),
        *(
            "host",
            "port",
            "api_key",
            "api_key_file",
            *TLS_FILES,
            "ssl_keyfile_password",
            "ssl_cert_reqs",
            "ssl_ciphers",
        ),
        *("job_queue_size", "predict_timeout", "drain_seconds", "max_request_size", "install_requirements"),
        *("log_level", "access_log", "cloudwatch_emf"),
    }
)


def run(folder: Path, path: Path | None, pairs: dict[str, str], *, is_models: bool = True) -> int:
    """Serve a directory, configured by the file `path`, until a signal; gives the exit code.

    `is_models`: a model in it is the one that is served where none is named. Raises DIRECTORY_ERRORS.
    """
    given = _given(path, pairs)
    entry = _entry_point(folder, given)
    _check_secure(folder, given)
    configured = _anchored(settings.read_only(SERVER_KEYS, pairs, sources.environment(), path))
    logging.basicConfig(level=configured.log_level.upper(), format=terminal.LOG_FORMAT)
    _install_requirements(folder, configured)
    with contextlib.chdir(folder):
        module = custom_handler.load(folder, entry)
    named = given["handler"].text if "handler" in given else custom_handler.HANDLE
    if getattr(module, named, own_handle) is own_handle:
        ours = _anchored(configure(pairs, path, folder=folder if is_models else None))
        hooks = find_formatters(folder)
        if hooks != Formatters(load=hooks.load):
            os.chdir(folder)
        return serve_settings(ours, hooks)
    always = _check_parallel(given) | ({"device_id": "0"} if arguments.has_gpu() else {})
    _check_batches(given)
    os.chdir(folder)
    properties = {name: each.text for name, each in given.items()} | {"model_dir": str(folder)}
    limits = configured.pipeline
    handler = custom_handler.Foreign(module, properties, limits.deadline_s, always=always, queue=limits.queue)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return serve.leave(runner.run(_serve_foreign(configured, handler)))


def _given(path: Path | None, pairs: Mapping[str, str]) -> dict[str, RawSetting]:
    """All that is configured, by the names that a handler's properties have; the file is stronger than OPTION_X."""
    variables = [given for given in sources.from_environment(sources.environment()) if OPTION in given.origin]
    in_file = sources.from_properties(path)[0] if path else []
    merged = {given.name.lower(): given for given in variables} | {given.name: given for given in in_file}
    return merged | {name: RawSetting(name, text, "command line") for name, text in pairs.items()}


def _check_secure(folder: Path, given: Mapping[str, RawSetting]) -> None:
    """Enforce the platform's secure mode before anything of the folder is imported. Raises BadSetting."""
    secure = secure_mode.of(sources.environment(), sources.MODEL_FOLDER)
    if secure is None:
        return
    named = given.get("entryPoint") or given.get("entrypoint")
    variable = RawSetting("", sources.environment().get("DJL_ENTRY_POINT", ""), "environment DJL_ENTRY_POINT")
    for one in (named, variable):
        if one:
            secure.check_entry_point(one.text, one.origin)
    # the container's own folder has the handler of this server
    is_own = folder.resolve() == Path.cwd() and not secure.is_untrusted(folder)
    secure.check_files(*(() if is_own else (folder,)))


def _entry_point(folder: Path, given: Mapping[str, RawSetting]) -> str:
    """What is to be loaded. Raises BadSetting for an engine that runs no Python."""
    engine = given.get("engine")
    if engine and engine.text not in ENGINES:
        raise BadSetting(f"{engine.origin}: engine must be one of {', '.join(sorted(ENGINES))}, got {engine.shown!r}")
    own = formatters.ENTRY if (folder / formatters.ENTRY).is_file() else OWN_ENTRY
    named = given.get("entryPoint") or given.get("entrypoint")
    entry = (named.text if named else "") or sources.environment().get("DJL_ENTRY_POINT", "") or own
    return own if entry.startswith(LMI_ENTRIES) else entry


def _install_requirements(folder: Path, configured: Settings) -> None:
    """Do as configured about a requirements.txt, or say that nothing is done. Raises BadDirectory."""
    path = folder / custom_handler.REQUIREMENTS
    if not path.is_file():
        return
    if configured.install_requirements:
        terminal.print_status(f"installing {path} …")
        custom_handler.install(folder)
    else:
        terminal.print_status(
            f"note: {path} is not installed; install_requirements=true has pip install it at the start"
        )


def _check_parallel(given: Mapping[str, RawSetting]) -> dict[str, Any]:
    """What DJL adds to the properties of every Input. Raises BadSetting."""
    degrees: dict[str, Any] = dict(custom_handler.DEFAULTS)
    for name in ("tensor_parallel_degree", "pipeline_parallel_degree"):
        text = sources.environment().get(name.upper(), "")
        one = given.get(name) or RawSetting(name, text, f"environment {name.upper()}")
        if one.text == MOST:
            degrees[name] = arguments.gpus()
        elif one.text:
            if not one.text.isdecimal():
                raise BadSetting(f"{one.origin}: {name} must be a whole number or {MOST}, got {one.shown!r}")
            degrees[name] = int(one.text)
    engine = given.get("engine")
    if engine and engine.text != "Python" and degrees.get("tensor_parallel_degree", 1) > 1:
        count = degrees["tensor_parallel_degree"]
        terminal.print_status(
            f"note: {engine.origin}: engine = {engine.text} starts {count} processes in DJL, and one here"
        )
    return degrees


def _check_batches(given: Mapping[str, RawSetting]) -> None:
    """Raise BadSetting where the handler is to batch by itself."""
    one = given.get("rolling_batch")
    if one and one.text.lower() not in NO_ROLLING_BATCH:
        says = f"{one.origin}: rolling_batch must be disable for a handler of one's own, got {one.shown!r}"
        raise BadSetting(f"{says}; {custom_handler.ROLLING}")


def _anchored(configured: Settings) -> Settings:
    """Settings whose paths mean the same in any current folder."""
    named = {name: Path(text) for name in PATHS if (text := getattr(configured, name)) and len(text) < PATH_CHARS}
    return configured.model_copy(update={name: str(path.absolute()) for name, path in named.items() if path.exists()})


def find_formatters(folder: Path) -> Formatters:
    """A directory's formatters, with the way to read those of adapters. Raises BadDirectory."""
    return replace(formatters.of_folder(folder), load=formatters.of_adapter)


async def _serve_foreign(configured: Settings, handler: custom_handler.Foreign) -> int:
    """Bind, load, serve, drain. Raises BadDirectory."""
    health = StartupProgress()
    most = configured.max_request_size
    bodies = BodyBudget(max(most, configured.server.body_bytes))
    place = site.Site(health=health, max_body_bytes=most, bodies=bodies, api_keys=bootstrap.api_keys(configured))
    place.request_log = bootstrap.open_request_log(configured)
    async with serve.serving(configured, serve.bind(configured), site.build(place), place.request_log) as stop:
        await serve.until(stop, handler.load())
        if not stop.asked.is_set():
            place.handler, place.refusal = handler, None
            terminal.print_status(f"ready after {health.seconds:.1f} s")
            await stop.asked.wait()
        await serve.drain(place, stop, configured.drain_seconds)
        terminal.print_status("stopped")
    return serve.STOPPED


def serve_settings(configured: settings.Settings, hooks: Formatters | None = None) -> int:
    """Serve until a signal, then end the process; `hooks` are the deployment's own formatters, None where it has none.

    Gives the exit code of a start that failed. Raises BadSetting.
    """
    with terminal.held_back(configured.log_level):
        # a fault that kills the process takes what is held back along: this at least tells where
        faulthandler.enable(terminal.descriptor(terminal.ERR))
        if configured.log_level not in {"debug", "info"}:
            logging.getLogger("vllm").setLevel(logging.ERROR)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                code = runner.run(serve.run(configured, hooks or Formatters(load=formatters.of_adapter)))
            except bootstrap.StartFailed as error:
                if held := terminal.held():
                    held.show()
                terminal.write(f"lmi-chat: {error}\n")
                code = serve.FAILED
            return serve.leave(code)
