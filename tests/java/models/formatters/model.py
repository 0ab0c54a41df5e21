"""An input and an output formatter as LMI documents them for vLLM: no handler, the deployment's own does the rest."""

from djl_python.input_parser import input_formatter
from djl_python.output_formatter import output_formatter


@input_formatter
def custom_input_formatter(decoded_payload: dict, tokenizer=None, **kwargs) -> dict:
    question = decoded_payload.pop("question")
    decoded_payload["inputs"] = f"Q: {question}\nA:"
    decoded_payload.setdefault("parameters", {})["max_new_tokens"] = 4
    decoded_payload["parameters"]["truncate"] = len(tokenizer.encode(question)) + 4
    return decoded_payload


@output_formatter
def custom_output_formatter(response_data: dict) -> dict:
    if response_data.get("generated_text") == "":
        raise ValueError("an empty answer")
    response_data["served_by"] = "custom formatter"
    return response_data
