"""Heuristics beside proven optima: instances of growing size, families of objectives, methods, and rows of results."""
