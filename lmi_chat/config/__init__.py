"""Collect settings from their sources, resolve their names and describe them."""
