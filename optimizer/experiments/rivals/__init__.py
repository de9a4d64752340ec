"""Planners that others have published, re-implemented from their descriptions, to be compared with."""
