"""Planners that others have published, implemented anew from their descriptions, as rivals of our plan."""
