"""Routing traces: reading, generating, and composing them into batches."""
