"""Take the tokens of plain requests straight from the engine's messages to the response."""
