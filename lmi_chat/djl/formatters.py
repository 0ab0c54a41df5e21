"""Marks on a model.py's own functions, and how they are found again."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
INPUT, OUTPUT = "is_input_formatter", "is_output_formatter"


def input_formatter(function: Function) -> Function:
    """Have `function(decoded_payload, tokenizer=…)` read every body."""
    setattr(function, INPUT, True)
    return function


def output_formatter(function: Function) -> Function:
    """Have `function(response)` write every answer, and every chunk of a stream."""
    setattr(function, OUTPUT, True)
    return function


def find(module: ModuleType, mark: str) -> Callable[..., Any] | None:
    """The first function of a module, by name, that carries a mark."""
    functions = (getattr(module, name) for name in dir(module))
    return next((each for each in functions if callable(each) and getattr(each, mark, False)), None)
