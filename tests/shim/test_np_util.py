"""DJL's NDList."""

import io
from typing import Any

import numpy as np
import pytest

from djl_python.np_util import from_nd_list, to_nd_list
from tests.support.djl import given


def test_arrays_go_and_come_back() -> None:
    arrays: list[Any] = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, dtype=np.int64)]
    message = to_nd_list(arrays)
    assert bytes(message[:10]) == b"\x00\x00\x00\x02\x00\x04NDAR"
    for sent, got in zip(arrays, from_nd_list(bytes(message)), strict=True):
        assert got.dtype == sent.dtype
        np.testing.assert_array_equal(got, sent)
    file = io.BytesIO()
    np.savez(file, a=arrays[0])
    np.testing.assert_array_equal(given(file.getvalue()).get_as_npz()[0], arrays[0])
    for bad in (b"\x00\x00\x00\x01\x00\x04NOPE", bytes(message[:30])):
        with pytest.raises(ValueError, match="NDList"):
            from_nd_list(bad)
