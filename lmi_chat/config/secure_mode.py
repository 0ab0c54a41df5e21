"""Check settings and files against the controls of SageMaker's secure mode, for models that nobody vouches for.

The platform sets `SAGEMAKER_SECURE_MODE`, the controls in `SAGEMAKER_SECURITY_CONTROLS`, and the folders that hold what
nobody vouches for in `SAGEMAKER_UNTRUSTED_CHANNELS`; the model's own folder counts as one of these. What a control
forbids stops the start, and so does a control that is not enforced here.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lmi_chat.config.settings import Settings
from lmi_chat.config.sources import ENTRY, PROPERTIES, BadSetting
from lmi_chat.text import one_line

SECURE_MODE, CONTROLS, CHANNELS = "SAGEMAKER_SECURE_MODE", "SAGEMAKER_SECURITY_CONTROLS", "SAGEMAKER_UNTRUSTED_CHANNELS"
SCRIPTS, REQUIREMENTS = "DISALLOW_CUSTOM_INFERENCE_SCRIPTS", "DISALLOW_REQUIREMENTS_TXT"
REMOTE_CODE, PICKLE, TEMPLATE = "DISALLOW_TRUST_REMOTE_CODE", "DISALLOW_PICKLE_FILES", "DISALLOW_CHAT_TEMPLATE"
ENFORCED = (SCRIPTS, REMOTE_CODE, PICKLE, TEMPLATE, REQUIREMENTS)
OWN_ENTRIES = ("djl_python.", "lmi_chat.")
PLUGINS = ("tool_parser_plugin", "reasoning_parser_plugin")
CODE_KEYS = (
    *("worker_cls", "worker_extension_cls", "scheduler_cls", "logits_processors", "io_processor_plugin"),
    *PLUGINS,
)
"""Settings that name Python code to run; all but the plugins are arguments of the engine."""
PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PICKLE_FORMATS = ("pt", "npcache")
SAFE_FORMAT = {"load_format": "safetensors"}
TEMPLATE_FILES = ("tokenizer_config.json", "processor_config.json", "chat_template.json")
TRUSTED_KEYS = frozenset(
    {
        *("host", "port", "api_key", "api_key_file", "store", "async_folder", "chat_template", "safe_port_range"),
        *("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers"),
        *("access_log", "log_level", "install_requirements", "cache_salt_by", "download_dir", "hf_token"),
        *("allowed_media_domains", "allowed_media_networks", "allowed_local_media_path"),
        *("adapter_folder", "adapter_code"),
        *PLUGINS,
    }
)
"""Keys that open doors or name files: not the business of a file that comes with the model."""


@dataclass(frozen=True, slots=True)
class SecureMode:
    """The controls that are asked for, and the folders that they are about."""

    controls: frozenset[str]
    channels: tuple[Path, ...]

    def check_settings(self, settings: Settings) -> None:
        """Refuse settings that a control forbids. Raises BadSetting."""
        for name, control in self._forbidden_settings(settings):
            value = settings.engine.get(name, str(settings.values().get(name, "")) if name in PLUGINS else "")
            shown = f" = {one_line(value, 80)}" if value else ""
            raise _forbidden(f"{settings.origins.get(name, name)}: {name}{shown}", control)

    def _forbidden_settings(self, settings: Settings) -> Iterator[tuple[str, str]]:
        """Return the settings that are forbidden, each with what forbids it."""
        engine, origins = settings.engine, settings.origins
        for name in origins.keys() & TRUSTED_KEYS:
            if self._is_untrusted_file(origins[name]):
                yield name, "must not be set by a file that comes with the model"
        code = engine.keys() | {name for name in PLUGINS if settings.values()[name]}
        forbidden = {
            REMOTE_CODE: [name for name, text in engine.items() if _trusts_code(name, text)],
            SCRIPTS: [name for name in CODE_KEYS if name in code and not origins[name].startswith("default")],
            REQUIREMENTS: ["install_requirements"] * settings.install_requirements,
            PICKLE: ["load_format"] * (engine.get("load_format") in PICKLE_FORMATS),
            TEMPLATE: ["chat_template"] * bool(settings.chat_template),
        }
        for control in sorted(self.controls):
            yield from ((name, control) for name in forbidden[control])

    def check_files(self, *folders: Path) -> None:
        """Refuse files that a control forbids, in these folders and in all channels. Raises BadSetting."""
        for path in _files((*self.channels, *(folder for folder in folders if folder.is_dir()))):
            if SCRIPTS in self.controls and path.name == ENTRY:
                raise _forbidden(str(path), SCRIPTS)
            if REQUIREMENTS in self.controls and path.name == "requirements.txt":
                raise _forbidden(str(path), REQUIREMENTS)
            if PICKLE in self.controls and path.name.lower().endswith(PICKLE_ENDINGS):
                raise _forbidden(str(path), f"{PICKLE}; weights must be in safetensors files")
            if TEMPLATE in self.controls and _has_template(path):
                raise _forbidden(f"the chat template in {path}", TEMPLATE)

    def check_entry_point(self, entry_point: str, origin: str) -> None:
        """Refuse an entry point that is somebody's own code. Raises BadSetting."""
        if SCRIPTS in self.controls and entry_point and not entry_point.startswith(OWN_ENTRIES):
            raise _forbidden(f"{origin}: entryPoint = {one_line(entry_point, 80)}", SCRIPTS)

    def arguments(self, *, is_folder: bool, engine: Mapping[str, str]) -> Mapping[str, str]:
        """Return arguments of the engine that keep it from what a control forbids and no file here shows."""
        if PICKLE in self.controls and not is_folder and engine.get("load_format", "auto") in {"auto", "hf"}:
            return SAFE_FORMAT
        return {}

    def is_untrusted(self, path: Path) -> bool:
        """Whether a path lies in a channel."""
        return any(path.resolve().is_relative_to(channel.resolve()) for channel in self.channels)

    def _is_untrusted_file(self, origin: str) -> bool:
        path, _, _ = origin.rpartition(":")
        return Path(path).name == PROPERTIES and self.is_untrusted(Path(path))


def of(environment: Mapping[str, str], *folders: Path) -> SecureMode | None:
    """Read the platform's variables; None where secure mode is off. `folders` are untrusted beside the channels.

    Raises BadSetting for what cannot be enforced.
    """
    switch = environment.get(SECURE_MODE, "").strip().lower()
    if switch not in {"", "true", "false"}:
        raise BadSetting(f"environment {SECURE_MODE} must be true or false, got {one_line(switch, 80)}")
    if switch != "true":
        return None
    controls = _listed(environment.get(CONTROLS, ""))
    if not controls:
        raise BadSetting(f"environment {SECURE_MODE} = true needs {CONTROLS}, and it names no control")
    for control in controls:
        if control not in ENFORCED:
            known = ", ".join(ENFORCED)
            raise BadSetting(
                f"environment {CONTROLS}: {one_line(control, 80)} is not enforced by this server, which has {known}"
            )
    channels = [Path(name) for name in _listed(environment.get(CHANNELS, ""))]
    for channel in channels:
        if not channel.is_dir():
            raise BadSetting(f"environment {CHANNELS}: there is no folder {one_line(str(channel), 200)}")
    return SecureMode(frozenset(controls), (*channels, *(folder for folder in folders if folder.is_dir())))


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _forbidden(what: str, why: str) -> BadSetting:
    reason = f"forbids it ({why})" if why.startswith("DISALLOW") else f"forbids it: it {why}"
    return BadSetting(f"{what}: the platform's secure mode {reason}")


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    seen: set[str] = set()
    for folder in folders:
        for place, _, names in os.walk(folder, onerror=_unreadable, followlinks=False):
            if place not in seen:
                seen.add(place)
                yield from (Path(place, name) for name in sorted(names))


def _unreadable(error: OSError) -> None:
    name = one_line(str(error.filename), 200)
    raise BadSetting(f"{name} cannot be read, which the platform's secure mode needs: {error.strerror}") from error


def _has_template(path: Path) -> bool:
    if path.suffix == ".jinja":
        return True
    if path.name not in TEMPLATE_FILES:
        return False
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        text = "cannot be read, which the platform's secure mode needs"
        raise BadSetting(f"{path} {text}: {one_line(str(error), 160)}") from error
    return isinstance(value, dict) and "chat_template" in value


def _trusts_code(name: str, text: str) -> bool:
    """Whether an argument allows a model's own code, at its top or inside its JSON (a draft model's)."""
    if name == "trust_remote_code":
        return text.lower() == "true"
    if "trust_remote_code" not in text:
        return False
    try:
        return _allows(json.loads(text))
    except ValueError:
        return False


def _allows(value: object) -> bool:
    if isinstance(value, dict):
        return any((name == "trust_remote_code" and one is not False) or _allows(one) for name, one in value.items())
    return isinstance(value, list) and any(map(_allows, value))
