"""Replica counts and placements for the least peak expected load of one layer. Knows no batch and no mesh row."""
