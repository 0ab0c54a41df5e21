"""Decode an Input by its content type and encode a prediction into an Output, as LMI's handlers do."""

import csv
import io
from typing import Any

from djl_python.inputs import Input
from djl_python.outputs import Output

CSV_COLUMNS = frozenset({"question", "context", "inputs"})


def decode(inputs: Input, content_type: str | None, key: str | None = None) -> Any:
    """The body as its content type says; all but JSON and CSV becomes {"inputs": …}. Raises ValueError."""
    content_type = content_type or ""
    if not content_type and not inputs.get_as_bytes(key):
        return {"inputs": ""}
    match content_type.partition(";")[0].strip().lower():
        case "" | "application/json":
            return inputs.get_as_json(key)
        case "text/csv":
            return decode_csv(inputs, key)
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


def decode_csv(inputs: Input, key: str | None = None) -> dict[str, list[Any]]:
    """Rows under a header row that has one of the known columns. Raises ValueError."""
    rows = inputs.get_as_csv(key)
    if not rows or not CSV_COLUMNS & rows[0].keys():
        raise ValueError(f"a CSV body needs a header row with one of: {', '.join(sorted(CSV_COLUMNS))}")
    return {"inputs": [row["inputs"] for row in rows] if "inputs" in rows[0] else rows}


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
