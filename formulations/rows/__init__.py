"""Mesh rows and columns: which experts they get, and which device of a row. Must not know the devices of other rows."""
