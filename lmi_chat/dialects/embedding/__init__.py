"""Read embedding requests and render vectors."""
