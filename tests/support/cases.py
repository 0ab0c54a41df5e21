"""Cases that schemathesis makes from the OpenAPI document, sent to a running server, and what each answer must keep to.

The document is simplified for the making only (what rules between fields cost there is minutes); answers are judged by
the whole of it.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jsonschema_rs
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.core.transport import Response

MODES = {"positive": GenerationMode.POSITIVE, "negative": GenerationMode.NEGATIVE}
MOST = {"maxItems": 8, "maxLength": 64, "maxProperties": 8}
LEFT_OUT = {"pattern", "default", "examples"}
LENGTHS = ("max_tokens", "max_completion_tokens", "max_new_tokens")
SHORT = dict.fromkeys(
    (*LENGTHS, "n", "best_of", "num_beams", "min_tokens", "min_length", "min_new_tokens", "num_return_sequences"), 2
)
ERROR_BYTES = 2048
ECHOED = re.compile(r'got ".*?"(?: \(\d+\))?(?=; |$)')
"""A text that an error repeats: it may have semicolons of its own."""
# What no schema says; each stands in the document in words.
UNSAID = (
    "is not served here",  # a model's name
    "refused by the model's chat template",
    "say the same thing",
    "must be at most ",
    "must be above the prompt's",
    "must be at least n = ",
    "ask for different forms",
    "asks for other whitespace",
    "must ask for no beam search",
    "must be a JSON Schema",
    "send one of them",
    "must be a string that is not empty",  # blanks alone are none
    "is stored here",
    "is kept here",  # a response to go on with
    "no responses are kept here",
    "has an output for call ",
    "must have an item that says something",
    "was not made there",  # a response to cancel
    "log-probabilities (the prompt's tokens",
    "is too complex",
    "allows no text",
    "is refused: ",  # a regex, schema or grammar, by the compiler
    "in a session",
    "is held in none",  # a message in Anthropic's form, in a session,
    "without the header",  # and what to do then
    "is unknown: it never began here",  # a session
    "and match ",  # a header, at SageMaker's own doors
    "is not loaded here",  # an adapter
    "one prompt has one adapter",
    "must have one name for each of the",
    "characters of visible ASCII",
    "LoRA is off",
    "was not found",  # an adapter
    "is given twice, with different values",
    "next_page_token must be an answer's nextPageToken",
    "the inference routes are ",  # a route named by a header
    "needs the session's id in the header",
    "together leave no token to choose",
    "must have at least 1 token, got",
    "with different values",
    "src must be given",
    "name must be 1 to 128",
    "must be one text, or as many as ",
    "(option.max_pooled_numbers)",
    "has token ",
    "must be the id of a tool_use block in an earlier message",
    "must be below max_tokens",
    "must be given with type tool",
    "needs include to have",
    "no call before it has that id",
    "no responses are kept here",
    "previous_response_id: no response ",
    "messages with the conversation before it",
    "must have a message that says something",
    "must have an item that says something",
    "the vocabulary ends at ",  # the other part of that sentence
    "must be absent without stream true",
    "needs tools, got",
    "needs tools, and tools has none that is called here",
    "must not name a tool that cannot be called here",
    "must be the name of a tool, got",  # one that a conversation adds or takes away
    "stands in more than one namespace",  # a tool's own name
    "must tokenize to at least one token",
    "has $ref ",  # a schema
    "say the same thing in two ways",  # tools and functions
    "names no tool of ",
    "must not have the name of another one",
)


def simplified(node: Any) -> Any:
    """The document as cases are made from it: short texts and arrays, no patterns, no rules between fields."""
    if isinstance(node, list):
        return [simplified(item) for item in node]
    if not isinstance(node, dict):
        return node
    shown = {name: value for name, value in node.items() if name not in LEFT_OUT or not isinstance(value, str | list)}
    shown |= {name: min(most, shown[name]) for name, most in MOST.items() if isinstance(shown.get(name), int)}
    if any("if" in rule for rule in shown.get("allOf", [])):
        del shown["allOf"]
    is_answer = "description" in node and "required" not in node
    return {name: simplified(value) for name, value in shown.items() if name != "content" or not is_answer}


def closed(node: Any) -> Any:
    """Schemas of answers without room for what they do not name."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    own = {} if "properties" not in node or node["properties"] == {} else {"additionalProperties": False}
    return own | {name: closed(value) for name, value in node.items()}


def whole_numbers(node: Any) -> Any:
    """4.0 as 4: to JSON Schema they are the same, here an integer has no fraction."""
    match node:
        case float() if node.is_integer() and abs(node) < 2**53:
            return int(node)
        case list():
            return [whole_numbers(item) for item in node]
        case dict():
            return {name: whole_numbers(value) for name, value in node.items()}
        case _:
            return node


def shortened(body: Any) -> Any:
    """The same request for fewer tokens and sequences; what is wrong with it stays wrong."""
    if not isinstance(body, dict):
        return body
    body = whole_numbers(body)
    for place in (body, body.get("parameters")):
        if isinstance(place, dict):
            place |= {name: 2 for name in SHORT if type(place.get(name)) is int and 2 < place[name] <= 16}
            place |= {name: 2 for name in LENGTHS if type(place.get(name)) is int and 2 < place[name] < 2**31}
    if body.keys() & {"messages", "prompt"} and not any(body.get(name) is not None for name in LENGTHS):
        body["max_tokens"] = 2
    most = body.get("max_output_tokens")  # a response's
    if "input" in body and (most is None or (type(most) is int and most > 2)):
        body["max_output_tokens"] = 2
    if "inputs" in body and isinstance(given := body.get("parameters") or {}, dict):
        absent = given.get("max_new_tokens") is None  # null would leave the length to max_length: thousands of tokens
        body["parameters"] = given | ({"max_new_tokens": 2} if absent else {})
    return body


def ask(url: str, path: str, mode: str, count: int, number: int) -> tuple[Counter[tuple[str, int]], list[str]]:
    """`count` cases of one operation, of that seed: their statuses, and what was wrong."""
    asker = Asker(url, number)
    asker.run(path, "POST", mode, count)
    return asker.statuses, asker.faults


@dataclass
class Asker:
    """Sends cases to the server at `url` and keeps count: of statuses by mode, and of what was wrong."""

    url: str
    seed: int = 1
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    _built: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def document(self) -> dict[str, Any]:
        """As the server shows it."""
        found: dict[str, Any] = requests.get(self.url + "/openapi.json", timeout=10).json()
        return found

    @cached_property
    def _closed_components(self) -> dict[str, Any]:
        return {"schemas": closed(self.document["components"]["schemas"])}

    def _checks(self, schema: dict[str, Any]) -> Any:
        """The validator of a schema with its components; each is built once, which takes longer than any check."""
        key = json.dumps(schema | {"components": None}) + str(id(schema["components"]))
        if key not in self._built:
            self._built[key] = jsonschema_rs.Draft202012Validator(schema)
        return self._built[key]

    @cached_property
    def _made_from(self) -> Any:
        return schemathesis.openapi.from_dict(simplified(self.document))

    def can_be_wrong(self, path: str, method: str) -> bool:
        """Whether there is anything about an operation's requests that a schema can forbid."""
        operation = self.document["paths"][path][method.lower()]
        return "requestBody" in operation or any(one["in"] == "query" for one in operation["parameters"])

    def run(self, path: str, method: str, mode: str, count: int) -> None:
        """`count` cases of one operation."""
        strategy = self._made_from[path][method].as_strategy(generation_mode=MODES[mode])
        session = requests.Session()

        @seed(self.seed)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def each(case: Any) -> None:
            self._tell(case)
            answer = case.call(base_url=self.url, session=session, timeout=180)
            self.statuses[mode, answer.status_code] += 1
            fault = self._fault(self.document["paths"][path][method.lower()], answer)
            if fault:
                self.faults.append(f"{method} {path} {answer.request.body!r:.600} → {answer.status_code} {fault}")

        with session:
            each()

    def _tell(self, case: Any) -> None:
        """A served model's name, no unknown session, few adapters, short answers; in half of the cases a right head."""
        case.body = shortened(case.body)
        names = self.document["components"]["schemas"]["ChatRequest"]["properties"]["model"]["examples"]
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = names[len(case.body["model"]) % len(names)]
        if "model" in case.path_parameters and len(str(case.path_parameters["model"])) % 2:
            case.path_parameters["model"] = names[-1]
        if len(str(case.body)) % 2:
            case.headers.clear()
            case.path_parameters |= {"name": "e"} if "name" in case.path_parameters else {}
        for name in list(case.headers):
            if "session-id" in name.lower():
                case.headers[name] = "NEW_SESSION"
            elif name.lower().endswith(("adapter-identifier", "target-model")) and len(str(case.body)) % 8:
                del case.headers[name]  # most of them name what is not here
        if isinstance(case.body, dict) and len(str(case.body)) % 8:
            case.body.pop("adapters", None)

    def _fault(self, operation: dict[str, Any], answer: Response) -> str:
        """What is wrong with an answer, or ""."""
        shown = operation["responses"].get(str(answer.status_code))
        if shown is None or answer.status_code >= 500:
            return f"is no status for this: {answer.text[:300]}"
        if answer.status_code >= 400 and len(answer.content) > ERROR_BYTES:
            return f"has {len(answer.content)} bytes"
        return self._wrong_head(shown, answer) or self._wrong_body(shown, answer) or self._wrongly(operation, answer)

    def _wrong_head(self, shown: dict[str, Any], answer: Response) -> str:
        told = {name.lower() for name in shown.get("headers", {})}
        own = {name for name in answer.headers if name.startswith("x-") or name in {"allow", "retry-after"}}
        unknown = own - told - {"x-accel-buffering"}
        return f"has headers that no document tells of: {unknown}" if unknown else ""

    def _wrong_body(self, shown: dict[str, Any], answer: Response) -> str:
        kind = answer.headers["content-type"][0].partition(";")[0]
        content = shown.get("content", {}).get(kind)
        if content is None:
            return f"is {kind}: {answer.text[:200]}"
        if kind not in {"application/json", "application/jsonlines", "text/event-stream"}:
            return ""
        texts = [answer.text]
        if kind == "application/jsonlines":
            texts = answer.text.splitlines()
        elif kind == "text/event-stream":
            texts = [event.removeprefix("data: ") for event in answer.text.split("\n\n") if event]
            texts = texts[:-1] if texts[-1:] == ["[DONE]"] else texts
        schema = content.get("x-item-schema") or content.get("schema") or {}
        checks = self._checks(closed(schema) | {"components": self._closed_components})
        wrong = next((text for text in texts if not checks.is_valid(json.loads(text))), None)
        return "" if wrong is None else f"breaks its schema: {wrong[:600]}"

    def _wrongly(self, operation: dict[str, Any], answer: Response) -> str:
        """Taken although the document forbids it, or refused although it does not."""
        asked, sent = operation.get("requestBody"), answer.request.body
        kind = answer.request.headers.get("content-type", "")
        if not asked or kind != "application/json" or not isinstance(sent, bytes):
            return ""
        schema = asked["content"][kind]["schema"] | {"components": self.document["components"]}
        checks = self._checks(schema)
        try:
            is_valid = checks.is_valid(json.loads(sent))
        except ValueError:
            is_valid = False
        if answer.status_code < 300:
            return "" if is_valid else "was taken although the document forbids it"
        is_valid = is_valid and checks.is_valid(lifted(json.loads(sent)))
        texts = ECHOED.sub("got …", message(answer.json())).split("; ")
        if any("is refused: " in text or "is too complex: " in text for text in texts):  # by a compiler, in its words
            return ""
        if b'"tool_definition"' in sent and any(text.startswith("tools cannot be served") for text in texts):
            return ""  # a tool that a conversation adds: only beside tool_choice none is it served without a parser
        if not is_valid or all(any(words in text for words in UNSAID) for text in texts):
            return ""
        return f"was refused although the document allows it: {texts}"


def lifted(body: Any) -> Any:
    """A chat or a completion with its `parameters` where they stand for the server: among its own fields."""
    own = body.get("parameters") if body.keys() & {"messages", "prompt"} else None
    return {**own, **body, "parameters": {}} if isinstance(own, dict) else body


def message(body: Any) -> str:
    """The sentence of an error, whichever shape it has."""
    if "OriginalMessage" in body:
        body = json.loads(body["OriginalMessage"])
    found: str = body.get("Message") or (body["error"] if isinstance(body["error"], str) else body["error"]["message"])
    return found
