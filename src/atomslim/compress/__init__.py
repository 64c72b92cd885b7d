"""Compression: make a model smaller, and say what was done to it."""
