"""Run jobs on vLLM; the only folder that imports it."""
