"""From a plan that is in force to a better one, within a budget of expert weights that devices must load."""
