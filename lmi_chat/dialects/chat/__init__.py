"""Read chat requests and render chat completions."""
