"""Route and carry HTTP; the meaning of a request is decided in `pipeline` and `dialects`."""
