"""Constructions: from a problem to a placement in one go, as starts of searches and to compare them with.

This room must not know that searches exist: a construction takes a problem and, at most, train batches and a seed.
"""
