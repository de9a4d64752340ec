"""Our plans beside those of other planners, and beside proven optima. This room does not know how results are shown."""
