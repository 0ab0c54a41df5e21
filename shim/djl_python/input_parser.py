"""Mark a function of a model.py as its input formatter: whoever loads the file looks for the attribute."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def input_formatter(function: Function) -> Function:
    """Have `function(decoded_payload, tokenizer=…)` read every body."""
    function.is_input_formatter = True  # type: ignore[attr-defined]
    return function
