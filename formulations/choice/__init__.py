"""Choices among finished plans: over data sets, and of replicas over layers. Must not know placements."""
