"""Generated traces: routing that looks like a real model's. Must not know who plans on it."""
