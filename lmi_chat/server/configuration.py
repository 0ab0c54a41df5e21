"""Read a deployment's settings with the engine's own names, their types and its defaults on this machine."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lmi_chat.config import settings
from lmi_chat.config.aliases import ELSEWHERE, NOT_YET, RENAMED, TOLD
from lmi_chat.config.settings import Settings
from lmi_chat.config.sources import MODEL_VARIABLES, OWN_PREFIXES, environment, is_model
from lmi_chat.engine.vllm import arguments


def configure(given: Mapping[str, str], properties: Path | None, *, folder: Path | None = None) -> Settings:
    """`given` on the command line, the environment and a file of properties. Raises BadSetting.

    A model directory `folder` with a model in it serves that one, unless another is named by `given` or a variable.
    """
    if folder and not any(map(environment().get, MODEL_VARIABLES)):
        given = {**_model_of(folder), **given}
    return _read(given, environment(), properties, arguments.kinds())


def configure_merged(given: Mapping[str, Any], source: str) -> Settings:
    """What `source` has merged already, `OPTION_X` and the file included; other servers' names in the environment.

    What is neither a key of ours nor of the engine's, or no text, is the source's own. Raises BadSetting.
    """
    kinds = arguments.kinds()
    known = settings.OWN.keys() | RENAMED.keys() | TOLD.keys() | NOT_YET.keys() | ELSEWHERE.keys() | kinds.keys()
    ours = {name: text for name, text in given.items() if name in known and isinstance(text, str)}
    ours = _model_of(Path(given.get("model_dir", ""))) | ours
    others = {name: text for name, text in environment().items() if not name.startswith(OWN_PREFIXES)}
    return _read(ours, others, None, kinds, source)


def _model_of(folder: Path) -> dict[str, str]:
    return {"model_id": str(folder)} if is_model(folder) else {}


def _read(
    given: Mapping[str, str],
    variables: Mapping[str, str],
    properties: Path | None,
    kinds: Mapping[str, str],
    origin: str = "command line",
) -> Settings:
    defaults, gpus = arguments.defaults(), arguments.gpus()
    read = partial(settings.read, given, variables, properties, kinds, gpus=gpus, origin=origin)
    merged = read(engine_defaults=defaults)
    fitting = arguments.fitting(defaults, merged.engine)
    return merged if fitting == defaults else read(engine_defaults=fitting)
