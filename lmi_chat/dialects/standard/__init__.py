"""Read requests in LMI's standard schema and render their answers."""
