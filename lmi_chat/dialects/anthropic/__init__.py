"""Read and answer requests in the form of Anthropic's Messages."""
