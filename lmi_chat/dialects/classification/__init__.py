"""Read requests to classify and render labels."""
