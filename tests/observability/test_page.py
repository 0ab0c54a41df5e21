"""docs/observability.md has our metrics as the code declares them."""

from tests.support.metrics_page import PAGE, printed


def test_the_page_has_every_metric() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert printed(page) == page, "python -m tests.support.metrics_page"
    for name in ("lmi_chat_ttft_seconds", "lmi_chat_requests_total", "lmi_chat_traces_lost_total"):
        assert f"| `{name}` |" in page
