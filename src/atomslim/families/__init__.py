"""Families of models: one folder or file for each."""
