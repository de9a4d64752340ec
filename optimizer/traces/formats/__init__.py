"""Readers and writers, a file for each format of recorded routing. Must not know which batches are made of it."""
