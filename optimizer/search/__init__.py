"""Local search over placements, on recorded batches."""
