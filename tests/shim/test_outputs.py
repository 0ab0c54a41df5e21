"""An Output by the documented names."""

import json

import numpy as np

from djl_python import Output


def test_an_output_takes_what_handlers_give() -> None:
    output = Output().add("é", key="text").add(b"raw").add({"a": np.float32(0.5)}).add_property("x", "y")
    assert [bytes(value) for value in output.content.values[:2]] == ["é".encode(), b"raw"]
    assert json.loads(output.content.value_at(2)) == {"a": 0.5}
    assert output.get_property("x") == "y"
    failed = Output().error("no", code=400)
    assert failed.code == 400
    assert json.loads(failed.content.value_at(0)) == {"code": 400, "message": "invoke handler failure", "error": "no"}
    assert Output().add("x", key="k", batch_index=1).content.key_at(0) == "batch_1.k"
    ended: list[int] = []
    Output().finalize(ended.append, 1).execute_finalize()
    assert ended == [1]
