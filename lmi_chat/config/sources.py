"""Read each source of settings into RawSettings: a key as it was written, its text, and its origin."""

import json
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
COMMENT = re.compile(r"\s+#(\s.*)?$", re.DOTALL)
"""Of what people write behind a value; Java's properties have comments on lines of their own only."""
QUOTED = re.compile(r"\"([^\"]*)\"|'([^']*)'")
AS_WRITTEN = "chat_template"
LINE_END = re.compile(r"\r\n|\r|\n")
OWN_PREFIXES = ("OPTION_", "SERVING_")
MODEL_VARIABLES = ("OPTION_MODEL_ID", "SERVING_MODEL_ID", "HF_MODEL_ID", "SM_VLLM_MODEL")
LIKENESS = 0.9
SECRETS = ("token", "key", "password", "_pass", "secret")
HIDDEN = "(hidden)"
LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/@\s\"']+@", re.IGNORECASE)
"""Name and password in a URL."""


MODEL_FILES = ("config.json", "params.json")  # the second in Mistral AI's own format


def is_model(folder: Path) -> bool:
    """Whether a model is in this folder."""
    return any((folder / name).is_file() for name in MODEL_FILES)


class BadSetting(Exception):
    """Unknown keys or impossible values, which stop the start: one sentence, or a line for each."""


@dataclass(frozen=True, slots=True)
class RawSetting:
    """One key as a source gives it: its name there, its text, and its origin."""

    name: str
    text: str
    origin: str

    @property
    def shown(self) -> str:
        """The text for logs: short, on one line, and hidden where it is a secret."""
        return one_line(masked(self.name, self.text), 80)


@dataclass(frozen=True, slots=True)
class IgnoredSetting:
    """A given key that sets nothing, and why. `is_warning`: somebody may expect an effect."""

    given: RawSetting
    why: str
    is_warning: bool = False


def is_secret(name: str, text: str = "") -> bool:
    """Whether a value should stay unseen, by its key or, for the hub's tokens, by its form."""
    return name.lower().endswith(SECRETS) or text.startswith("hf_")


def masked(name: str, text: str) -> str:
    """Return a value as it may be shown: hidden where it is a secret, and where it is JSON or a URL, what of it is."""
    if is_secret(name, text):
        return HIDDEN
    shown = LOGIN.sub(rf"\1{HIDDEN}@", text)
    if shown.lstrip()[:1] in {"{", "["}:
        try:
            value = json.loads(shown)
        except (ValueError, RecursionError):
            # not read as JSON by who takes it either, but perhaps nearly
            return HIDDEN if any(word in shown.lower() for word in SECRETS) else shown
        hidden = _masked_inside(value)
        return shown if hidden == value else json.dumps(hidden, ensure_ascii=False)
    return shown


def _masked_inside(value: object) -> object:
    if isinstance(value, dict):
        return {name: HIDDEN if _holds_secret(name, one) else _masked_inside(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_masked_inside(one) for one in value]
    return masked("", value) if isinstance(value, str) else value


def _holds_secret(name: str, value: object) -> bool:
    """Whether a member is a secret; a number of tokens or a switch is none, whatever its name."""
    return is_secret(name) and not isinstance(value, bool | int | float | None)


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

    A comment behind a value and quotes around it are none of the value, with a note, too. Raises BadSetting.
    """
    last: dict[str, RawSetting] = {}
    again: list[IgnoredSetting] = []
    line = 1
    try:
        for element in javaproperties.parse(_text(path)):
            if isinstance(element, javaproperties.reading.KeyValue):
                name = element.key
                written = RawSetting(name.removeprefix("option."), element.value.strip(), f"{path}:{line}")
                given = _bare(written)
                if given != written:
                    again.append(IgnoredSetting(written, f"read as {given.shown}", is_warning=True))
                if name in last and last[name].text != given.text:
                    again.append(
                        IgnoredSetting(last[name], f"it stands again on line {line}, which counts", is_warning=True)
                    )
                last[name] = given
            line += len(LINE_END.findall(element.source))
    except ValueError as error:
        raise BadSetting(f"{path}:{line}: it cannot be read: {one_line(str(error), 200)}") from error
    return list(last.values()), again


def _bare(given: RawSetting) -> RawSetting:
    """Take a comment behind the value, or quotes around it, away. JSON and templates stay as they are."""
    if given.name == AS_WRITTEN or given.text[:1] in {"{", "["}:
        return given
    text = COMMENT.sub("", given.text)
    quoted = QUOTED.fullmatch(text)
    return RawSetting(given.name, (quoted[1] or quoted[2] or "") if quoted else text, given.origin)


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
