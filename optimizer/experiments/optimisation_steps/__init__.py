"""What each step of optimisation wins, measured on several data sets and layers."""
