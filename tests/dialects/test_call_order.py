"""Deltas of calls that come at once, in the order of their calls."""

import json
import random

from lmi_chat.dialects.call_order import CallOrder, part_key
from lmi_chat.job import CallPart, Delta, Finish


def piece(place: int, text: str = "", name: str = "") -> Delta:
    return Delta(0, text, [1], kind="call", call=CallPart(place, name and f"c{place}", name))


def test_pieces_in_any_order_are_call_after_call() -> None:
    """Nothing is lost or doubled, the finish comes last, and what came in order is told at once."""
    for seed in range(300):
        draw = random.Random(seed)
        texts = [json.dumps({"a": draw.choice(["}", "{", 7])}) for _ in range(draw.randrange(1, 4))]
        texts = [draw.choice([text, text[:3], ""]) for text in texts]
        queues = [[piece(place, name="f"), *(piece(place, one) for one in text)] for place, text in enumerate(texts)]
        given = []
        while any(queues):
            given.append(draw.choice([queue for queue in queues if queue]).pop(0))
        given.append(draw.choice([Delta(0, "", []), Delta(0, "end", [])]))
        given[-1].finish = Finish("stop")
        order = CallOrder()
        told = [each for delta in given for each in order.take(delta)]
        keys = [part_key(each) for each in told if each.call is not None]
        runs = [key for place, key in enumerate(keys) if place == 0 or keys[place - 1] != key]
        assert len(runs) == len(texts), seed
        for place, text in enumerate(texts):
            own = [each for each in told if each.call is not None and each.call.place == place]
            assert own[0].call is not None
            assert own[0].call.name == "f"
            assert "".join(each.text for each in own) == text
        assert [each.finish for each in told if each.finish] == [Finish("stop")]
        assert told[-1].finish == Finish("stop")
        assert "".join(each.text for each in told if each.call is None) == given[-1].text


def test_calls_in_their_order_do_not_wait() -> None:
    order = CallOrder()
    deltas = [piece(0, name="f"), *(piece(0, one) for one in '{"a":{}}'), piece(1, name="g"), piece(1, "{}")]
    assert [list(order.take(delta)) for delta in [Delta(0, "x", [1]), *deltas]] == [
        [delta] for delta in [Delta(0, "x", [1]), *deltas]
    ]
