"""Open the registry of adapters from settings, with those that the deployment brings."""

import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from lmi_chat.adapters.files import CONFIG, FileRules
from lmi_chat.adapters.registry import AdapterRegistry
from lmi_chat.adapters.resolver import AdapterResolver
from lmi_chat.adapters.sources import AdapterSources
from lmi_chat.config import secure_mode
from lmi_chat.config.settings import Settings
from lmi_chat.config.sources import MODEL_FOLDER, PROPERTIES, BadSetting, environment
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.engine import Engine
from lmi_chat.fetching import s3
from lmi_chat.text import echo, one_line

MOST_LORAS = 4
"""Adapters that a batch has places for, as LMI has it; vLLM's own default is one."""
FORMS = 'name=path, or JSON such as [{"name": "a1", "path": "/opt/ml/model/adapters/a1"}]'


def arguments(settings: Settings) -> Mapping[str, str]:
    """Choose the engine's arguments that LoRA needs and nobody set. Raises BadSetting for adapters without LoRA."""
    given = settings.engine
    if given.get("enable_lora", "").lower() != "true":
        if settings.lora_modules:
            raise BadSetting("lora_modules needs enable_lora = true, got no LoRA")
        return {}
    if "max_loras" in given:
        return {}
    most = given.get("max_cpu_loras", "")
    return {"max_loras": str(min(MOST_LORAS, int(most)) if most.isdecimal() and int(most) else MOST_LORAS)}


async def open_registry(
    settings: Settings, engine: Engine, model: str, formatters: Formatters
) -> AdapterRegistry | None:
    """Register the adapters of the settings and of the `model`'s folder; None where LoRA is off.

    `formatters` are told of those that have their own.

    Raises BadSetting for what names none, and as `register` does for one that cannot be loaded.
    """
    if engine.model.adapters is None:
        return None
    brought = {**_in_folder(settings, model), **_configured(settings.lora_modules)}
    resolver = _resolver(settings.adapter_folder)
    own = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="lmi-chat-adapters-"))
    registry = AdapterRegistry(
        engine,
        own,
        _sources(settings).fetch,
        resolve=resolver.find if resolver else None,
        limits=settings.adapter_limits,
        formatters=formatters,
    )
    try:
        for name, src in brought.items():
            await registry.register(name, src)
    except BaseException:
        await asyncio.to_thread(registry.delete_files)
        raise
    return registry


def _sources(settings: Settings) -> AdapterSources:
    """Fetch adapters' files as the settings, and the platform's secure mode, allow. Raises BadSetting."""
    secure = secure_mode.of(environment(), MODEL_FOLDER)
    controls = secure.controls if secure else frozenset()
    rules = FileRules(
        limits=settings.adapter_limits,
        trusted=settings.adapter_code,
        refuses_code=secure_mode.SCRIPTS in controls,
        refuses_pickle=secure_mode.PICKLE in controls,
    )
    return AdapterSources(rules)


def _resolver(folder: str) -> AdapterResolver | None:
    """Look for adapters of unknown names in the configured folder. Raises BadSetting where there is none."""
    if not folder:
        return None
    if s3.ADDRESS.fullmatch(folder) is None and not Path(folder).is_dir():
        raise BadSetting(f"adapter_folder must be a folder that exists or s3://bucket/folder/, got {echo(folder)}")
    return AdapterResolver(folder)


def _in_folder(settings: Settings, model: str) -> dict[str, str]:
    """Find the adapters in the folder `adapters` of the model's directory, by the names of their folders."""
    places = [Path(model), MODEL_FOLDER, *([Path()] if Path(PROPERTIES).is_file() else [])]
    found = (path.parent for place in reversed(places) for path in (place / settings.adapters).glob(f"*/{CONFIG}"))
    return {path.name: str(path.absolute()) for path in sorted(found)}


def _configured(text: str) -> dict[str, str]:
    """Read `lora_modules`: a name and a path each. Raises BadSetting."""
    found: dict[str, str] = {}
    for name, path in _pairs(text):
        if not name or not path or name in found:
            raise BadSetting(f"lora_modules must be {FORMS}, each name once, got {one_line(text, 200)!r}")
        found[name] = path
    return found


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Split what vLLM and LMI take: JSON objects or words, several in an array or after blanks or commas."""
    try:
        parts = json.loads(text) if text.lstrip().startswith(("[", "{")) else text.replace(",", " ").split()
    except ValueError:
        parts = [text]
    for part in parts if isinstance(parts, list) else [parts]:
        if isinstance(part, dict) and {"name", "path"} <= part.keys():
            yield str(part["name"]), str(part["path"])
        elif isinstance(part, dict):
            yield from ((str(name), path if isinstance(path, str) else "") for name, path in part.items())
        else:
            name, _, path = str(part).partition("=")
            yield name, path
