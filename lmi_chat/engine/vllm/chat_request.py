"""Build the ChatCompletionRequest that the parsers of vLLM read; it is imported inside the function, see engine.py."""

from typing import Any

from lmi_chat.engine.vllm import tool_schema
from lmi_chat.job import ParsingParams, Tool


def chat_request(parsing: ParsingParams) -> Any:
    """Build the request of which parsers read tools, tool_choice, parallel_tool_calls, messages and include_reasoning.

    The messages are not checked again: the dialect has done it. Each call builds new tools, which parsers may change.
    """
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    choice: Any = {"type": "function", "function": {"name": parsing.named}}
    request = ChatCompletionRequest(
        messages=[],
        tools=[_tool(tool) for tool in parsing.tools] or None,
        tool_choice=choice if parsing.choice == "named" else parsing.choice if parsing.tools else None,
        parallel_tool_calls=parsing.is_parallel,
        include_reasoning=parsing.shows_reasoning,
        chat_template_kwargs=dict(parsing.variables) or None,
    )
    request.messages = list(parsing.messages)
    return request


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = tool_schema.explicit(tool.parameters or {"type": "object"})
    function = {"name": tool.name, "description": tool.description, "strict": tool.is_strict, "parameters": parameters}
    return {"type": "function", "function": function}
