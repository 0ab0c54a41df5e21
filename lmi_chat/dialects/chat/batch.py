"""Parse several conversations of one request, which are answered in one document with a choice for each.

Shape: vLLM's `/v1/chat/completions/batch`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.chat import request as chat
from lmi_chat.dialects.chat.response import Whole
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField, Error, Problem
from lmi_chat.text import echo

ALONE: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("stream", "store", "use_beam_search"), (None, False)),
    **dict.fromkeys(("n", "num_return_sequences", "best_of"), (None, 1)),
    **dict.fromkeys(("tools", "functions", "prompt_logprobs"), (None,)),
    "parameters": (None, {}),
}
"""What only a single conversation may ask for, and the values that ask for nothing."""


def parse(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """Conversations → a job for each. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    problems = [
        Problem(name, f"{name} must be absent in a batch of conversations, got {echo(body[name])}")
        for name, nothing in ALONE.items()
        if name in body and not any(body[name] is one or body[name] == one for one in nothing)
    ]
    conversations, most = body.get("messages"), deployment.limits.max_prompts
    if not isinstance(conversations, list) or not all(isinstance(each, list) for each in conversations):
        problems.append(Problem("messages", f"messages must be an array of conversations, got {echo(conversations)}"))
    elif not 1 <= len(conversations) <= most:
        text = f"messages must have at least 1 and at most {most} conversations, got {len(conversations)}"
        problems.append(Problem("messages", text))
    if problems:
        raise BadField(problems)
    if deployment.media is not None:
        deployment = replace(deployment, media=deployment.media.of_request())  # its bounds are the request's
    first, *others = [_parse_one(place, body, deployment, request_id) for place in range(len(body["messages"]))]
    if isinstance(first.render, Whole):
        first.render.join(other.render for other in others if isinstance(other.render, Whole))
    first.jobs += tuple(other.job for other in others)
    first.unknown = list(dict.fromkeys(text for each in (first, *others) for text in each.unknown))
    return first


def _parse_one(place: int, body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """One conversation, whose errors name its place."""
    one = body | {"messages": body["messages"][place], "stream": False, "store": False}
    try:
        parsed = chat.parse(one, deployment, f"{request_id}-{place}" if place else request_id)
    except BadField as error:
        raise BadField([_placed(problem, place) for problem in error.problems]) from None
    except Error as error:
        if error.param == "messages":
            error.param = f"messages[{place}]"
            error.message = error.message.replace("messages", error.param, 1)
        raise
    parsed.unknown = [re.sub(r"\bmessages has\b", f"messages[{place}] has", text) for text in parsed.unknown]
    return parsed


def _placed(problem: Problem, place: int) -> Problem:
    """A problem with the conversation's place in its path."""
    if not problem.path.startswith("messages"):
        return problem
    path = f"messages[{place}]{problem.path.removeprefix('messages')}"
    return Problem(path, path + problem.text.removeprefix(problem.path))
