"""The last requests: which are kept, what each tells, how they are found; scripted engine, real HTTP."""

import json
import tracemalloc
from itertools import pairwise

import pytest

from lmi_chat.console.recent import RecentRequests
from lmi_chat.job import Times
from lmi_chat.observability.record import RequestRecord
from tests.http.test_app import CHAT, post, send
from tests.support.console import get, requests, shown, timed
from tests.support.scripted import Scripted

NAMES = ["received", "parsed", "queued", "prefill", "decode", "client"]


def test_an_answer_and_a_stream() -> None:
    times = Times(queue_s=0.005, prefill_s=0.01, decode_s=0.02)  # of the 45 ms and more that it takes
    with shown(Scripted(timed("abc", times, gap_s=0.015))) as service:
        named = {"content-type": "application/json", "x-amzn-sagemaker-inference-id": "mine"}
        assert post(service, CHAT | {"user": "bob"}, headers=named)[0] == 200
        assert post(service, CHAT | {"stream": True}, path="/v1/chat/completions")[0] == 200
        stream, whole = requests(service)
    assert (whole["id"], whole["inference_id"], whole["user"], whole["stream"]) == ("mine", "mine", "bob", False)
    assert (whole["dialect"], whole["status"], whole["error"], whole["message"]) == ("chat", 200, None, None)
    assert (whole["finish_reason"], whole["completion_tokens"]) == ("stop", 3)
    assert whole["prompt_tokens"] > 0
    assert (stream["inference_id"], stream["stream"], stream["user"]) == (None, True, None)
    for row in (whole, stream):
        assert 0.015 < row["ttft_s"] < row["total_s"]
        assert (row["gap_p50_s"], row["gap_max_s"]) == (0.01, None)
        spans = row["spans"]
        assert [span["name"] for span in spans] == NAMES
        of = {span["name"]: span["end_s"] - span["start_s"] for span in spans}
        assert (round(of["prefill"], 5), round(of["decode"], 5)) == (0.01, 0.02)
        assert of["queued"] >= 0.005
        assert spans[0]["start_s"] == 0
        assert all(one["end_s"] == after["start_s"] for one, after in pairwise(spans))
        assert spans[-1]["end_s"] == row["total_s"]


def test_what_was_refused_and_why() -> None:
    with shown() as service:
        post(service, CHAT | {"temperature": 9})
        send(service, b"{")
        bad, wrong = requests(service)
    assert (wrong["status"], wrong["error"], wrong["dialect"]) == (400, "bad_field", "chat")
    assert "temperature" in wrong["message"]
    assert (bad["status"], bad["error"]) == (400, "bad_json")
    assert [span["name"] for span in wrong["spans"]] in (["received", "parsed"], ["parsed"])


def test_nothing_of_a_prompt_is_kept() -> None:
    with shown() as service:
        secret = "a word of nobody's business"
        post(service, {"messages": secret})
        post(service, {"messages": [{"role": secret, "content": "hi"}]})
        post(service, {"messages": [{"role": "user", "content": secret}], "stop": secret})
        post(service, {"prompt": secret, "temperature": secret})
        post(service, {"prompt": [secret, 5]})
        post(service, {"inputs": secret, "parameters": {"stop": [secret, 7]}})
        assert len(requests(service)) == 6
        assert "nobody" not in json.dumps(get(service, "requests"))
        assert "temperature" in requests(service)[2]["message"]
        post(service, CHAT | {"model": "another"})
        assert 'model "another" is not served here' in requests(service)[0]["message"]


def test_the_oldest_go_first() -> None:
    with shown(most=3) as service:
        for number in range(5):
            post(service, CHAT, headers={"content-type": "application/json", "x-request-id": f"r{number}"})
        answer = get(service, "requests")
        assert (answer["kept"], answer["most"]) == (3, 3)
        assert [row["id"] for row in answer["requests"]] == ["r4", "r3", "r2"]
        assert [row["id"] for row in requests(service, "limit=1")] == ["r4"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["c", "b", "a"]),
        ("id=b", ["b"]),
        ("user=bob", ["b", "a"]),
        ("status=400", ["c"]),
        ("status=2xx", ["b", "a"]),
        ("user=bob&id=a", ["a"]),
        ("adapter=none", []),
    ],
)
def test_they_are_found_by_their_fields(query: str, found: list[str]) -> None:
    with shown() as service:
        for name, more in (("a", {"user": "bob"}), ("b", {"user": "bob jr"}), ("c", {"top_p": 7})):
            headers = {"content-type": "application/json", "x-request-id": name}
            post(service, CHAT | more, headers=headers)
        assert [row["id"] for row in requests(service, query)] == found


def test_their_memory_is_bounded() -> None:
    """The most that may be kept, each with all of its texts as long as they may be."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = RecentRequests(4000)
    for number in range(4100):
        record = RequestRecord(id=f"{number:0128}", user="ü" * 500, adapter="ä" * 500, owner="ö" * 500)
        record.status, record.error, record.message = 400, "bad_field", f'{number} is "wrong" ' + "x" * 5000
        record.received_s, record.parsed_s, record.seated_s = 0.1, 0.2, 0.3
        record.ttft_s, record.prefill_s, record.decode_s = 0.9, 0.5, 2.0
        kept.add(record, 4.0, (0.1, 0.2))
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(kept) == 4000
    assert used < 16 * 2**20
    print(f"{used / 2**20:.1f} MiB for 4000 requests")
