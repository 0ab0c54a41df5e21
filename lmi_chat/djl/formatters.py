"""Find the formatters in a model.py, a model directory's or an adapter's, by the marks of `djl_python`."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from lmi_chat.config.sources import ENTRY
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.djl import custom_handler
from lmi_chat.djl.token_formatter import TokenFormatter, is_for_tokens

INPUT, OUTPUT = "is_input_formatter", "is_output_formatter"


def find(module: ModuleType, mark: str) -> Callable[..., Any] | None:
    """The first function of a module, by name, that carries a mark."""
    functions = (getattr(module, name) for name in dir(module))
    return next((each for each in functions if callable(each) and getattr(each, mark, False)), None)


def of_folder(folder: Path) -> Formatters:
    """The formatters of a folder's model.py, whatever the entry point is. Raises BadDirectory."""
    if not (folder / ENTRY).is_file():
        return Formatters()
    module = custom_handler.load(folder, ENTRY)
    return of_functions(find(module, INPUT), find(module, OUTPUT))


def of_functions(read: Callable[..., Any] | None, write: Callable[..., Any] | None) -> Formatters:
    """Formatters of a module's functions; how the output's is called, its parameter says."""
    if write is not None and is_for_tokens(write):
        return Formatters(read=read, tokens=TokenFormatter(write))
    return Formatters(read=read, write=write)


def of_adapter(folder: Path) -> Formatters:
    """The formatters of an adapter's model.py, in a module of its own for each version. Raises what its code does."""
    path = folder / ENTRY
    module = ModuleType(f"adapter_{folder.name}")
    module.__file__ = str(path)
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102 the operator's code, as model.py is
    return of_functions(find(module, INPUT), find(module, OUTPUT))


__all__ = ["ENTRY", "INPUT", "OUTPUT", "find", "of_adapter", "of_folder", "of_functions"]
