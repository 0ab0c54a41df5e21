"""boto3 against a running server or an endpoint on SageMaker: whole, streamed, a session, asynchronous.

    pip install boto3
    python examples/boto3_client.py --url http://localhost:8080
    python examples/boto3_client.py --endpoint my-endpoint            # on SageMaker, with your credentials

With --async-folder FOLDER (the server's `async_folder`) it also sends an asynchronous request and waits for its file.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import EventStreamError

LOCAL = {"region_name": "us-east-1", "aws_access_key_id": "none", "aws_secret_access_key": "none"}


def body(text: str, **fields: Any) -> str:
    return json.dumps({"messages": [{"role": "user", "content": text}], "temperature": 0, **fields})


def text_of(document: bytes) -> str:
    return str(json.loads(document)["choices"][0]["message"]["content"])


def whole(runtime: Any, common: dict[str, str]) -> None:
    try:
        reply = runtime.invoke_endpoint(**common, Body=body("What is the capital of France?"))
    except runtime.exceptions.ModelError as error:
        raise SystemExit(f"{error.response['OriginalStatusCode']}: {error.response['OriginalMessage']}") from None
    print("whole:", text_of(reply["Body"].read()))


def streamed(runtime: Any, common: dict[str, str]) -> None:
    asked = body("What is the capital of France?", stream=True)
    reply = runtime.invoke_endpoint_with_response_stream(**common, Body=asked)
    print("streamed: ", end="")
    waiting = b""
    try:
        for event in reply["Body"]:  # on SageMaker a part may end in the middle of a line
            *lines, waiting = (waiting + event["PayloadPart"]["Bytes"]).split(b"\n")
            for line in lines:
                print(json.loads(line)["choices"][0]["delta"].get("content", ""), end="|", flush=True)
    except EventStreamError as error:
        print(f"\nbroken off: {error}")
    print()


def in_session(runtime: Any, common: dict[str, str]) -> None:
    opened = runtime.invoke_endpoint(**common, SessionId="NEW_SESSION", Body=json.dumps({"requestType": "NEW_SESSION"}))
    session = opened["NewSessionId"].partition(";")[0]
    for turn in ("My name is Ada.", "What is my name?"):
        reply = runtime.invoke_endpoint(**common, SessionId=session, Body=body(turn))
        print("session:", text_of(reply["Body"].read()))
    closed = runtime.invoke_endpoint(**common, SessionId=session, Body=json.dumps({"requestType": "CLOSE"}))
    print("session closed:", closed["ClosedSessionId"] == session)


def later(runtime: Any, common: dict[str, str], folder: Path) -> None:
    source = folder / "question.json"
    source.write_text(body("What is the capital of France?"))
    reply = runtime.invoke_endpoint_async(**common, InputLocation=source.resolve().as_uri())
    output, failure = (Path(reply[key].removeprefix("file://")) for key in ("OutputLocation", "FailureLocation"))
    while not (output.exists() or failure.exists()):
        time.sleep(0.1)
    print("asynchronous:", text_of(output.read_bytes()) if output.exists() else failure.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server's own address; without it, SageMaker's")
    parser.add_argument("--endpoint", default="my-endpoint")
    parser.add_argument("--async-folder", type=Path)
    given = parser.parse_args()
    local: dict[str, Any] = {"endpoint_url": given.url, **LOCAL} if given.url else {}
    runtime = boto3.client("sagemaker-runtime", **local)
    common = {"EndpointName": given.endpoint, "ContentType": "application/json"}
    whole(runtime, common)
    streamed(runtime, common)
    in_session(runtime, common)
    if given.async_folder:
        later(runtime, common, given.async_folder)
    runtime.close()


if __name__ == "__main__":
    main()
