"""The judge: what happens to the tokens of recorded batches under a placement. Must not know who made the placement."""
