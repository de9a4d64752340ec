"""From batches to a judged plan: seeds, searches, choice, bounds, the plan file. Must not know who asked for it."""
