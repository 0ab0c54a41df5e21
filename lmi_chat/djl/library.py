"""Import `djl_python` when a handler runs: DJL Serving's own, elsewhere that of the distribution djl-serving.

Only then, so that all of lmi_chat but its handlers does without it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

NAME = "djl_python"
MISSING = (
    "djl_python is not installed: DJL Serving brings its own, elsewhere the distribution djl-serving has it"
    " (pip install ./shim in lmi-chat's folder)"
)


def load() -> "ModuleType":
    """Return the package, with Input, Output and PairList. Raises ModuleNotFoundError."""
    try:
        import djl_python
    except ModuleNotFoundError as error:
        if not is_missing(error):
            raise
        raise ModuleNotFoundError(MISSING, name=NAME) from error
    return djl_python


def request_io() -> "ModuleType":
    """Return its module of what per-token formatters read. Raises ModuleNotFoundError."""
    load()
    from djl_python import request_io as module

    return module


def is_missing(error: BaseException) -> bool:
    """Whether an import failed because there is no `djl_python` at all."""
    return isinstance(error, ModuleNotFoundError) and error.name == NAME


def is_unserved(error: BaseException) -> bool:
    """Whether an import failed because it names a part of `djl_python` that is not here."""
    return isinstance(error, ModuleNotFoundError) and (error.name or "").startswith(f"{NAME}.")
