"""Configurations and request bodies that are public, each taken as the server takes it; the data is not part of this.

The folder is $LMI_CHAT_PUBLIC_DATA, else shared/data/public beside the repository: configs.json has `data` (the
text of a serving.properties, or an environment) and a `verdict`, payloads.json has `payload` and the `status` that it
once got.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.config.aliases import RENAMED
from lmi_chat.config.settings import OWN, Settings
from lmi_chat.config.sources import BadSetting
from lmi_chat.dialects import Deployment
from lmi_chat.engine.vllm import arguments
from lmi_chat.errors import Error
from lmi_chat.server.configuration import configure
from lmi_chat.testing import deployment
from tests.support.fakes import parse

FOLDER = Path(os.environ.get("LMI_CHAT_PUBLIC_DATA") or Path(__file__).parents[3] / "shared" / "data" / "public")
KINDS = arguments.kinds()
pytestmark = [
    pytest.mark.skipif(not (FOLDER / "configs.json").is_file(), reason=f"no public data in {FOLDER}"),
    pytest.mark.skipif(not KINDS, reason="the engine, whose arguments these name, is not installed"),
]
ORIGIN = r"(DIR/serving\.properties:\d+|environment \w+|command line)( \(.*?\))?: "
ACTIONABLE = (
    r"\w+ is no key of lmi-chat or of the engine, got '.*'; the nearest known key is (?P<hint>\w+)",
    r"\w+ is no key of lmi-chat or of the engine, got '.*'; leave it out \(a handler of your own gets .*\)",
    r"\w+ must be (one of .+|a (whole )?number|at least .+|an address .+), got '.*'",
    r"\w+ is not possible, got '.*'; (?P<why>.{20,})",
    r"\w+ = .* and \w+ = .* are the same setting; keep one of them",
)
"""What a person can act on: the key, its value, where it stood, and what is right in its place."""


def published(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def start(data: Any, folder: Path) -> Settings:
    """Read the settings as `lmi-chat serve` does."""
    path = None
    if isinstance(data, str):
        path = folder / "serving.properties"
        path.write_text(data, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", data if isinstance(data, Mapping) else {})
        return configure({}, path)


def unfit(said: str) -> Iterator[str]:
    """The lines of a refusal that nobody can act on."""
    lines = said.splitlines()
    for line in lines[1:] or lines:
        found = next(filter(None, (re.fullmatch(ORIGIN + form, line.strip()) for form in ACTIONABLE)), None)
        hint = found and found.groupdict().get("hint")
        if not found or (hint and hint not in {*OWN, *KINDS, *RENAMED, "load_on_devices"}):
            yield line


def test_no_configuration_is_stopped_without_a_sentence_to_act_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "kinds", lambda: KINDS)
    unjustified, poor, stops = [], [], 0
    configs = published("configs.json")
    for each in configs:
        try:
            settings = start(each["data"], tmp_path)
        except BadSetting as error:
            said = str(error).replace(str(tmp_path), "DIR")
            stops += 1
            poor += [(each["source"], line) for line in unfit(said)]
            if each["verdict"] in {"starts", "unjustified"}:
                unjustified.append((each["source"], said))
        else:
            assert all(note.why for note in settings.notes)
    print(f"{len(configs)} configurations: {stops} stop, {len(unjustified)} unjustified, {len(poor)} poor sentences")
    assert not unjustified
    assert not poor


def test_every_payload_is_parsed_or_refused_by_an_error_of_ours() -> None:
    served = deployment(context_tokens=1 << 17)
    refused = [(each, error) for each in published("payloads.json") if (error := refusal(each["payload"], served))]
    assert all(error.status in {400, 404} for _, error in refused)
    assert all(error.message.splitlines() == [error.message] for _, error in refused)
    assert not [(each["source"], error.message) for each, error in refused if each["status"] == 200]


def refusal(payload: object, served: Deployment) -> Error | None:
    try:
        parse(payload, served)
    except Error as error:
        return error
    return None
