"""Call a tool by LiteLLM and by langchain, unmodified; run in an environment of their own (test_tools.py)."""

import argparse
import json
from typing import Any

import boto3
import litellm
from langchain_openai import ChatOpenAI

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}


def main() -> None:
    """Print one line for each client and way."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--url", required=True)
    parser.add_argument("--say", required=True)
    given = parser.parse_args()
    told = [{"role": "user", "content": given.say}]
    runtime = boto3.client(
        "sagemaker-runtime",
        region_name="us-east-1",
        endpoint_url=given.url,
        aws_access_key_id="x",
        aws_secret_access_key="x",  # noqa: S106 nobody checks it
    )
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "aws_region_name": "us-east-1"}
    base = f"{given.url}/endpoints/e/invocations"
    made = litellm.completion(
        model="sagemaker_chat/e",
        hf_model_name="thinker",
        messages=told,
        tools=[WEATHER],
        sagemaker_base_url=base,
        max_tokens=200,
        temperature=0,
        **keys,
    )
    for call in made.choices[0].message.tool_calls:
        print("litellm:", call.function.name, json.dumps(json.loads(call.function.arguments), ensure_ascii=False))
    parts = litellm.completion(
        model="sagemaker_chat/e",
        hf_model_name="thinker",
        messages=told,
        tools=[WEATHER],
        sagemaker_base_url=f"{base}-response-stream",
        max_tokens=200,
        temperature=0,
        stream=True,
        **keys,
    )
    name, arguments = "", ""
    for part in parts:
        for call in part.choices[0].delta.tool_calls or ():
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    print("litellm, streamed:", name, json.dumps(json.loads(arguments), ensure_ascii=False))
    chat = ChatOpenAI(base_url=f"{given.url}/v1", api_key="x", model="thinker", temperature=0, max_retries=0)
    bound = chat.bind_tools([WEATHER])
    for call in bound.invoke(given.say).tool_calls:
        print("langchain:", call["name"], json.dumps(call["args"], ensure_ascii=False))
    whole = None
    for chunk in bound.stream(given.say):
        whole = chunk if whole is None else whole + chunk
    for call in whole.tool_calls if whole is not None else ():
        print("langchain, streamed:", call["name"], json.dumps(call["args"], ensure_ascii=False))
    body = json.dumps({"messages": told, "tools": [WEATHER], "stream": True, "max_tokens": 200, "temperature": 0})
    answer = runtime.invoke_endpoint_with_response_stream(EndpointName="e", Body=body, ContentType="application/json")
    lines = b"".join(event["PayloadPart"]["Bytes"] for event in answer["Body"]).splitlines()
    name, arguments = "", ""
    for line in lines:
        for choice in json.loads(line)["choices"]:
            for call in choice["delta"].get("tool_calls") or ():
                name += call["function"].get("name") or ""
                arguments += call["function"].get("arguments") or ""
    print("boto3, streamed:", name, json.dumps(json.loads(arguments), ensure_ascii=False))


if __name__ == "__main__":
    main()
