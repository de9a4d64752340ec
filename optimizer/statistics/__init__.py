"""What recorded routing says of loads, co-activation and drift of experts. Must not know placements or policies."""
