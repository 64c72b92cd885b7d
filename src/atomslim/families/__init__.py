"""Families of models: each in one folder or file of its own."""
