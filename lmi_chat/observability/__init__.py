"""Record requests, and the progress of the start."""
