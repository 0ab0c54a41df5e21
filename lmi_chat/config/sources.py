"""Read each source of settings into RawSettings: a key as it was written, its text, and its origin."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import javaproperties

from lmi_chat.config.aliases import FAMILIES, NOTED, NOTED_NOT_YET, OTHERS, AliasGroup
from lmi_chat.text import nearest, one_line

MODEL_FOLDER = Path("/opt/ml/model")
PROPERTIES = "serving.properties"
ENTRY = "model.py"
PROPERTIES_BYTES = 2**20
LINE_END = re.compile(r"\r\n|\r|\n")
OWN_PREFIXES = ("OPTION_", "SERVING_")
MODEL_VARIABLES = ("OPTION_MODEL_ID", "SERVING_MODEL_ID", "HF_MODEL_ID", "SM_VLLM_MODEL")
LIKENESS = 0.9
SECRETS = ("token", "key", "password", "_pass", "secret")
HIDDEN = "(hidden)"


class BadSetting(Exception):
    """An unknown key or an impossible value; one sentence, which stops the start."""


@dataclass(frozen=True, slots=True)
class RawSetting:
    """One key as a source gives it: its name there, its text, and its origin."""

    name: str
    text: str
    origin: str

    @property
    def shown(self) -> str:
        """The text for logs: short, on one line, and hidden where it is a secret."""
        return HIDDEN if is_secret(self.name, self.text) else one_line(self.text, 80)


@dataclass(frozen=True, slots=True)
class IgnoredSetting:
    """A given key that sets nothing, and why. `is_warning`: somebody may expect an effect."""

    given: RawSetting
    why: str
    is_warning: bool = False


def is_secret(name: str, text: str = "") -> bool:
    """Whether a value should stay unseen, by its key or, for the hub's tokens, by its form."""
    return name.lower().endswith(SECRETS) or text.startswith("hf_")


def find_properties(named: str, folder: str) -> Path | None:
    """Find the file to read: the named one, else the model folder's, else the working folder's. Raises BadSetting."""
    if named:
        path = Path(named)
        if not path.is_file():
            raise BadSetting(f"--properties: there is no file {one_line(named, 200)}")
        return path
    places = [Path(folder)] if folder and Path(folder).is_dir() else []
    return next((path / PROPERTIES for path in [*places, MODEL_FOLDER, Path()] if (path / PROPERTIES).is_file()), None)


def from_environment(environment: Mapping[str, str]) -> Iterator[RawSetting]:
    """Read `OPTION_X` and `SERVING_X`."""
    for variable, text in environment.items():
        if variable.startswith(OWN_PREFIXES):
            yield RawSetting(variable.partition("_")[2], text, _variable(variable))


def from_family(family: AliasGroup, environment: Mapping[str, str]) -> Iterator[RawSetting]:
    """Read a group's variables; empty ones set nothing, as in the other servers' entry points."""
    for name in family.names:
        text = name.read(environment.get(name.variable, "").strip())
        if text:
            yield RawSetting(name.key, text, _variable(name.variable))
    for variable, text in environment.items():
        if family.prefix and variable.startswith(family.prefix):
            # a variable without a value is a flag there
            yield RawSetting(variable.removeprefix(family.prefix), text.strip() or "true", _variable(variable))


def _variable(name: str) -> str:
    return f"environment {one_line(name, 80)}"


def from_properties(path: Path) -> tuple[list[RawSetting], list[IgnoredSetting]]:
    """Read the file's keys, each with its line. Of a key that stands twice the last counts, as in Java, with a note.

    Raises BadSetting.
    """
    last: dict[str, RawSetting] = {}
    again: list[IgnoredSetting] = []
    line = 1
    try:
        for element in javaproperties.parse(_text(path)):
            if isinstance(element, javaproperties.reading.KeyValue):
                name, text = element.key, element.value.strip()
                if name in last and last[name].text != text:
                    again.append(
                        IgnoredSetting(last[name], f"it stands again on line {line}, which counts", is_warning=True)
                    )
                last[name] = RawSetting(name.removeprefix("option."), text, f"{path}:{line}")
            line += len(LINE_END.findall(element.source))
    except ValueError as error:
        raise BadSetting(f"{path}:{line}: it cannot be read: {one_line(str(error), 200)}") from error
    return list(last.values()), again


def names_entry_point(path: Path) -> bool:
    """Whether the file names code to run. Raises BadSetting."""
    return any(given.name.lower() == "entrypoint" and given.text for given in from_properties(path)[0])


def _text(path: Path) -> str:
    """Read the file: UTF-8, with or without a byte order mark, of bounded size. Raises BadSetting."""
    try:
        with path.open("rb") as file:
            data = file.read(PROPERTIES_BYTES + 1)
    except OSError as error:
        raise BadSetting(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > PROPERTIES_BYTES:
        raise BadSetting(f"{path} is larger than {PROPERTIES_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadSetting(f"{path}:{line}: it is not UTF-8 (byte {data[error.start]:#04x})") from error


def notes(environment: Mapping[str, str]) -> Iterator[IgnoredSetting]:
    """List variables that other servers know and that set nothing here, and names that look like a slip."""
    known = {name.variable for family in FAMILIES for name in family.names}
    for variable, text in environment.items():
        given = RawSetting(variable, text, _variable(variable))
        if variable in NOTED:
            yield IgnoredSetting(given, NOTED[variable])
        elif variable in NOTED_NOT_YET:
            yield IgnoredSetting(given, f"{NOTED_NOT_YET[variable]}: not served by this version", is_warning=True)
        elif variable.startswith(OTHERS) and variable not in known:
            near = nearest(variable, frozenset(known), LIKENESS)
            if near:
                yield IgnoredSetting(given, f"not a name that is read here; {near} is", is_warning=True)


def environment() -> Mapping[str, str]:
    """Return the process's environment."""
    return os.environ
