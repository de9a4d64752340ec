"""Models over recorded batches, each of which is routed as well as can be. Must not know expected loads."""
