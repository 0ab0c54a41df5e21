"""Carry one connection: its bytes in, its frames out, its limits."""
