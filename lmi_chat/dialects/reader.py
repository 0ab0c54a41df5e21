"""Read one body: collect its values, its problems and its unknown keys."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.body import Checker
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.foreign_names import hint
from lmi_chat.errors import PROBLEMS_MOST, BadField, Problem
from lmi_chat.text import echo, one_line

UNKNOWN_SHOWN = 8
NAME_BYTES = 40
PARAMETERS = "parameters"
NAME = re.compile(r"[.\[]")
"""Where the first name of a path ends."""


@dataclass(slots=True)
class BodyReader:
    """One body being read: collects what it gives and under which paths, what is wrong and what is unknown.

    `lifted`: its keys that stood in `parameters`. `unknown` has each unknown key's path and the path of the known key
    that it may have been meant for, or ""; `warnings` is what the answer's header says of the request, unknown keys
    included once it is finished.
    """

    deployment: Deployment
    prefix: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)
    lifted: frozenset[str] = frozenset()
    warnings: list[str] = field(default_factory=list)
    checker: Checker = field(init=False)

    def read(self, body: Json, kind: type) -> None:
        """Check the keys of `body` as those of a TypedDict; null is absent."""
        self.checker = checker = self.deployment.checkers[kind]
        values, wrong = checker.check(body)
        for name in body:  # in the order of the caller, which is that of the problems
            if (value := values.get(name)) is not None:
                place, is_sampling = checker.places[name]
                kept = self.given if is_sampling else self.extra
                if place not in kept:
                    kept[place], self.paths[place] = value, self._of(self.prefix + name)
                elif kept[place] != value:
                    text = f"and {self.paths[place]} say the same thing with different values; send one of them"
                    self.add_problem(self.prefix + name, text)
            elif name in wrong:
                self.add_problem(self.prefix + name, wrong[name])
        if not body.keys() <= checker.places.keys():
            self.check_keys(body, checker.places, self.prefix.removesuffix("."))

    def inside(self, name: str) -> "BodyReader":
        """A reader for the object that stands at `name`, whose problems and unknown keys are noted here."""
        return BodyReader(
            self.deployment, f"{self.prefix}{name}.", problems=self.problems, unknown=self.unknown, lifted=self.lifted
        )

    def read_inside(self, name: str, body: Json, kind: type) -> "BodyReader":
        """A reader that has read the object at `name` in `body`, if there is one, as a TypedDict."""
        value, inner = body.get(name), self.inside(name)
        if isinstance(value, dict):
            inner.read(value, kind)
        elif value is not None:
            self.add_problem(name, f"must be an object, got {echo(value)}")
        return inner

    def lift(self, body: Json, own: Collection[str]) -> Json:
        """The body with the fields that stand in its `parameters`, as in LMI's schema; those in `own` cannot."""
        given = body.get(PARAMETERS)
        if given is None:
            return body
        if not isinstance(given, dict):
            self.add_problem(PARAMETERS, f"must be an object, got {echo(given)}")
            return {name: value for name, value in body.items() if name != PARAMETERS}
        for name in given:
            if name in body and name not in own and given[name] != body[name]:
                text = f"and {name} say the same thing with different values; send one of them"
                self.add_problem(f"{PARAMETERS}.{one_line(name, NAME_BYTES)}", text)
        self.note_unknown((name for name in given if name in own), {}, f"{PARAMETERS}.")
        lifted = {name: value for name, value in given.items() if name not in body and name not in own}
        self.lifted = frozenset(lifted)
        return body | lifted

    def get(self, name: str) -> Any:
        """What was given for a field that is not sampling's, or its default."""
        return self.extra[name] if name in self.extra else self.checker.defaults[name]

    def check_keys(self, value: Mapping[str, object], known: Collection[str], path: str) -> None:
        """Note the keys of `value`, which stands at `path` ("": the body itself), that are not among `known`."""
        if others := [name for name in value if name not in known]:
            prefix = f"{path}." if path else ""
            self.note_unknown(others, {name: prefix + name for name in known}, prefix)

    def note_unknown(self, names: Iterable[str], known: Mapping[str, str], prefix: str) -> None:
        """Note unknown keys; `known` gives the paths of the names that they may have been meant for."""
        for name in islice(names, PROBLEMS_MOST - len(self.unknown)):
            has_hint = len(name) <= NAME_BYTES and len(self.unknown) < UNKNOWN_SHOWN
            near = hint(name, known) if has_hint else ""
            path = self._of(prefix + one_line(name, NAME_BYTES))
            self.unknown.append((path, self._of(known[near]) if near else ""))

    def _of(self, path: str) -> str:
        """The path in the caller's body, whose first key may have come out of `parameters`."""
        is_lifted = self.lifted and NAME.split(path, maxsplit=1)[0] in self.lifted
        return f"{PARAMETERS}.{path}" if is_lifted else path

    def add_problem(self, path: str, text: str) -> None:
        """Note a problem with one field."""
        path = self._of(path)
        self.problems.append(Problem(path, f"{path} {text}"))

    def warn_of_tools(self, told: Sequence[str]) -> None:
        """Warn of tools that are left out: the first ones by their sentences, the others by their number."""
        self.warnings += told[:UNKNOWN_SHOWN]
        if (more := len(told) - UNKNOWN_SHOWN) > 0:
            self.warnings.append(f"so are {more} more tools")

    def finish(self, *, is_strict: bool = False) -> list[str]:
        """Warn of unknown keys; with `is_strict` and in a strict deployment they are wrong. Gives the warnings.

        Where another key is wrong, an unknown one that it may have been meant by is named beside it. Raises BadField.
        """
        if self.unknown:
            wrong = {problem.path for problem in self.problems}
            for path, near in self.unknown:
                if is_strict or self.deployment.is_strict or near in wrong:
                    self.add_problem(path, f"is not a known key{_hint(near)}")
        if self.problems:
            raise BadField(self.problems)
        told = [f"{path} is ignored{_hint(near)}" for path, near in self.unknown[:UNKNOWN_SHOWN]]
        if (more := len(self.unknown) - UNKNOWN_SHOWN) > 0:
            least = "at least " if len(self.unknown) >= PROBLEMS_MOST else ""
            told.append(f"so are {least}{more} more")
        self.warnings[:0] = told
        return self.warnings


def _hint(near: str) -> str:
    return f"; did you mean {near}?" if near else ""
