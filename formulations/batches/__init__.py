"""Models over recorded batches, each of them routed as well as can be. Knows no expected load."""
