"""Read which adapters a request names: in SageMaker's header, in `adapters` or in `model`, and never as a path.

TGI's clients have `adapter_id` in `parameters`. `adapters` is one name, or a list of names as long as the prompts; what
is said twice must be the same. A request that names an adapter is never answered by the model alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.errors import BadField, ModelNotFound, NotFound, Problem
from lmi_chat.text import echo, one_line

HEADER = "X-Amzn-SageMaker-Adapter-Identifier"
SHOWN_CHARS = 256
PROMPTS = ("inputs", "prompt", "input")
NO_ADAPTER = frozenset({"None", "null"})
"""TGI's clients write these into `adapter_id` where they mean none."""


@dataclass(frozen=True, slots=True)
class NamedAdapters:
    """The adapters that a request names, at least one: by the field that names it first, and one for each prompt.

    `names` has one entry where all prompts have the same.
    """

    places: Mapping[str, str]
    names: tuple[str, ...]

    @property
    def shown(self) -> str:
        """All of them in one text, for the log, as far as it has room for them."""
        return one_line(",".join(dict.fromkeys(name for name in self.names if name)), SHOWN_CHARS)

    def seen_by(self, deployment: Deployment) -> Deployment:
        """Describe the deployment as its dialects see it: one adapter for all is the model that answers."""
        names = deployment.names | {*self.names}
        one = self.names[0] if len({*self.names}) == 1 else deployment.model
        return replace(deployment, model=one, names=names)

    def of_jobs(self, count: int) -> tuple[str, ...]:
        """Name the adapter of each of `count` jobs. Raises BadField."""
        if len(self.names) not in {1, count}:
            raise _miscounted(count, len(self.names))
        return self.names if len(self.names) == count else self.names * count

    def missing(self, name: str) -> NotFound:
        """The refusal for an adapter that is not there, at the place which names it."""
        return _missing(self.places[name], name)


def read(body: Json, header: str, deployment: Deployment) -> NamedAdapters | None:
    """Read the adapters that a body and the platform's header name; None for the model alone.

    Raises BadField where two disagree or the list does not fit, NotFound for an adapter that is not known.
    """
    model = body.get("model")
    knows, own = deployment.knows_adapter, _in_parameters(body)
    if not header and not own and "adapters" not in body and (knows is None or not model):
        return None
    listed = _listed(body)
    fixed = {"parameters.adapter_id": own} if own else {}
    if isinstance(model, str) and model and not deployment.serves(model):  # noqa: SIM102 mypy reads it so
        if header or own or any(listed.values()) or (knows is not None and knows(model)):
            fixed["model"] = model
    if header:
        fixed[HEADER] = header
    if not fixed and not any(listed.values()):
        return None
    asked = {**listed, **fixed}
    if fixed:
        _check_agreement(asked)
    places: dict[str, str] = {}
    for place, name in asked.items():
        places.setdefault(name, place)
        if name and (knows is None or not knows(name)):
            raise _missing(place, name)
    return NamedAdapters(places, tuple(listed.values()) or (*places,))


def first(body: Json, header: str, deployment: Deployment) -> str:
    """Name the adapter whose formatters a body is read by, before it is checked: the one that it names, or ""."""
    listed, model = body.get("adapters"), body.get("model")
    if isinstance(listed, list) and listed and all(name == listed[0] for name in listed):
        listed = listed[0]
    named = header or listed or _in_parameters(body)
    if not named and deployment.knows_adapter is not None and isinstance(model, str) and not deployment.serves(model):
        named = model
    return named if isinstance(named, str) else ""


def _in_parameters(body: Json) -> str:
    """TGI's own way to name one, beside `inputs`; a value of another type is its dialect's to refuse."""
    parameters = body.get("parameters")
    named = parameters.get("adapter_id") if isinstance(parameters, dict) and "inputs" in body else None
    return named if isinstance(named, str) and named not in NO_ADAPTER else ""


def _listed(body: Json) -> dict[str, str]:
    """The body's `adapters` by their paths, one for each prompt or one alone; none: empty. Raises BadField."""
    given = body.get("adapters")
    if given is None or given in ("", []):
        return {}
    if isinstance(given, str):
        return {"adapters": given}
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise BadField([Problem("adapters", f"adapters must be a name or an array of names, got {echo(given)}")])
    count = next((_count(body[key]) for key in PROMPTS if key in body), 1)
    if len(given) != count:
        raise _miscounted(count, len(given))
    return {f"adapters[{place}]": name for place, name in enumerate(given)}


def _count(prompts: object) -> int:
    """Count the prompts of a field: an array of token ids is one, as is one of messages."""
    is_many = isinstance(prompts, list) and prompts and isinstance(prompts[0], str | list)
    return len(prompts) if is_many and isinstance(prompts, list) else 1


def _check_agreement(asked: Mapping[str, str]) -> None:
    """Check that all that is asked for is the same. Raises BadField."""
    (place, name), *others = asked.items()
    for other, text in others:
        if text != name:
            says = f"{other} asks for {echo(text)} and {place} for {echo(name)}: one prompt has one adapter"
            raise BadField([Problem(other, says)])


def _miscounted(count: int, given: int) -> BadField:
    text = f"adapters must have one name for each of the {count} prompts, got {given}"
    return BadField([Problem("adapters", text)])


def _missing(place: str, name: str) -> NotFound:
    if place == "model":
        return ModelNotFound(f"model {echo(name)} is not served here, and no adapter has that name", param=place)
    return NotFound(f"adapter {echo(name)} is not loaded here", param=place)
