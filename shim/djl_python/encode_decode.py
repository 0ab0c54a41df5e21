"""Decode an Input by its content type and encode a prediction into an Output, as LMI's handlers do."""

import csv
import io
from typing import Any

from djl_python.inputs import Input
from djl_python.outputs import Output

CSV_COLUMNS = ("question", "context", "inputs")


def decode(
    inputs: Input,
    content_type: str | None,
    key: str | None = None,
    require_csv_headers: bool = True,  # noqa: FBT001, FBT002 the signature that handlers call
) -> Any:
    """The body as its content type says; all but JSON and CSV becomes {"inputs": …}. Raises ValueError."""
    content_type = content_type or ""
    if not content_type and not inputs.get_as_bytes(key):
        return {"inputs": ""}
    match content_type.partition(";")[0].strip().lower():
        case "" | "application/json":
            return inputs.get_as_json(key)
        case "text/csv":
            return decode_csv(inputs, require_csv_headers, key)
        case "text/plain":
            return {"inputs": [inputs.get_as_string(key)]}
        case "tensor/npz":
            return {"inputs": inputs.get_as_npz(key)}
        case "tensor/ndlist" | "application/x-npy":
            return {"inputs": inputs.get_as_numpy(key)}
        case "application/x-www-form-urlencoded":
            return {"inputs": inputs.get_as_string(key)}
        case other:
            return {"inputs": inputs.get_as_image(key) if other.startswith("image/") else inputs.get_as_bytes(key)}


def decode_csv(
    inputs: Input,
    require_headers: bool = True,  # noqa: FBT001, FBT002 the signature that handlers call
    key: str | None = None,
) -> Any:
    """Rows under a header row that names one of the known columns, in any casing; without headers, an array of numbers.

    Raises ValueError for a header row without them, and for what is no number.
    """
    if not require_headers:
        return _numbers(inputs.get_as_string(key))
    rows = inputs.get_as_csv(key)
    head = inputs.get_as_string(key).partition("\n")[0].lower()
    if not rows or not any(column in head for column in CSV_COLUMNS):
        raise ValueError(f"a CSV body needs a header row with one of: {', '.join(CSV_COLUMNS)}")
    return {"inputs": [row["inputs"] for row in rows] if "inputs" in rows[0] else rows}


def _numbers(text: str) -> Any:
    """Lines of numbers → an array of them, of one dimension where there is one line or one column."""
    import numpy as np

    numbers = np.genfromtxt(io.StringIO(text), delimiter=",")
    if np.isnan(numbers).any():
        raise ValueError("a CSV body without a header row must hold numbers only")
    return numbers


def encode_csv(content: Any) -> str:
    """Rows as dicts → CSV with a header row."""
    rows = list(content)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def encode(outputs: Output, prediction: Any, content_type: str | None, key: str | None = None) -> None:
    """Put a prediction into an Output as JSON, CSV, npz or DJL's NDList."""
    match (content_type or "application/json").partition(";")[0].strip().lower():
        case "application/json":
            outputs.add_as_json(prediction, key).add_property("Content-Type", "application/json")
        case "text/csv":
            outputs.add_as_string(encode_csv(prediction), key).add_property("Content-Type", "text/csv")
        case "tensor/npz":
            outputs.add_as_npz(prediction, key).add_property("Content-Type", "tensor/npz")
        case _:
            outputs.add_as_numpy(prediction, key).add_property("Content-Type", "tensor/ndlist")
