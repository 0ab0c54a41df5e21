"""Answer in the form of OpenAI's Responses."""
