"""Start and end one server process."""
