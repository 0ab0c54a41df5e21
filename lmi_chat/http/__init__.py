"""HTTP: routes and transport only. What a request means is decided in `flow` and `dialects`."""
