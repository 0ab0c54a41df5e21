"""The console on the real engine: vLLM's own gaps and cache, and times that add up to what a request took."""

import json
import threading
import time
from typing import Any

from tests.real.conftest import Server

BODY = {"messages": [{"role": "user", "content": "Tell me a long story."}], "temperature": 0, "stream": True}


def get(server: Server, path: str) -> Any:
    status, _, data = server.request("GET", f"/console/api/{path}")
    assert status == 200
    return json.loads(data)


def test_streams_as_the_console_shows_them(server: Server) -> None:
    body = json.dumps(BODY | {"max_tokens": 120, "ignore_eos": True, "user": "of the console"}).encode()
    ask = [threading.Thread(target=server.request, args=("POST", "/v1/chat/completions", body)) for _ in range(4)]
    for one in ask:
        one.start()
    for one in ask:
        one.join()
    time.sleep(1.5)  # until the last second has its row
    series = get(server, "series?seconds=900")
    rows = [dict(zip(series["columns"], row, strict=True)) for row in series["rows"]]
    busy = [row for row in rows if row["tokens_per_s"]]
    assert any(row["kv_cache"] for row in busy)
    assert all(0 < row["gap_p50"] <= row["gap_p99"] for row in busy if row["gap_p50"] is not None)
    assert any(row["gap_p50"] for row in busy)
    assert any(row["ttft_p50"] for row in rows)
    found = get(server, "requests?user=of%20the%20console")["requests"]
    assert len(found) == 4
    for row in found:
        assert (row["status"], row["completion_tokens"], row["finish_reason"]) == (200, 120, "length")
        assert [span["name"] for span in row["spans"]] == [
            *("received", "parsed", "queued", "prefill", "decode"),
            *(["client"] if row["spans"][-1]["name"] == "client" else []),
        ]
        assert row["spans"][-1]["end_s"] == row["total_s"]
        assert 0 < row["ttft_s"] < row["total_s"]
        assert row["gap_p50_s"] * 119 <= row["total_s"] * 1.5
    now = get(server, "now")
    assert (now["state"], now["task"], now["vllm"]) == ("ready", "generate", "0.32.0")
    assert {phase["status"] for phase in now["phases"]} == {"done"}
    assert [row for row in get(server, "config")["rows"] if row["name"] == "console"] == [
        {"name": "console", "value": "true", "origin": "command line", "effect": None}
    ]
