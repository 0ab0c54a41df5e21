"""What a request's headers say, for every surface alike."""

import pytest

from lmi_chat.pipeline.request import InferenceRequest, of_headers


def given(**headers: str) -> dict[bytes, str]:
    return {name.replace("_", "-").encode(): text for name, text in headers.items()}


def test_every_header_has_its_field() -> None:
    headers = given(
        content_type="application/json",
        content_encoding=" GZIP ",
        accept="text/plain",
        x_amzn_sagemaker_accept="text/event-stream",
        x_amzn_sagemaker_session_id=" s ",
        x_amzn_sagemaker_adapter_identifier=" a ",
        x_amzn_sagemaker_target_model="m",
    )
    call = of_headers(headers, body=b"x", route_shape="events", forced="chat")
    assert (call.content_type, call.content_encoding, call.accept) == ("application/json", "gzip", "text/event-stream")
    assert (call.session_id, call.adapter, call.target_model) == ("s", "a", "m")
    assert (call.body, call.route_shape, call.forced, call.record.id) == (b"x", "events", "chat", call.id)
    assert of_headers(given(accept="text/plain")).accept == "text/plain"


@pytest.mark.parametrize(
    ("named", "by_proxy", "expected"),
    [("mine/2 b", "p", "mine/2 b"), ("", "p", "p"), ("é", "p", "p"), (" ", "p", "p"), ("x" * 129, "p", "p")],
)
def test_the_callers_id_then_one_by_a_proxy(named: str, by_proxy: str, expected: str) -> None:
    headers = given(x_amzn_sagemaker_inference_id=named, x_request_id=by_proxy)
    assert of_headers(headers).id == expected


def test_without_an_id_each_request_has_its_own() -> None:
    ids = {of_headers(given(x_request_id=text)).id for text in ("", "é", "x" * 129)}
    assert [len(text) for text in ids] == [32] * 3


def test_what_a_body_becomes_counts_in_its_place_until_the_end() -> None:
    counted: list[int] = []
    request = InferenceRequest(body=b"body", id="1", on_body_freed=lambda: counted.append(-4), on_held=counted.append)
    request.hold(9)
    request.free_body()
    assert (request.body, counted) == (b"", [-4, 9])
