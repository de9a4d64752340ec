"""The experiments: each step of optimisation on its own, on several data sets and layers."""
