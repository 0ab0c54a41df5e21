"""Mark a function of a model.py as its output formatter: whoever loads the file looks for the attribute."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def output_formatter(function: Function) -> Function:
    """Have `function(response)` write every answer, and every chunk of a stream."""
    function.is_output_formatter = True  # type: ignore[attr-defined]
    return function
