"""Exact models: arrays in, `Outcome` out. Nothing here knows of traces, searches or files."""
