"""Serve chat models on Amazon SageMaker, on a laptop and inside DJL Serving, from one folder."""

__version__ = "0.1.0"
