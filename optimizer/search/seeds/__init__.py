"""Constructions: the placements that searches start from and are compared with."""
