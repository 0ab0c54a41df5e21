"""Mark a function of a model.py by what it does there: whoever loads the file looks for the attribute."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def input_formatter(function: Function) -> Function:
    """Have `function(decoded_payload, tokenizer=…)` read every body."""
    function.is_input_formatter = True  # type: ignore[attr-defined]
    return function


def prediction_handler(function: Function) -> Function:
    """Mark the function that predicts, for DJL's handlers of scikit-learn and XGBoost models."""
    function.is_prediction_handler = True  # type: ignore[attr-defined]
    return function


def init_handler(function: Function) -> Function:
    """Mark the function that loads the model, for DJL's handlers of scikit-learn and XGBoost models."""
    function.is_init_handler = True  # type: ignore[attr-defined]
    return function
