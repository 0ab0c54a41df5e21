"""Read and write JSON texts, and frame payloads for the wire."""
