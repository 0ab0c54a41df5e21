"""Take the text of answers apart into reasoning, content and calls of tools, with vLLM's parsers."""
