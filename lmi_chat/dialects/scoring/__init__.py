"""Read requests to score and rank texts and render scores."""
