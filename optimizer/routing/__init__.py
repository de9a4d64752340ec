"""Replica routing: which replica serves each token-expert pair. Must not know who made the placement, nor time."""
