"""Count the units that an answer is billed by, and write the header in which AWS Marketplace reads them.

Source: AWS Marketplace seller guide, "Machine learning product pricing", inference pricing: the dimension
`inference.count`, whole positive numbers, on successful answers of `/invocations`.
"""

from typing import Literal

from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.pipeline.request import InferenceRequest

HEADER = "X-Amzn-Inference-Metering"
Unit = Literal["off", "inferences", "tokens"]


def meter(request: InferenceRequest, parsed: ParsedRequest, unit: Unit) -> None:
    """Note what the answer to `request` consumes, when it is complete or, where it streams, before it begins.

    That are its prompts, or the tokens of prompts and answer. A stream's tokens are not known when its head leaves.
    """
    if unit == "inferences":
        note(request, len(parsed.jobs))
    elif unit == "tokens" and not parsed.is_stream:
        note(request, request.record.prompt_tokens + request.record.completion_tokens)


def note(request: InferenceRequest, units: int) -> None:
    """Note `units` for the answer's head; an answer that consumes none has no such header."""
    if units:
        request.units = units
        request.headers[HEADER] = f'{{"Dimension":"inference.count","ConsumedUnits":{units}}}'
