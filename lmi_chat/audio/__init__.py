"""Decode recordings."""
