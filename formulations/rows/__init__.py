"""Mesh rows and columns: which experts they get, and where inside a row. Knows no other row's devices by name."""
