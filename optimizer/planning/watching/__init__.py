"""A plan that follows its traffic: new traces are counted as they appear, and it is rebalanced where that pays."""
