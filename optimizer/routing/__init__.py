"""Replica routing: which replica serves each token-expert pair."""
