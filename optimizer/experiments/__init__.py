"""Our plans beside those of others, and beside proven optima. Must not know how results are shown."""
