"""Read requests for a model's own vectors and render their numbers."""
