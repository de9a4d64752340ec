"""Many layers in one plan: shared out to worker processes or a cluster, kept as they end, and put together."""
