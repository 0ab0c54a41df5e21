"""Keep conversations and completions, within limits."""
