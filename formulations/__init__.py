"""Exact models: arrays in, `Outcome` out. Must not know traces, searches or files."""
