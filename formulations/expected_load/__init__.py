"""Replica counts and placements with the least peak expected load of one layer. Must not know batches or mesh rows."""
