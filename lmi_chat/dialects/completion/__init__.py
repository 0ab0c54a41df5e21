"""Read completion requests and render their answers."""
