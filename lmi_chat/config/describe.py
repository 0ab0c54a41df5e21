"""Print settings as text and JSON, each value with its origin, and the tables of the documentation."""

import json
from collections.abc import Mapping

from lmi_chat.config.aliases import (
    ELSEWHERE,
    FAMILIES,
    NOT_YET,
    NOTED,
    NOTED_NOT_YET,
    REFUSED,
    RENAMED,
    TOLD,
    VALUES,
    WITHOUT_EFFECT,
)
from lmi_chat.config.settings import OWN, Settings
from lmi_chat.config.sources import IgnoredSetting, masked
from lmi_chat.text import one_line

SHOWN_BYTES = 200


def as_text(settings: Settings) -> str:
    """Print every value with its origin, in three columns, then what was given and sets nothing."""
    rows = [(name, _shown(value), origin) for name, value, origin in _values(settings)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for name, value, origin in rows]
    if settings.notes:
        lines += ["", "Accepted without effect:"]
    for note in settings.notes:
        lines.append(f"{note.given.name} = {note.given.shown}  {note.given.origin}: {note.why}")
    return "\n".join(lines)


def as_json(settings: Settings) -> str:
    """Print the same as one JSON document: `settings` and `without_effect`."""
    values = [{"key": name, "value": value, "origin": origin} for name, value, origin in _values(settings)]
    notes = [_described(note) for note in settings.notes]
    return json.dumps({"settings": values, "without_effect": notes}, indent=1, ensure_ascii=False)


def rows(settings: Settings) -> list[tuple[str, str, str, str | None]]:
    """Return the same as rows: name, value, origin, and why it has no effect if it has none."""
    values = [(name, _shown(value), origin, None) for name, value, origin in _values(settings)]
    return [*values, *((note.given.name, note.given.shown, note.given.origin, note.why) for note in settings.notes)]


def _described(note: IgnoredSetting) -> Mapping[str, object]:
    given = note.given
    return {
        "key": given.name,
        "value": given.shown,
        "origin": given.origin,
        "why": note.why,
        "is_warning": note.is_warning,
    }


def warnings(settings: Settings) -> list[str]:
    """Return a line for each given thing that somebody may expect to have an effect, and that has none."""
    return [
        f"{note.given.origin}: {note.given.name} = {note.given.shown}: {note.why}"
        for note in settings.notes
        if note.is_warning
    ]


def _values(settings: Settings) -> list[tuple[str, object, str]]:
    values = [*settings.values().items()]
    values += [(f"engine.{name}", text) for name, text in sorted(settings.engine.items())]
    return [
        (
            name,
            masked(name, value) if isinstance(value, str) else value,
            settings.origins.get(name.split(".")[-1], "default"),
        )
        for name, value in values
    ]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return one_line(str(value), SHOWN_BYTES) if value != "" else "-"


def table() -> str:
    """Write docs/configuration.md's table of keys, in Markdown."""
    also = {
        name: [other.variable for family in FAMILIES for other in family.names if other.key == name] for name in OWN
    }
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, row in OWN.items():
        default = _shown(row["default"])
        others = ", ".join(f"`{other}`" for other in also[name])
        meaning = row["description"] + (f" (also {others})" if others else "")
        lines.append(f"| `{name}` | {row['type']} | {default if default != '-' else ''} | {meaning} |")
    return "\n".join(lines)


def families() -> str:
    """Write docs/configuration.md's table of the sources, strongest first, in Markdown."""
    rows = [
        ("command line", "`--max-model-len 4096`", "every key"),
        ("environment", "`OPTION_MAX_MODEL_LEN=4096`, `SERVING_JOB_QUEUE_SIZE=100`", "every key"),
        ("`serving.properties`", "`option.max_model_len=4096`, `job_queue_size=100`", "every key"),
    ]
    for family in FAMILIES:
        names = ", ".join(f"`{name.variable}`" for name in family.names)
        rows.append((family.title, f"`{family.example}`", names or "every key of the engine and of vllm serve"))
    return "\n".join(["| source | such as | names |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def mapping() -> str:
    """Write docs/configuration.md's tables of other servers' names and what becomes of each, in Markdown."""
    named = [(f"`{name.variable}`", f"`{name.key}`") for family in FAMILIES for name in family.names]
    renamed = [(f"`{name}`", f"`{key}`") for name, key in RENAMED.items()]
    values = [
        (f"`{key}={one}`", f"`{other or '(not set)'}`") for key, names in VALUES.items() for one, other in names.items()
    ]
    return "\n\n".join(
        [
            _titled("Environment variables", ("variable", "key"), named),
            _titled("Other names of keys", ("name", "key"), renamed),
            _titled("Other names of values", ("given", "means"), values),
            _titled("Accepted without effect", ("names", "why"), _grouped(WITHOUT_EFFECT)),
            _titled("Accepted without effect: a line at the start", ("names", "why"), _grouped(TOLD)),
            _titled("Accepted, not served yet: a warning at the start", ("names", "what"), _grouped(NOT_YET)),
            _titled("Accepted, had elsewhere: a warning at the start", ("names", "where"), _grouped(ELSEWHERE)),
            _titled("Refused at the start", ("names", "why"), _grouped(REFUSED)),
            _titled("Environment variables without effect", ("names", "why"), _grouped(NOTED)),
            _titled("Environment variables, not served yet", ("names", "what"), _grouped(NOTED_NOT_YET)),
        ]
    )


def _grouped(reasons: Mapping[str, str]) -> list[tuple[str, str]]:
    groups: dict[str, list[str]] = {}
    for name, why in reasons.items():
        groups.setdefault(why, []).append(f"`{name}`")
    return [(", ".join(names), why) for why, names in groups.items()]


def _titled(title: str, head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, ("---", "---"), *rows)]
    return "\n".join([f"## {title}", "", *lines])
