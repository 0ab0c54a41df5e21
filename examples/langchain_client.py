"""langchain-aws' SageMaker class against a running server, whole and streamed.

    pip install langchain-aws
    python examples/langchain_client.py --url http://localhost:8080

Leave `endpoint_url` and the keys out for an endpoint on SageMaker.
"""

import argparse
import json
from typing import Any

from langchain_aws.llms import SagemakerEndpoint
from langchain_aws.llms.sagemaker_endpoint import LLMContentHandler

KEYS: Any = {"region_name": "us-east-1", "aws_access_key_id": "none", "aws_secret_access_key": "none"}


class Standard(LLMContentHandler):
    """The `inputs` schema: a document when whole, a line per token when streamed."""

    content_type = "application/json"
    accepts = "application/jsonlines"

    def __init__(self, *, is_stream: bool) -> None:
        self._is_stream = is_stream

    def transform_input(self, prompt: str, model_kwargs: dict[str, Any]) -> bytes:
        body = {"inputs": prompt, "parameters": model_kwargs, "stream": self._is_stream}
        return json.dumps(body).encode()

    def transform_output(self, output: Any) -> str:
        if self._is_stream:  # one line
            return str(json.loads(output)["token"]["text"])
        return str(json.loads(output.read())["generated_text"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8080")
    url = parser.parse_args().url
    for is_stream in (False, True):
        endpoint = SagemakerEndpoint(
            endpoint_name="my-endpoint",
            endpoint_url=url,
            **KEYS,
            content_handler=Standard(is_stream=is_stream),
            model_kwargs={"max_new_tokens": 8, "do_sample": False},
            streaming=is_stream,
        )
        if is_stream:
            print("streamed:", "|".join(endpoint.stream("The capital of France is")))
        else:
            print("whole:", endpoint.invoke("The capital of France is"))


if __name__ == "__main__":
    main()
