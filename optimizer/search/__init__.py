"""Local searches for one layer: from placements and the loads of train batches to better placements, as an iterator.

This room must not know where batches come from, how many layers there are, which routing policies compete, or who shows
progress: it takes arrays, a budget and a random generator, and `planning` decides which search runs when.
"""
