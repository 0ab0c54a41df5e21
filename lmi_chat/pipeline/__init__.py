"""Admit, parse and run requests, and turn their events into frames."""
