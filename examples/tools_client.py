"""A tool called by LiteLLM, langchain and boto3 on a running server, whole and streamed.

    pip install litellm langchain-openai boto3
    python examples/tools_client.py --url http://localhost:8080 --model my-model

The model must be one that calls tools.
"""

import argparse
import json
from typing import Any

import boto3
import litellm
from langchain_openai import ChatOpenAI

KEYS = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "aws_region_name": "us-east-1"}
BOTO: Any = {"region_name": "us-east-1", "aws_access_key_id": "none", "aws_secret_access_key": "none"}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8080")
    parser.add_argument("--model", default="lmi", help="the name that the model is served under")
    parser.add_argument("--say", default="How is the weather in Paris?")
    given = parser.parse_args()
    told = [{"role": "user", "content": given.say}]
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=given.url,
        **BOTO,
    )
    base = f"{given.url}/endpoints/e/invocations"
    made = litellm.completion(
        model="sagemaker_chat/e",
        hf_model_name=given.model,
        messages=told,
        tools=[WEATHER],
        sagemaker_base_url=base,
        max_tokens=200,
        temperature=0,
        **KEYS,
    )
    for call in made.choices[0].message.tool_calls:
        print("litellm:", call.function.name, json.dumps(json.loads(call.function.arguments), ensure_ascii=False))
    parts = litellm.completion(
        model="sagemaker_chat/e",
        hf_model_name=given.model,
        messages=told,
        tools=[WEATHER],
        sagemaker_base_url=f"{base}-response-stream",
        max_tokens=200,
        temperature=0,
        stream=True,
        **KEYS,
    )
    name, arguments = "", ""
    for part in parts:
        for call in part.choices[0].delta.tool_calls or ():
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    print("litellm, streamed:", name, json.dumps(json.loads(arguments), ensure_ascii=False))
    chat = ChatOpenAI(base_url=f"{given.url}/v1", api_key="x", model=given.model, temperature=0, max_retries=0)
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
