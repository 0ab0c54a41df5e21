"""What a reference points at."""

import pytest

from lmi_chat.codec.json_pointer import resolve


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("#/$defs/day/minimum", 1),
        ("#/$defs/none", None),
        ("other", None),
        (7, None),
        ("#/a~1b/1", 5),
        ("#/a~1b/9", None),
    ],
)
def test_pointers_are_followed(pointer: object, found: object) -> None:
    assert resolve({"$defs": {"day": {"minimum": 1}}, "a/b": [4, 5]}, pointer) == found
