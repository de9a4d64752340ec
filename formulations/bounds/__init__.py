"""Bounds that no placement goes below: peak loads, tiles, copies and hops. Knows no placement's search."""
