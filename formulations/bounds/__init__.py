"""Bounds that no placement goes below: peak loads, tiles, copies and hops. Must not know searches."""
