"""The parts of an Input or Output."""

import pytest

from djl_python import PairList


def test_pairs_keep_their_order() -> None:
    pairs = PairList(pair_map={"a": 1})
    pairs.add("b", 2)
    pairs.add(pair=("c", 3))
    pairs.add("first", 0, index=0)
    pairs.add("nothing", None)
    assert (pairs.get_keys(), pairs.get_values()) == (["first", "a", "b", "c"], [0, 1, 2, 3])
    assert (pairs.size(), pairs.get("b"), pairs.get("z"), PairList().is_empty()) == (4, 2, None, True)
    with pytest.raises(ValueError, match="2 keys"):
        PairList(["a", "b"], [1])
