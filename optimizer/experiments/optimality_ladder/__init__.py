"""Heuristics against optima: a ladder of instances, families of questions, methods, and one row per run."""
