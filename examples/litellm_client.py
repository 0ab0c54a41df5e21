"""LiteLLM's two SageMaker providers against a running server, whole and streamed.

    pip install litellm boto3
    python examples/litellm_client.py --url http://localhost:8080

`sagemaker_chat/` sends messages, `sagemaker/` the `inputs` schema. Leave `sagemaker_base_url` and the keys out for an
endpoint on SageMaker. The body's `model` is the endpoint's name unless `hf_model_name` tells the served one.
"""

import argparse
from typing import Any

import litellm

KEYS = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "aws_region_name": "us-east-1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8080")
    parser.add_argument("--model", default="lmi", help="the name that the model is served under")
    given = parser.parse_args()
    door = f"{given.url}/endpoints/my-endpoint/invocations"
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": 16,
        **KEYS,
    }
    for provider, named in (("sagemaker_chat", {"hf_model_name": given.model}), ("sagemaker", {})):
        model = {"model": f"{provider}/my-endpoint", **named}
        whole = litellm.completion(**model, **asked, sagemaker_base_url=door)
        print(f"{provider}:", whole.choices[0].message.content.strip())
        stream = litellm.completion(**model, **asked, stream=True, sagemaker_base_url=f"{door}-response-stream")
        print(f"{provider}, streamed:", "|".join(chunk.choices[0].delta.content or "" for chunk in stream).strip())


if __name__ == "__main__":
    main()
