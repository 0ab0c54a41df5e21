"""Mark a function of a model.py as its output formatter: whoever loads the file looks for the attribute.

A formatter whose parameter is a RequestOutput or a TextGenerationOutput is called for every token, others with every
answer and every chunk of a stream.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from djl_python.request_io import RequestOutput, Sequence, TextGenerationOutput, TextInput, Token

Function = TypeVar("Function", bound=Callable[..., Any])


def output_formatter(function: Function) -> Function:
    """Have `function(response)` write what is answered."""
    function.is_output_formatter = True  # type: ignore[attr-defined]
    return function


__all__ = ["RequestOutput", "Sequence", "TextGenerationOutput", "TextInput", "Token", "output_formatter"]
