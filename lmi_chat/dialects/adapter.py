"""Check which adapter a request names: in SageMaker's header, in `adapters` or in `model`, and never as a path.

`adapters` is one name, or a list of names as long as `inputs`; what is said twice must be the same.
"""

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.errors import BadField, ModelNotFound, NotFound, Problem
from lmi_chat.text import echo

HEADER = "X-Amzn-SageMaker-Adapter-Identifier"


def check(body: Json, header: str, deployment: Deployment) -> None:
    """None is loaded here, so asking for one is an error, never the base model's answer.

    Raises BadField where two disagree or the list does not fit, NotFound for the adapter.
    """
    if not header and "adapters" not in body:
        return
    asked = _names(body)
    model = body.get("model")
    if isinstance(model, str) and model and not deployment.serves(model) and (header or any(asked)):
        asked["model"] = model
    if header:
        asked[HEADER] = header
    (place, name), *others = asked.items() or [("", "")]
    for other, text in others:
        if text != name:
            says = f"{other} asks for {echo(text)} and {place} for {echo(name)}: one request has one adapter"
            raise BadField([Problem(other, says)])
    if name:
        raise (ModelNotFound if place == "model" else NotFound)(f"adapter {echo(name)} is not loaded here", param=place)


def _names(body: Json) -> dict[str, str]:
    """The body's `adapters` by their paths. Raises BadField."""
    given = body.get("adapters")
    if given is None or given in ("", []):
        return {}
    if isinstance(given, str):
        return {"adapters": given}
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise BadField([Problem("adapters", f"adapters must be a name or an array of names, got {echo(given)}")])
    prompts = body.get("inputs")
    count = len(prompts) if isinstance(prompts, list) else 1
    if len(given) != count:
        raise BadField(
            [Problem("adapters", f"adapters must have one name for each of the {count} prompts, got {len(given)}")]
        )
    return {f"adapters[{place}]": name for place, name in enumerate(given) if name}
